#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Owns one virtual machine: boots a kernel of target/vm/kernels in QEMU's
# software emulation, with busybox as its user space, and runs one command in
# it. Does not fetch kernels (kernels.sh does) and knows nothing of tcpconnect.
#
# Usage: tests/vm/boot.sh [option]... -- COMMAND...
#
#	-k KERNEL	a directory of target/vm/kernels, e.g. 6.1, or the path
#			of such a directory or of a vmlinuz; default: the newest
#	-a CMDLINE	words added to the kernel command line; repeatable
#	-s CPUS		default 2
#	-m MEM_MB	default 1024
#	-t SECONDS	limit for boot and command together, default 120
#	-q QEMU_ARGS	words added to QEMU's arguments; repeatable
#	-f HOST[:GUEST]	file or directory to copy into the guest, with the
#			shared libraries its programs need; repeatable
#	-M MOD[,MOD]	kernel modules to load first, with what they depend on
#
# COMMAND's words are joined with blanks and given to the guest's "sh -c", as
# root, its standard input empty; its output (both streams, in order) becomes
# standard output, byte for byte and as it is written. What the kernel logs at
# warning level or above meanwhile goes to standard error, as "kernel: ...".
#
# Kernel command line words the guest itself understands:
#	vm.cgroup=v2		version 2 on /sys/fs/cgroup (default)
#	vm.cgroup=hybrid	version 1 there, version 2 on .../unified
#	vm.cgroup=v1		version 1 only
#	vm.cgroup=none		no cgroup file system
#
# With VM_ARCH=arm64 the kernels are those of target/vm/arm64/kernels, and busybox
# and libraries those of target/vm/arm64/guest (packaging/arm64.sh).
#
# Repeatable costs, counted in instructions: -s 1 -q "-icount shift=0,sleep=off"
#
# Exit status: COMMAND's; 124 out of time; 125 the machine failed (panic, oops,
# no boot, bad usage), with the console on standard error. 126 and up as in sh.
set -euo pipefail
umask 022

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
readonly ARCH=${VM_ARCH:-amd64}
VM=$ROOT/target/vm
[[ $ARCH == amd64 ]] || VM+=/$ARCH
readonly VM
# A machine is up in 2 s, in 11 s where three share two busy CPUs.
readonly BOOT_SECONDS=60
# What of a processor is slow when it is emulated: five levels of page tables, checks at each
# change of privilege, "rep movsb" (a byte at a time), and vectors of 32 bytes, in libraries
# and in each change of task. Nine starts of the tracer took 36, 35 and 41 s of CPU on 5.10,
# 6.1 and 7.2 with all of it, and take 26, 24 and 29 without.
readonly CPU_AMD64=max,la57=off,smap=off,smep=off,umip=off,pku=off,erms=off,fsrm=off,xsave=off,avx=off,avx2=off,fsgsbase=off,pcid=off
# That of a cloud's machines; "max" of QEMU 7.2 signs each return address, in software.
readonly CPU_ARM64=neoverse-n1
case $ARCH in
amd64) BUSYBOX=$(command -v busybox) SYSROOT='' ;;
arm64) BUSYBOX=$VM/guest/usr/bin/busybox SYSROOT=$VM/guest/usr ;;
*)
	echo "boot.sh: VM_ARCH=$ARCH: it is amd64 or arm64" >&2
	exit 125
	;;
esac
readonly BUSYBOX SYSROOT

kernel='' cmdline='' cpus=2 memory=1024 limit=120 modules=''
qemu_args=() files=()
work='' pid='' timer='' hung='' status=125

say() {
	echo "boot.sh: $*" >&2
}

die() {
	say "$*"
	exit 125
}

# Also the way out of every failed command: status says otherwise only once
# the guest has.
leave() {
	trap - EXIT INT TERM HUP
	if [[ -n $pid ]]; then
		kill "$pid" 2>/dev/null && wait "$pid"
	fi
	[[ -z $timer ]] || kill "$timer" 2>/dev/null
	[[ -z $work ]] || rm -rf "$work"
	exit "$status"
}

