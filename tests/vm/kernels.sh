#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Owns target/vm/kernels: the newest Debian cloud kernel of each release the
# system's own apt mirrors still carry. Does not boot them (boot.sh does) and
# leaves the system's apt state alone.
#
# Usage: tests/vm/kernels.sh [--force]
#
# Result, one directory per major.minor:
#	target/vm/kernels/6.1/vmlinuz
#	target/vm/kernels/6.1/config		build configuration
#	target/vm/kernels/6.1/version		package version
#	target/vm/kernels/6.1/lib/modules/RELEASE/...
# and on stdout a line "6.1 <version>" for each, oldest kernel first.
#
# A complete cache younger than a day costs no network; --force looks anyway.
# With VM_ARCH=arm64 it is target/vm/arm64/kernels, with the kernels of that
# architecture from 6.1 on.
# Exit status 1 if fewer than three kernels could be had.
set -euo pipefail

readonly ARCH=${VM_ARCH:-amd64}
case $ARCH in
amd64) SUITES="bullseye bookworm bookworm-backports trixie sid" ;;
arm64) SUITES="bookworm bookworm-backports trixie sid" ;;
*)
	echo "kernels.sh: VM_ARCH=$ARCH: it is amd64 or arm64" >&2
	exit 1
	;;
esac
readonly SUITES META=linux-image-cloud-$ARCH
readonly ENOUGH=3
readonly MAX_AGE_MIN=1440

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
VM=$ROOT/target/vm
[[ $ARCH == amd64 ]] || VM+=/$ARCH
readonly VM
readonly KERNELS=$VM/kernels APT=$VM/apt
readonly STAMP=$KERNELS/.complete

say() {
	echo "kernels.sh: $*" >&2
}

die() {
	say "$*"
	exit 1
}

# A directory counts only once extract() has moved it in place, version last.
present() {
	[[ -s $KERNELS/$1/vmlinuz && -d $KERNELS/$1/lib/modules ]] &&
		[[ $(cat "$KERNELS/$1/version" 2>/dev/null) == "$2" ]]
}

stamp_is_true() {
	local kernel version count=0

	[[ -s $STAMP ]] || return 1
	while read -r kernel version; do
		present "$kernel" "$version" || return 1
		count=$((count + 1))
	done <"$STAMP"
	((count >= ENOUGH))
}

# The repositories that carry this system's own release (or that release's
# security suite), out of whatever it has configured. Not through "apt-get
# indextargets", which is empty where no list has been downloaded yet.
mirrors() {
	local suffix=$1 codename

	# shellcheck source=/dev/null
	codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-sid}")
	apt-get update --print-uris |
		sed -n "s,^'\([^']*\)/dists/\([^/']*\)/InRelease'.*,\2 \1,p" |
		awk -v pattern="^($codename|(old)*stable|testing|unstable|sid)$suffix$" \
			'$1 ~ pattern { print $2 }' | sort -u
}

write_apt_config() {
	local keyring='' option suite uri file main security

	mkdir -p "$APT/lists/partial" "$APT/cache/archives/partial"
	: >"$APT/status"
	for file in /usr/share/keyrings/debian-archive-keyring.{pgp,gpg}; do
		if [[ -e $file ]]; then
			keyring=$file
			break
		fi
	done
	option="arch=$ARCH target=Packages${keyring:+ signed-by=$keyring}"
	main=$(mirrors '')
	security=$(mirrors -security)
	for suite in $SUITES; do
		for uri in $main; do
			echo "deb [$option] $uri $suite main"
		done
		# Neither of these two has a security suite of its own.
		[[ $suite == sid || $suite == *-backports ]] && continue
		for uri in $security; do
			echo "deb [$option] $uri $suite-security main"
		done
	done >"$APT/sources.list.new"
	mv "$APT/sources.list.new" "$APT/sources.list"
	[[ -s $APT/sources.list ]] || die "no Debian mirror in the apt configuration"

	# Read after the system's own files, which keeps its proxy settings but
	# drops its hooks: they clean and index caches that are not ours.
	# _apt may be unable to enter the directory a checkout lies in.
	cat >"$APT/apt.conf" <<-CONF
		#clear APT::Update::Pre-Invoke;
		#clear APT::Update::Post-Invoke;
		#clear APT::Update::Post-Invoke-Success;
		#clear DPkg::Post-Invoke;
		APT::Architecture "$ARCH";
		APT::Sandbox::User "$(id -un)";
		APT::Get::AllowUnauthenticated "false";
		Acquire::AllowInsecureRepositories "false";
		Acquire::AllowWeakRepositories "false";
		Acquire::Languages "none";
		Acquire::Retries "3";
		Dir::State "$APT";
		Dir::State::lists "$APT/lists";
		Dir::State::status "$APT/status";
		Dir::Cache "$APT/cache";
		Dir::Cache::archives "$APT/cache/archives";
		Dir::Cache::pkgcache "pkgcache.bin";
		Dir::Cache::srcpkgcache "srcpkgcache.bin";
		Dir::Etc::sourcelist "$APT/sources.list";
		Dir::Etc::sourceparts "/dev/null";
		Dir::Etc::preferences "/dev/null";
		Dir::Etc::preferencesparts "/dev/null";
	CONF
}

apt() {
	local tool=$1

	shift
	"apt-$tool" -c "$APT/apt.conf" "$@"
}

