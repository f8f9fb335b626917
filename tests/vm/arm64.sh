#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Runs the live tests on the kernels of arm64, with each hook that each of them
# has, in emulated machines. Compiles nothing: `make test-arm64` does, into
# target/arm64.
#
# Usage: tests/vm/arm64.sh PROGRAM [KERNEL [TEST]]
#
# Prints each test with the kernel before it, what failed at the end of a
# machine, and then how many passed. Exit status 1 if one did not, or if a
# machine did not come to the end of them.
set -euo pipefail

export VM_ARCH=arm64
readonly PROGRAM=$1 ONLY=${2:-} TEST=${3:-}
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly HERE BUILT=$HERE/../../target/arm64 GUEST=$HERE/../../target/vm/arm64/guest/usr
readonly MADE=$BUILT/aarch64-unknown-linux-gnu/debug
readonly MODULES=unix_diag,tcp_diag,udp_diag,raw_diag,veth
readonly CMDLINE=rcupdate.rcu_expedited=1 LIMIT_SECONDS=3600 MACHINES_AT_ONCE=2

die() {
	echo "arm64.sh: $*" >&2
	exit 1
}

# A trampoline can be put on a function of the kernel from 6.4 on.
hooks_of() {
	case $1 in
	6.1) echo kprobe,sockops ;;
	*) echo fentry,kprobe,sockops ;;
	esac
}

test_kernel() {
	local kernel=$1 status=0

	"$HERE/boot.sh" -k "$kernel" -t "$LIMIT_SECONDS" -m 1536 -a "$CMDLINE" -M "$MODULES" \
		-f "$PROGRAM:/tcpconnect" -f "$MADE/examples/client:/client" -f "$live:/live" -f "$BUILT/musl:/musl" \
		-f "$GUEST/sbin/bpftool:/usr/sbin/bpftool" -f "$GUEST/bin/setpriv:/usr/bin/setpriv" \
		-f "$GUEST/sbin/dnsmasq:/usr/sbin/dnsmasq" -f "$GUEST/bin/dig:/usr/bin/dig" \
		-f "$GUEST/bin/curl:/usr/bin/curl" -f "$GUEST/bin/ip:/usr/sbin/ip" -- \
		"export TCPCONNECT=/tcpconnect CLIENT=/client MUSL_CLIENT=/musl TEST_SCALE_DOWN=200 \
		TEST_ATTACH=$(hooks_of "$kernel") TEST_BUFFER=ring TEST_CELLS=none; /live --color never $TEST" 2>&1 |
		sed -u "s/^/$kernel: /" || status=$?
	echo "$kernel: ended with status $status"
}

main() {
	local kernels

	live=$(find "$MADE/deps" -name 'live-*' -perm -u+x -type f -printf '%T@ %p\n' | sort -n | tail -n 1 | cut -d ' ' -f 2)
	[[ -n $live ]] || die "run make test-arm64: there are no tests for arm64"
	kernels=$("$HERE/kernels.sh" | cut -d ' ' -f 1)
	[[ -z $ONLY ]] || kernels=$ONLY
	log=$(mktemp)
	trap 'rm -f "$log"' EXIT
	export -f test_kernel hooks_of
	export HERE BUILT GUEST MADE MODULES CMDLINE LIMIT_SECONDS PROGRAM TEST live
	# shellcheck disable=SC2016
	echo "$kernels" | tac | xargs -P "$MACHINES_AT_ONCE" -I '{}' bash -c 'set -euo pipefail; test_kernel {}' | tee "$log"
	sed -n 's/^\([^ ]*\): test \([a-z]*\)::[^ ]* *\.\.\. ok$/\1 \2/p' "$log" | sort -V | uniq -c
	! grep -v ': ended with status 0$' "$log" | grep -q ': ended with status '
}

main