parse() {
	local option words

	while getopts :k:a:s:m:t:q:f:M: option; do
		case $option in
		k) kernel=$OPTARG ;;
		a) cmdline+=" $OPTARG" ;;
		s) cpus=$OPTARG ;;
		m) memory=$OPTARG ;;
		t) limit=$OPTARG ;;
		q)
			read -ra words <<<"$OPTARG"
			qemu_args+=("${words[@]}")
			;;
		f) files+=("$OPTARG") ;;
		M) modules+="${OPTARG//,/ } " ;;
		*) die "-$OPTARG: no such option, or its argument is missing" ;;
		esac
	done
	shift $((OPTIND - 1))
	(($#)) || die "no command"
	command=$*
}

find_kernel() {
	if [[ -z $kernel ]]; then
		kernel=$(find "$VM/kernels" -mindepth 2 -maxdepth 2 -name vmlinuz 2>/dev/null |
			sort -V | tail -n 1)
	elif [[ $kernel != */* ]]; then
		kernel=$VM/kernels/$kernel
	fi
	[[ ! -d $kernel ]] || kernel=$kernel/vmlinuz
	[[ -f $kernel ]] || die "no kernel ${kernel#"$ROOT/"}: run tests/vm/kernels.sh"
}

pack() {
	(cd "$1" && find . -mindepth 1 | LC_ALL=C sort |
		busybox cpio -o -H newc -R 0:0 2>/dev/null)
}

# What is the same in every boot.
pack_base() {
	local tree=$work/base applet

	mkdir -p "$tree"/{bin,sbin,dev,proc,root,run,sys,tmp,vm} \
		"$tree"/{etc,home/user,usr/bin,var/tmp}
	cp "$BUSYBOX" "$tree/bin/busybox"
	for applet in $(busybox --list); do
		[[ $applet == busybox ]] || echo "$tree/bin/$applet"
	done | xargs -n 1 ln -s busybox
	ln -s ../../bin/busybox "$tree/usr/bin/env"
	echo vm >"$tree/etc/hostname"
	printf '%s\n' '127.0.0.1 localhost vm' '::1 localhost' >"$tree/etc/hosts"
	cat >"$tree/etc/passwd" <<-'PASSWD'
		root:x:0:0:root:/root:/bin/sh
		user:x:1000:1000:user:/home/user:/bin/sh
		nobody:x:65534:65534:nobody:/tmp:/bin/sh
	PASSWD
	cat >"$tree/etc/group" <<-'GROUP'
		root:x:0:
		user:x:1000:
		nogroup:x:65534:
	GROUP
	write_init >"$tree/init"
	chmod 755 "$tree/init"
	pack "$tree" >"$work/base.cpio"
	mv "$work/base.cpio" "$1"
}

write_init() {
	cat <<'INIT'
#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
export PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C
umask 022

mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t tmpfs -o mode=1777 tmp /tmp
mount -t tmpfs -o mode=755 run /run
mount -t bpf -o mode=700 bpf /sys/fs/bpf
mount -t debugfs debug /sys/kernel/debug
mount -t tracefs trace /sys/kernel/tracing
mount -t securityfs security /sys/kernel/security
ln -s /proc/self/fd /dev/fd
chown 1000:1000 /home/user
chmod 1777 /var/tmp
hostname -F /etc/hostname
ip link set lo up

v1() {
	mount -t tmpfs -o mode=755 cgroup /sys/fs/cgroup
	mkdir /sys/fs/cgroup/systemd
	mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
	sed 1d /proc/cgroups | while read -r name _; do
		mkdir "/sys/fs/cgroup/$name"
		mount -t cgroup -o "$name" cgroup "/sys/fs/cgroup/$name" 2>/dev/null ||
			rmdir "/sys/fs/cgroup/$name"
	done
}

case " $(cat /proc/cmdline) " in
*" vm.cgroup=none "*) ;;
*" vm.cgroup=v1 "*) v1 ;;
*" vm.cgroup=hybrid "*)
	v1
	mkdir /sys/fs/cgroup/unified
	mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified
	;;
*) mount -t cgroup2 cgroup2 /sys/fs/cgroup ;;
esac

# One write to kmsg is one line on the console, whoever else writes there.
say() {
	echo "<2>vm: $*" >/dev/kmsg
}

while read -r module; do
	insmod "/vm/$module" || poweroff -f
done </vm/modules

# The port that is not the console, which is of another kind on arm64.
out=/dev/ttyS1
[ ! -c /dev/ttyAMA0 ] || out=/dev/ttyS0
stty -F $out raw -echo
say started
setsid sh /vm/command </dev/null >$out 2>&1
status=$?
# Applies a setting only after the port has sent all it holds.
kill -9 -1 2>/dev/null
stty -F $out raw -echo
say "status $status"
poweroff -f
INIT
}

# HOST[:GUEST] into the tree $2.
add_file() {
	local host=${1%%:*} guest=${1#*:} tree=$2 file library

	[[ -e $host ]] || die "no such file: $host"
	[[ $1 == *:* ]] || guest=$(realpath -s "$host")
	case $guest in
	/tmp/* | /run/* | /dev/* | /proc/* | /sys/*)
		die "$guest: the guest mounts a file system over that"
		;;
	/?*) ;;
	*) die "$guest: not an absolute path" ;;
	esac
	mkdir -p "$tree$(dirname "$guest")"
	cp -rHT --preserve=mode "$host" "$tree$guest"
	find -H "$host" -type f -perm -u+x | while read -r file; do
		"libraries_$ARCH" "$file"
	done | sort -u | while read -r library; do
		mkdir -p "$tree$(dirname "$library")"
		cp -L "$SYSROOT$library" "$tree$library"
	done
}

# Names the interpreter too; fails for scripts and static programs.
libraries_amd64() {
	{ ldd "$1" 2>/dev/null || true; } |
		sed -n 's|^\t\(.* => \)\?\(/[^ ]*\) (0x.*|\2|p'
}

# ldd starts a program's interpreter, which does not run on another processor.
libraries_arm64() {
	local file library
	local -a todo=("$1")
	local -A seen=()

	while ((${#todo[@]})); do
		file=${todo[0]}
		todo=("${todo[@]:1}")
		while read -r library; do
			[[ -z ${seen[$library]:-} ]] || continue
			seen[$library]=1
			todo+=("$SYSROOT$library")
			echo "$library"
		done < <(readelf --dynamic --program-headers "$file" 2>/dev/null |
			sed -n 's|.*(NEEDED).*\[\(.*\)\]|/lib/aarch64-linux-gnu/\1|p; s|.*interpreter: \(.*\)\]|\1|p')
	done
}

# The modules' files into the tree $1, and their order, dependencies first. The
# packages have no modules.dep (depmod writes it at installation), but every
# module names what it depends on.
add_modules() {
	local tree=$1 directory file name builtin
	local -A path=() added=()

	: >"$tree/vm/modules"
	[[ -n $modules ]] || return 0
	directory=$(echo "$(dirname "$kernel")"/lib/modules/*)
	[[ -d $directory ]] || die "no modules beside $kernel"
	while read -r file; do
		name=$(module_name "$file")
		path[$name]=$file
	done < <(find "$directory/kernel" -name '*.ko*')
	builtin=$(tr - _ <"$directory/modules.builtin")
	for name in $modules; do
		add_module "${name//-/_}"
	done
}

module_name() {
	local name=${1##*/}

	name=${name%%.ko*}
	echo "${name//-/_}"
}

# Uses add_modules' variables.
add_module() {
	local name=$1 file dependency

	[[ -z ${added[$name]:-} && $builtin != */"$name".ko* ]] || return 0
	added[$name]=1
	[[ -n ${path[$name]:-} ]] || die "no module $name beside $kernel"
	file=$tree/vm/$name.ko
	case ${path[$name]} in
	*.xz) xz -dc "${path[$name]}" >"$file" ;;
	*.zst) zstd -qdc "${path[$name]}" >"$file" ;;
	*) cp "${path[$name]}" "$file" ;;
	esac
	for dependency in $(tr '\0' '\n' <"$file" | sed -n 's/^depends=//p' | tr ',-' ' _'); do
		add_module "$dependency"
	done
	echo "$name.ko" >>"$tree/vm/modules"
}