update() {
	local suite listed=''

	# A suite that is gone fails the run but not the suites beside it, and an
	# index fetched earlier stays in use.
	apt get -qq update >"$APT/update.log" 2>&1 ||
		say "apt-get update failed in part, see ${APT#"$ROOT/"}/update.log"
	listed=$(apt cache madison "$META" | awk '{ print $6 }')
	for suite in $SUITES; do
		grep -q -E "^$suite(-security)?/" <<<"$listed" ||
			say "$suite: not on the mirror, or no cloud kernel in it"
	done
	[[ -n $listed ]] || return 1
}

# The newest version of each major.minor, as "6.1 6.1.192-2", oldest first.
newest() {
	local version kernel
	local -A best=()

	while read -r version; do
		[[ $version =~ ^([0-9]+\.[0-9]+)\. ]] || continue
		kernel=${BASH_REMATCH[1]}
		if [[ -z ${best[$kernel]:-} ]] ||
			dpkg --compare-versions "$version" gt "${best[$kernel]}"; then
			best[$kernel]=$version
		fi
	done < <(apt cache madison "$META" | awk '{ print $3 }')
	for kernel in "${!best[@]}"; do
		echo "$kernel ${best[$kernel]}"
	done | sort -V
}

# The concrete packages behind a metapackage. In 5.10 to 6.12 one linux-image
# package holds everything; in 7.x that is a metapackage too, over linux-binary
# (vmlinuz), linux-modules and linux-base (config).
closure() {
	local version=$1 package next
	local -a todo=("$META") found=()
	local -A seen=()

	while ((${#todo[@]})); do
		package=${todo[0]}
		todo=("${todo[@]:1}")
		[[ -z ${seen[$package]:-} ]] || continue
		seen[$package]=1
		[[ $package == "$META" ]] || found+=("$package=$version")
		while read -r next; do
			todo+=("$next")
		done < <(apt cache show "$package=$version" |
			sed -n 's/^\(Pre-\)\?Depends: //p' | tr ',' '\n' |
			sed -n 's/^ *\(linux-\(image\|binary\|modules\|base\)-[0-9][^ ]*-cloud-'"$ARCH"'\) .*/\1/p')
	done
	((${#found[@]})) && printf '%s\n' "${found[@]}"
}

extract() (
	set -e
	kernel=$1 version=$2
	work=$(mktemp -d "$VM/fetch.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	trap 'exit 130' INT TERM HUP

	mapfile -t packages < <(closure "$version")
	((${#packages[@]})) || die "$kernel: no image behind $META $version"
	mkdir "$work/deb" "$work/root" "$work/out"
	cd "$work/deb"
	apt get -qq download "${packages[@]}" >&2
	for deb in *.deb; do
		dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$work/root"
	done
	# /boot and /lib in 5.10 to 6.12; all below /usr/lib/modules in 7.x.
	modules=$work/root/lib/modules
	[[ -d $modules ]] || modules=$work/root/usr/lib/modules
	for name in vmlinuz config; do
		for file in "$work/root/boot/$name"-* "$modules"/*/"$name"; do
			[[ ! -f $file ]] || mv "$file" "$work/out/$name"
		done
		[[ -s $work/out/$name ]] || die "$kernel: no $name in ${packages[*]}"
	done
	mkdir "$work/out/lib"
	mv "$modules" "$work/out/lib/modules"
	echo "$version" >"$work/out/version"
	chmod 755 "$work/out"
	rm -rf "${KERNELS:?}/$kernel"
	mv "$work/out" "$KERNELS/$kernel"
)

main() {
	local force='' kernel version status list='' dir

	case ${1:-} in
	'') ;;
	--force) force=1 ;;
	*) die "usage: kernels.sh [--force]" ;;
	esac

	mkdir -p "$KERNELS"
	exec 9>"$VM/kernels.lock"
	flock 9
	if stamp_is_true && [[ -z $force && -n $(find "$STAMP" -mmin "-$MAX_AGE_MIN") ]]; then
		cat "$STAMP"
		return
	fi

	write_apt_config
	if ! update; then
		cat "$APT/update.log" >&2
		stamp_is_true || die "no kernel to be had, and none cached"
		say "mirror out of reach, taking the kernels of $(date -r "$STAMP" +%F)"
		cat "$STAMP"
		return
	fi
	while read -r kernel version; do
		if ! present "$kernel" "$version"; then
			say "fetching $version"
			# Not "extract || ...": that would turn errexit off in it.
			set +e
			extract "$kernel" "$version" </dev/null
			status=$?
			set -e
			((status < 128)) || exit "$status"
			if ((status != 0)); then
				say "$version could not be fetched"
				version=$(cat "$KERNELS/$kernel/version" 2>/dev/null || true)
				present "$kernel" "$version" || continue
				say "keeping $version"
			fi
		fi
		list+="$kernel $version"$'\n'
	done < <(newest)

	printf '%s' "$list"
	(($(grep -c . <<<"$list") >= ENOUGH)) || die "fewer than $ENOUGH kernels"
	for dir in "$KERNELS"/*/; do
		kernel=$(basename "$dir")
		grep -q "^$kernel " <<<"$list" || rm -rf "${KERNELS:?}/$kernel"
	done
	printf '%s' "$list" >"$STAMP"
}

main "$@"
