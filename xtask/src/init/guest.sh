#!/bin/sh
# First process of a test guest. Its first line of output marks the end of the boot; everything slow comes after it.
# carve.run=COMMAND (percent-encoded) on the kernel command line is run on the console, its exit code printed, and the
# guest powered off; without it there is a shell on the console, and leaving it powers off.
mount -t proc proc /proc
read -r up idle </proc/uptime
echo "carve-guest: ready $up"

export PATH=/bin HOME=/root
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
hostname carve-guest
ifconfig lo up
modprobe -a $(cat /etc/modules)

# Powering off discards what the console has not sent yet: setting a terminal mode waits for it first.
power_off() {
	stty opost </dev/console 2>/dev/null
	poweroff -f
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
	sh -c "$run"
	echo "carve-guest: exit $?"
else
	export TERM="${TERM:-linux}" PS1='carve-guest:\w# '
	setsid cttyhack sh
fi
power_off
