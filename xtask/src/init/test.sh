#!/bin/busybox sh
# carve-test: what a test has its guest do, in the initramfs or, as init=/bin/carve-test, on a disk without the time that
# systemd takes. carve.run=COMMAND (percent-encoded) on the kernel command line is run on the console, its exit code
# printed, and the guest powered off; without it there is a shell on the console, and leaving it powers off.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp
hostname carve-guest
ip link set lo up

# Powering off discards what the console has not sent yet: setting a terminal mode waits for it first. And with frames on
# their way, virtio_net of Debian's 6.1 spins for ever once the kernel has broken off its queues.
power_off() {
	sync
	for link in /sys/class/net/*; do
		ip link set "${link##*/}" down
	done
	stty opost </dev/console 2>/dev/null
	busybox poweroff -f
}

for name in /sys/class/input/event*/device/name; do
	[ -e "$name" ] && read -r label <"$name" || continue
	[ "$label" = "Power Button" ] || continue
	event=${name#/sys/class/input/}
	event=/dev/input/${event%%/*}
	{
		head -c 24 "$event" >/dev/null
		echo "carve-guest: power button"
		power_off
	} &
done

set -f
run=
for word in $(cat /proc/cmdline); do
	case $word in carve.run=*) run=${word#carve.run=} ;; esac
done
set +f

cd /root
if [ -n "$run" ]; then
	run=$(printf '%b' "$(printf '%s' "$run" | sed 's/\\/\\\\/g; s/%/\\x/g')")
	/bin/sh -c "$run"
	echo "carve-guest: exit $?"
else
	export TERM="${TERM:-linux}" PS1='carve-guest:\w# '
	busybox setsid busybox cttyhack sh
fi
power_off
