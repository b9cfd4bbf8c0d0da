#!/bin/sh
# First process of the emulated host: the machine's own root, shared read-only over 9p, becomes the root here with a
# writable layer in memory; then the agent (carve.agent= on the kernel command line, percent-encoded) takes over.
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null
modprobe -a $(cat /etc/modules)
ifconfig lo up

set -f
for word in $(cat /proc/cmdline); do
	case $word in carve.agent=*) agent=${word#carve.agent=} ;; esac
done
agent=$(printf '%b' "$(printf '%s' "$agent" | sed 's/\\/\\\\/g; s/%/\\x/g')")

mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose root /lower &&
	mount -t tmpfs -o size=100% tmpfs /upper &&
	mkdir /upper/data /upper/work &&
	mount -t overlay -o lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work overlay /root &&
	mount --move /proc /root/proc &&
	mount --move /sys /root/sys &&
	mount --move /dev /root/dev &&
	exec switch_root /root "$agent" host-agent
echo "carve-host: cannot set up the root file system"
poweroff -f
