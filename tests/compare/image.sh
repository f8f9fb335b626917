#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Owns target/vm/compare/image.ext4: a disk with Debian bookworm's own tracers,
# BCC, libbpf-tools and bpftrace, and the headers of the cached 6.1 kernel, which
# BCC compiles against. Takes mirror and signatures from the apt state that
# tests/vm/kernels.sh keeps; does not boot anything (run.sh does).
#
# Usage: tests/compare/image.sh
#
# Builds only if the kernel or this file has changed.
set -euo pipefail

readonly SUITE=bookworm KERNEL=6.1
# bpftrace's tcpconnect.bt includes a header of libc6-dev.
# BCC's -d wants two more packages of Python.
readonly PACKAGES=bpfcc-tools,python3-dnslib,python3-cachetools,libbpf-tools,bpftrace,libc6-dev,bpftool

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
readonly VM=$ROOT/target/vm
readonly OUT=$VM/compare

die() {
	echo "image.sh: $*" >&2
	exit 1
}

# The apt state of kernels.sh: main and security suites of many releases.
apt_get() {
	apt-get -c "$VM/apt/apt.conf" -qq "$@"
}

build() {
	local work=$1 release=$2 version=$3

	mkdir "$work/deb" "$work/root"
	(
		cd "$work/deb"
		apt_get download "linux-headers-$release=$version" \
			"linux-headers-${release%-cloud-amd64}-common=$version" >&2
	) || die "no headers of $release $version: run tests/vm/kernels.sh --force"
	grep -E " $SUITE(-security)? " "$VM/apt/sources.list" >"$work/sources.list" ||
		die "$SUITE is not on the mirror"

	# The headers need a compiler only to build modules with: BCC brings its own.
	mmdebstrap --quiet --variant=minbase --include="$PACKAGES" \
		--aptopt='Acquire::Languages "none"' \
		--dpkgopt='path-exclude=/usr/share/doc/*' \
		--dpkgopt='path-exclude=/usr/share/locale/*' \
		--customize-hook="copy-in '$work/deb' /" \
		--customize-hook='chroot "$1" sh -c "dpkg --force-depends --unpack /deb/*.deb && rm -r /deb"' \
		--format=tar "$SUITE" "$work/root.tar" - <"$work/sources.list" >&2
	tar -x -C "$work/root" --exclude=./dev/* -f "$work/root.tar"
	/sbin/mke2fs -q -t ext4 -O ^has_journal -d "$work/root" "$work/image" \
		"$(($(du -sm "$work/root" | cut -f 1) * 5 / 4 + 64))M"
	mv "$work/image" "$OUT/image.ext4"
}

main() {
	local release version stamp work

	(($# == 0)) || die "usage: image.sh"
	[[ -s $VM/apt/sources.list ]] || die "run tests/vm/kernels.sh first"
	version=$(cat "$VM/kernels/$KERNEL/version")
	release=$(basename "$VM/kernels/$KERNEL"/lib/modules/*)
	stamp="$version $(sha256sum <"${BASH_SOURCE[0]}")"
	mkdir -p "$OUT"
	exec 9>"$OUT/lock"
	flock 9
	[[ ! -s $OUT/image.ext4 || $(cat "$OUT/stamp" 2>/dev/null) != "$stamp" ]] || return 0
	work=$(mktemp -d "$OUT/build.XXXXXX")
	# shellcheck disable=SC2064
	trap "rm -rf '$work'" EXIT
	echo "image.sh: building the peers' image, once" >&2
	build "$work" "$release" "$version"
	echo "$stamp" >"$OUT/stamp"
}

main "$@"
