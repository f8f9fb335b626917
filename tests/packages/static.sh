#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Runs the static file in roots of many releases, in one that has nothing but a
# client, and beside a user database that is not /etc/passwd.
#
# Usage: tests/packages/static.sh PROGRAM
set -euo pipefail

readonly PROGRAM=$1 SUITES="bullseye bookworm trixie sid"
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly HERE ROOTS=$HERE/../../target/vm/roots
# No other user of this machine has it.
readonly VISITOR=4242424

die() {
	echo "static.sh: $*" >&2
	exit 1
}

# A row in the root whose USER is $1, of clients that are started with the words behind that. There are
# ten, since a row does not wait for a database but has the number, and the next one has the name.
check() {
	local user=$1 rows

	cp "$PROGRAM" "$work/root/tcpconnect"
	cp "$(command -v busybox)" "$work/root/busybox"
	rows=$("$HERE/in_root.sh" "$work/root" /tcpconnect --attach sockops --user --duration 60 -- \
		"${@:2}" /busybox sh -c 'for i in 0 1 2 3 4 5 6 7 8 9; do
			/busybox nc 127.0.0.1 9
			/busybox usleep 100000
		done' 2>"$work/err") || true
	echo "$rows"
	grep -q -E "^$user +[0-9]+ +busybox +4 +127\.0\.0\.1 +127\.0\.0\.1 +9 *$" <<<"$rows" ||
		die "no such row: $rows $(cat "$work/err")"
}

unpack() {
	rm -rf "$work/root"
	mkdir "$work/root"
	[[ -z ${1:-} ]] || tar -x -C "$work/root" --exclude='./dev/*' -f "$ROOTS/$1.tar"
}

# Names one user, as those of a directory on the network are.
write_name_service() {
	cc -shared -fPIC -x c -o "$1" - <<-C
		#include <nss.h>
		#include <pwd.h>
		#include <sys/types.h>
		enum nss_status _nss_visitor_getpwuid_r(uid_t uid, struct passwd *user, char *text, size_t size, int *error)
		{
			if (uid != $VISITOR)
				return NSS_STATUS_NOTFOUND;
			*user = (struct passwd){ "visitor", "x", uid, uid, "", "/", "/bin/sh" };
			return NSS_STATUS_SUCCESS;
		}
	C
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# shellcheck disable=SC2086
"$HERE/roots.sh" $SUITES
! ldd "$PROGRAM" >/dev/null 2>&1 || [[ $(ldd "$PROGRAM") == *'statically linked'* ]] || die "it is not static"
for suite in $SUITES; do
	echo "== $suite"
	unpack "$suite"
	check root
	echo "== $suite with a user database of its own"
	write_name_service "$work/root/usr/lib/x86_64-linux-gnu/libnss_visitor.so.2"
	echo 'passwd: files visitor' >"$work/root/etc/nsswitch.conf"
	check visitor setpriv --reuid "$VISITOR" --clear-groups
done
echo "== an empty root"
unpack
check 0
echo "static.sh: $(basename "$PROGRAM") passed"
