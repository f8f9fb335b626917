#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs guest.py, with these arguments, on the disk with the peers. Its descriptor
# 9 is the machine's own root, which a process in a new root cannot name.
mkdir /mnt && mount -t ext4 -o ro /dev/vda /mnt || exit 1
for directory in proc sys dev tmp run; do
	mount --rbind "/$directory" "/mnt/$directory"
done
cp /guest.py /tmp
exec chroot /mnt python3 -u /tmp/guest.py "$@" 9</
