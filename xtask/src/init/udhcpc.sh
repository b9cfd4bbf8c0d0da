#!/bin/busybox sh
# What udhcpc runs when a lease comes or goes: address, routes and name servers of the interface are set.
case $1 in
deconfig)
	ip address flush dev "$interface"
	ip link set "$interface" up
	;;
bound | renew)
	ip address replace "$ip/$mask" dev "$interface"
	[ -z "$mtu" ] || ip link set "$interface" mtu "$mtu"
	for gateway in $router; do
		ip route replace default via "$gateway" dev "$interface"
	done
	# Where / is read-only, the resolver's file is a link to here.
	for server in $dns; do
		echo "nameserver $server"
	done >/run/resolv.conf
	;;
esac