build() {
	local base=$VM/base.cpio file

	[[ $base -nt ${BASH_SOURCE[0]} && $base -nt $BUSYBOX ]] ||
		pack_base "$base"
	mkdir -p "$work/tree/vm"
	for file in "${files[@]}"; do
		add_file "$file" "$work/tree"
	done
	add_modules "$work/tree"
	printf '%s\n' "$command" >"$work/tree/vm/command"
	pack "$work/tree" | cat "$base" - >"$work/initrd"
	mkfifo "$work/out"
}

# Leaves the console in $work/console; loglevel=5 puts warnings and worse there.
#
# The command writes to a second serial port, raw: 1.1 MB arrives intact in 1.4
# to 1.7 s on all four kernels, emulated. Anything virtio is a module in 5.10 and
# 6.1, and 9p is in none of them. Boot and power-off together take 1.5 to 2 s on
# an idle machine with two processors, 4 to 5 s with -icount.
#
# thread=single: with a thread for each CPU, QEMU 7.2 runs into an int3 after the
# kernel took it away. A kernel patches itself wherever a static key changes or a
# program is attached: 7.2 died ("Oops: int3") in 25 and 50 s of switching
# kernel.sched_schedstats on and off, and not in 6,000 switches with one thread.
# Two machines on two processors are faster so, too: the live tests on four kernels
# took 13 to 15 minutes, and take 10 to 13.
#
# norandmaps: QEMU translates code for the address it is at. With a new one for
# every process a small program took 33 ms to start and end, and takes 9 so.
run() {
	local reader ended result=0 serial=ttyS0
	local -a machine=(qemu-system-x86_64 -cpu "$CPU_AMD64" -serial chardev:console -serial chardev:out)

	# Its board has one port; a second one is a card.
	[[ $ARCH == amd64 ]] || {
		serial=ttyAMA0
		machine=(qemu-system-aarch64 -M virt -cpu "$CPU_ARM64"
			-serial chardev:console -device "pci-serial,chardev=out")
	}

	hung=''
	# QEMU makes its standard output non-blocking, for all who share it.
	: >"$work/console"
	cat "$work/out" &
	reader=$!
	timeout -k 5 "$limit" "${machine[@]}" -nodefaults -no-user-config \
		-accel tcg,thread=single -smp "$cpus" -m "$memory" -display none -no-reboot \
		-kernel "$kernel" -initrd "$work/initrd" \
		-append "console=$serial loglevel=5 panic=-1 oops=panic norandmaps$cmdline" \
		-chardev "file,id=console,path=$work/console" -chardev stdio,id=out,signal=off \
		"${qemu_args[@]}" </dev/null >"$work/out" &
	pid=$!
	sleep "$BOOT_SECONDS" >/dev/null 2>&1 &
	timer=$!
	wait -n -p ended "$pid" "$timer" || result=$?
	if [[ $ended == "$timer" ]]; then
		result=0
		started || {
			hung=1
			kill "$pid"
		}
		wait "$pid" || result=$?
	else
		kill "$timer"
	fi
	pid='' timer=''
	wait "$reader" || true
	return "$result"
}

