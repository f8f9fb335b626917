#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Runs a command in a root file system, as root of the machine, with the
# machine's /sys, control groups and network, and its /dev if the root has such a
# folder, in mount and pid namespaces that end with it. Knows nothing of
# tcpconnect.
#
# Usage: tests/packages/in_root.sh ROOT COMMAND...
set -euo pipefail

exec unshare --mount --pid --fork --kill-child -- bash -ec '
	root=$1
	shift
	mkdir -p "$root/proc" "$root/sys"
	mount -t proc proc "$root/proc"
	mount --rbind /sys "$root/sys"
	! test -d "$root/dev" || mount --rbind /dev "$root/dev"
	exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive chroot "$root" "$@"
' - "$@"
