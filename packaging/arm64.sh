#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Runs a command in a root of Debian sid that compiles for arm64, as the owner of
# this folder, which is /tcpconnect there. Owns target/vm/arm64/cross, that root,
# and target/vm/arm64/guest, programs and libraries of the same day for arm64,
# which nothing here runs. Without a command it makes these two alone.
#
# Usage: packaging/arm64.sh CARGO_HOME [COMMAND...]
#
# Sid, for it alone has a Rust that is new enough, with its library for arm64.
# Crates come from CARGO_HOME, where `cargo fetch` has put them: the command has
# no network. Both roots stay for a month.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly VM=$ROOT/target/vm/arm64 CRATES=$1 MAX_AGE_DAYS=30
readonly COMPILERS=(rustc cargo gcc libc6-dev make clang pkgconf libelf-dev zlib1g-dev libzstd-dev gcc-aarch64-linux-gnu)
readonly LIBRARIES=(libstd-rust-dev libc6-dev libelf-dev zlib1g-dev libzstd-dev musl-dev)
readonly TOOLS=(busybox-static libgcc-s1 bpftool util-linux iproute2 curl dnsmasq-base bind9-dnsutils)
shift

# Root $1 of variant $2 for architectures $3, with these packages.
make_root() {
	local name=$1 variant=$2 architectures=$3

	shift 3
	rm -rf "${VM:?}/$name"
	grep ' sid ' "$VM/apt/sources.list" | sed "s/arch=arm64/arch=$architectures/" |
		mmdebstrap --quiet --variant="$variant" --architectures="$architectures" \
			--aptopt="$(apt-config dump Acquire::Check-Valid-Until)" --aptopt='Acquire::Languages "none"' \
			--include="$(echo "$*" | tr ' ' ,)" --format=directory sid "$VM/$name" - >&2
}

# Linked statically, libelf from 0.189 on wants zstd, which libbpf does not name, and from 0.196 on it
# has a function of the name of one of zlib's.
make_libelf() {
	local lib=/usr/lib/$1 made=/usr/local/lib/$1

	mkdir -p "$VM/cross$made"
	printf '%s\n' "create $made/libelf.a" "addlib $lib/libelf.a" "addlib $lib/libzstd.a" save end |
		chroot "$VM/cross" "$1-ar" -M
	chroot "$VM/cross" "$1-objcopy" --redefine-sym crc32=libelf_crc32 "$made/libelf.a"
}

make_roots() {
	local triple

	[[ -z $(find "$VM/roots-are-made" -mtime "-$MAX_AGE_DAYS" 2>/dev/null) ]] || return 0
	echo "arm64.sh: building roots of sid, once" >&2
	VM_ARCH=arm64 "$ROOT/tests/vm/kernels.sh" >/dev/null
	make_root cross minbase amd64,arm64 "${COMPILERS[@]}" "${LIBRARIES[@]/%/:arm64}"
	for triple in x86_64-linux-gnu aarch64-linux-gnu; do
		make_libelf "$triple"
	done
	make_root guest extract arm64 "${TOOLS[@]}"
	touch "$VM/roots-are-made"
}

mkdir -p "$VM"
exec 9>"$VM/roots.lock"
flock 9
make_roots
exec 9>&-
(($#)) || exit 0
# shellcheck disable=SC2016
exec unshare --mount --pid --net --fork --kill-child -- bash -ec '
	root=$1 project=$2 crates=$3
	shift 3
	mkdir -p "$root/tcpconnect" "$root/cargo"
	mount -t proc proc "$root/proc"
	mount --rbind /dev "$root/dev"
	mount --bind "$project" "$root/tcpconnect"
	mount --bind "$crates" "$root/cargo"
	exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp CARGO_HOME=/cargo CARGO_NET_OFFLINE=true \
		CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
		LIBBPF_SYS_LIBRARY_PATH_x86_64_unknown_linux_gnu=/usr/local/lib/x86_64-linux-gnu:/usr/lib/x86_64-linux-gnu \
		LIBBPF_SYS_LIBRARY_PATH_aarch64_unknown_linux_gnu=/usr/local/lib/aarch64-linux-gnu:/usr/lib/aarch64-linux-gnu \
		CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc \
		chroot --userspec="$(stat -c %u:%g "$project")" "$root" /bin/sh -c "cd /tcpconnect && exec \"\$@\"" - "$@"
' - "$VM/cross" "$ROOT" "$CRATES" "$@"
