#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Makes an image for containers of one static file: an OCI layout in a tar
# archive, which podman and the like read, with the list that docker's own form
# has, so that `docker load` of any version reads it, too. Needs no daemon, and
# gives the same bytes for the same file.
#
# Usage: packaging/image.sh PROGRAM VERSION EPOCH OUT.tar
set -euo pipefail

readonly PROGRAM=$1 VERSION=$2 EPOCH=$3 OUT=$4

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
blobs=$work/image/blobs/sha256
mkdir -p "$blobs" "$work/root"

archive() {
	tar --sort=name --mtime="@$EPOCH" --owner=0 --group=0 --numeric-owner --format=gnu -c "$@"
}

digest() {
	sha256sum "$1" | cut -d ' ' -f 1
}

# As a blob; prints what refers to it.
add() {
	local hash

	hash=$(digest "$2")
	mv "$2" "$blobs/$hash"
	printf '{"mediaType":"%s","digest":"sha256:%s","size":%d}' "$1" "$hash" "$(stat -c %s "$blobs/$hash")"
}

install -m 755 "$PROGRAM" "$work/root/tcpconnect"
archive -f "$work/layer" -C "$work/root" tcpconnect
layer=$(digest "$work/layer")
created=$(date -u -d "@$EPOCH" +%FT%TZ)
architecture=$(dpkg --print-architecture)
cat >"$work/config" <<JSON
{"created":"$created","architecture":"$architecture","os":"linux","config":{"Entrypoint":["/tcpconnect"],"Labels":{"org.opencontainers.image.title":"tcpconnect","org.opencontainers.image.version":"$VERSION","org.opencontainers.image.licenses":"Apache-2.0 AND (GPL-2.0-only OR BSD-2-Clause)"}},"rootfs":{"type":"layers","diff_ids":["sha256:$layer"]},"history":[{"created":"$created","created_by":"packaging/image.sh"}]}
JSON
config=$(digest "$work/config")
config_entry=$(add application/vnd.oci.image.config.v1+json "$work/config")
layer_entry=$(add application/vnd.oci.image.layer.v1.tar "$work/layer")
cat >"$work/manifest" <<JSON
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":$config_entry,"layers":[$layer_entry]}
JSON
manifest_entry=$(add application/vnd.oci.image.manifest.v1+json "$work/manifest")
cat >"$work/image/index.json" <<JSON
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[${manifest_entry%\}},"annotations":{"io.containerd.image.name":"docker.io/library/tcpconnect:$VERSION","org.opencontainers.image.ref.name":"$VERSION"}}]}
JSON
echo '{"imageLayoutVersion":"1.0.0"}' >"$work/image/oci-layout"
cat >"$work/image/manifest.json" <<JSON
[{"Config":"blobs/sha256/$config","RepoTags":["tcpconnect:$VERSION"],"Layers":["blobs/sha256/$layer"]}]
JSON
archive -f "$OUT" -C "$work/image" blobs index.json manifest.json oci-layout
