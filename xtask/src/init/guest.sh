#!/bin/sh
# First process of a test guest. Its first line of output marks the end of the boot; everything slow comes after it.
# root= on the kernel command line (a device, LABEL=, UUID=, or the tag of a shared folder with rootfstype=virtiofs) names a
# file system to go on from with its init= (by default /sbin/init); rootfstype=, rootflags=, ro and rw mean what they
# mean to the kernel. Without root= the guest stays in memory, and carve-test is next.
mount -t proc proc /proc
read -r up idle </proc/uptime
echo "carve-guest: ready $up"

export PATH=/bin HOME=/root
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null
mount -t tmpfs -o mode=755 tmpfs /run
modprobe -a $(cat /etc/modules)

# A console that needs a module is there only now, or a moment later.
tries=0
while ! [ -t 0 ] && [ $((tries += 1)) -le 20 ]; do
	if (: <>/dev/console) 2>/dev/null; then
		exec <>/dev/console >&0 2>&1
		echo "carve-guest: ready"
	else
		sleep 0.1
	fi
done

set -f
root= types= flags= access=rw init=/sbin/init
for word in $(cat /proc/cmdline); do
	case $word in
	root=*) root=${word#root=} ;;
	rootfstype=*) types=${word#rootfstype=} ;;
	rootflags=*) flags=,${word#rootflags=} ;;
	init=*) init=${word#init=} ;;
	ro | rw) access=$word ;;
	esac
done
set +f
[ -n "$root" ] || exec /bin/carve-test

give_up() {
	echo "carve-guest: $1"
	stty opost </dev/console 2>/dev/null
	poweroff -f
}

find_root() {
	case $root in
	LABEL=* | UUID=*) device=$(findfs "$root" 2>/dev/null) ;;
	/dev/*) device=$root && [ -b "$device" ] ;;
	*) device=$root ;;
	esac
}

# A read-only disk is mounted so without being asked twice.
mount_root() {
	for type in $types; do
		mount -t "$type" -o "$access$flags" "$device" /newroot 2>/dev/null && return
	done
	false
}

tries=0
until find_root; do
	[ $((tries += 1)) -le 50 ] || give_up "there is no $root"
	sleep 0.1
done
types=$(echo "${types:-ext4 btrfs xfs erofs}" | tr , ' ')
mkdir /newroot
mount_root || give_up "cannot mount $device as $types"

# The image serves any kernel: the modules come along from here.
if [ -d /newroot/lib/modules ]; then
	mount -t tmpfs -o mode=755 tmpfs /newroot/lib/modules
	cp -r /lib/modules/* /newroot/lib/modules/
fi
for folder in proc sys dev run; do
	mount --move /$folder /newroot/$folder
done
exec switch_root /newroot "$init"
