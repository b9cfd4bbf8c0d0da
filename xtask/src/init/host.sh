#!/bin/sh
# First process of the emulated host: the machine's own root, shared read-only over 9p, becomes the root here with a
# writable layer in memory; then the agent (carve.agent= on the kernel command line, percent-encoded) takes over, or,
# with carve.init=systemd, systemd, which starts the agent as a service.
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null
modprobe -a $(cat /etc/modules)
ifconfig lo up

set -f
for word in $(cat /proc/cmdline); do
	case $word in
	carve.agent=*) agent=${word#carve.agent=} ;;
	carve.init=*) init=${word#carve.init=} ;;
	esac
done
agent=$(printf '%b' "$(printf '%s' "$agent" | sed 's/\\/\\\\/g; s/%/\\x/g')")

# Nothing but the bus and the agent: a whole boot would take the time of several tests. What the machine's own units are
# wanted by is never started.
prepare_systemd() {
	mount -t tmpfs -o mode=755 tmpfs /root/run
	mount -t tmpfs tmpfs /root/lib/systemd/system-generators
	# By this file a container is told from a host.
	rm -f /root/.dockerenv
	# Without one, systemd takes this for a first boot and looks at every unit there is.
	[ -s /root/etc/machine-id ] || echo 0c0ffee00c0ffee00c0ffee00c0ffee0 >/root/etc/machine-id
	units=/root/run/systemd/system
	mkdir -p $units/dbus.socket.d $units/dbus.service.d
	for unit in dbus.socket dbus.service; do
		printf '[Unit]\nDefaultDependencies=no\n' >$units/$unit.d/alone.conf
	done
	cat >$units/carve-host.target <<-UNIT
		[Unit]
		Description=A command on the emulated host
		DefaultDependencies=no
		AllowIsolate=yes
		Wants=dbus.socket carve-host.service
	UNIT
	cat >$units/carve-host.service <<-UNIT
		[Unit]
		Description=Agent of the machine outside
		DefaultDependencies=no
		After=dbus.socket
		[Service]
		ExecStart="$(echo "$agent" | sed 's/%/%%/g')" host-agent
		StandardOutput=file:/dev/ttyS0
		StandardError=file:/dev/ttyS0
		Delegate=yes
		TasksMax=infinity
		OOMPolicy=continue
	UNIT
}

mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose root /lower &&
	mount -t tmpfs -o size=100% tmpfs /upper &&
	mkdir /upper/data /upper/work &&
	mount -t overlay -o lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work overlay /root &&
	mount --move /proc /root/proc &&
	mount --move /sys /root/sys &&
	mount --move /dev /root/dev &&
	case $init in
	systemd)
		prepare_systemd
		exec switch_root /root /lib/systemd/systemd --unit=carve-host.target --show-status=no
		;;
	*) exec switch_root /root "$agent" host-agent ;;
	esac
echo "carve-host: cannot set up the root file system"
poweroff -f