console() {
	tr -d '\r' <"$work/console" 2>/dev/null || true
}

started() {
	grep -q $'\\] vm: started\r*$' "$work/console" 2>/dev/null
}

died_early() {
	[[ -n $hung ]] || console | grep -q 'Kernel panic' && ! started
}

main() {
	local result=0 reported logged

	parse "$@"
	find_kernel
	trap leave EXIT
	trap 'status=130; leave' INT
	trap 'status=143; leave' TERM HUP
	mkdir -p "$VM"
	work=$(mktemp -d "$VM/boot.XXXXXX")
	build
	# A 6.1 once hung in its own tests of its ciphers. Nothing of ours ran yet.
	for _ in 1 2 3; do
		result=0
		run || result=$?
		died_early || break
		say "the kernel panicked or hung before it was up"
	done

	logged=$(console | sed '1,/\] vm: started$/d; /\] vm: status [0-9]*$/,$d')
	reported=$(console | sed -n 's/.*\] vm: status \([0-9]*\)$/\1/p')
	[[ -z $logged ]] || echo "kernel: ${logged//$'\n'/$'\n'kernel: }" >&2
	if [[ -n $reported ]] && ((result == 0)); then
		status=$reported
		if grep -E 'Oops|general protection|BUG: ' <<<"$logged" |
			grep -q -v 'BUG: \(soft\|workqueue\) lockup'; then
			status=125
			say "THE KERNEL FAILED, see above; the command's status was $reported"
		fi
		return
	fi
	[[ -n $logged ]] || console | sed 's/^/console: /' >&2
	if ((result == 124 || result == 137)); then
		status=124
		say "no end after $limit s"
	elif console | grep -q 'Kernel panic'; then
		say "THE KERNEL PANICKED, see above"
	else
		say "the machine stopped without a result (QEMU's status: $result)"
	fi
}

main "$@"
