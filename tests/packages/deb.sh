#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Installs the Debian package in fresh roots of releases, upgrades, uses, removes
# and purges it, and looks at what is there in between.
#
# Usage: tests/packages/deb.sh OLD.deb NEW.deb
set -euo pipefail

readonly OLD=$1 NEW=$2
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly HERE ROOTS=$HERE/../../target/vm/roots
root=''

die() {
	echo "deb.sh: $*" >&2
	exit 1
}

inside() {
	"$HERE/in_root.sh" "$root" "$@"
}

install_package() {
	inside apt-get install -qq -y --no-install-recommends "$@" </dev/null >"$root/../log" 2>&1 ||
		die "$* is not installed: $(tail -n 20 "$root/../log")"
}

# What a package can leave behind; apt and dpkg have lists and logs of their own.
files() {
	(cd "$root" && find . -xdev \( -path ./proc -o -path ./sys -o -path ./dev -o -path ./tmp -o -path ./run \
		-o -path ./var/cache -o -path ./var/log -o -path ./var/lib/apt -o -path ./var/lib/dpkg \) -prune \
		-o -print | LC_ALL=C sort)
}

# One row, of a connect that this release's own bash makes.
trace() {
	inside "$@" --attach sockops --duration 60 -- bash -c ': </dev/tcp/127.0.0.1/9; true' 2>"$root/../err" |
		tee "$root/../rows"
	grep -q -E '^[0-9]+ +bash +4 +127\.0\.0\.1 +127\.0\.0\.1 +9 *$' "$root/../rows" ||
		die "no row: $(cat "$root/../rows" "$root/../err")"
}

check() {
	local suite=$1 before after file others=${*:2}

	echo "== $suite${others:+ with $others}"
	root=$work/root
	mkdir "$root"
	tar -x -C "$root" --exclude='./dev/*' -f "$ROOTS/$suite.tar"
	cp /etc/resolv.conf "$root/etc/resolv.conf"
	inside apt-get update -qq >/dev/null
	# What it depends on stays when it goes, and systemd makes files whenever a package comes.
	install_package libelf1 ${others:+"${@:2}"}
	cp "$OLD" "$root/tmp/old.deb"
	cp "$NEW" "$root/tmp/new.deb"
	before=$(files)

	install_package /tmp/old.deb
	inside tcpconnect --version
	install_package /tmp/new.deb
	inside dpkg-query -W -f '${Package} ${Version} ${Status}\n' tcpconnect
	inside dpkg --verify tcpconnect
	trace tcpconnect
	[[ $(readlink "$root/usr/sbin/tcpv4connect") == tcpconnect ]] || die "tcpv4connect is no link"
	[[ -z $(find "$root/etc/systemd" -name 'tcpconnect*') ]] || die "the recorder is enabled"
	for file in sbin/tcpconnect lib/systemd/system/tcpconnect-record.service lib/sysusers.d/tcpconnect.conf; do
		[[ -s $root/usr/$file ]] || die "there is no /usr/$file"
	done
	if [[ $others == *systemd* ]]; then
		grep '^tcpconnect:' "$root/etc/passwd" || die "the recorder has no user"
	fi
	if [[ $others == *libbpf-tools* ]]; then
		[[ -s $root/usr/sbin/tcpconnect.libbpf-tools ]] || die "libbpf-tools has lost its program"
		[[ -s $root/usr/sbin/tcpconnect-bpfcc ]] || die "bpfcc-tools has lost its program"
	fi
	mkdir -p "$root/var/lib/tcpconnect"
	inside dpkg --remove tcpconnect >/dev/null
	[[ -d $root/var/lib/tcpconnect ]] || die "removed, it has taken what was recorded with it"
	inside dpkg --purge tcpconnect >/dev/null
	after=$(files)
	diff <(echo "$before") <(echo "$after") || die "it leaves this behind"
	[[ -z $(inside dpkg-divert --list '*tcpconnect*') ]] || die "it leaves a diversion"
	rm -rf "$root"
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$HERE/roots.sh" bookworm trixie
check bookworm
check bookworm systemd bpfcc-tools libbpf-tools
check trixie
check trixie systemd
echo "deb.sh: $(basename "$NEW") passed"
