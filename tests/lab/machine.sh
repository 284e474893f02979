# shellcheck shell=bash
#
# What every command on a lab's machine knows: ME and PEER, addresses, and a few functions.

PATH=/build:/build/tests/client:/usr/bin:/busybox
case $ME in
a) PEER=b MY_NUMBER=1 PEER_NUMBER=2 ;;
*) PEER=a MY_NUMBER=2 PEER_NUMBER=1 ;;
esac
MY_LOG=10.78.0.1$MY_NUMBER PEER_LOG=10.78.0.1$PEER_NUMBER
MY_NET=10.77.0.1$MY_NUMBER PEER_NET=10.77.0.1$PEER_NUMBER
MY_CLIENT=10.77.0.2$MY_NUMBER
BUILD=/build
export PATH PEER MY_LOG PEER_LOG MY_NET PEER_NET BUILD

# interface_of MAC: its name.
interface_of()
{
	local address
	for address in /sys/class/net/*/address; do
		if [ "$(cat "$address")" = "$1" ]; then
			address=${address%/address}
			echo "${address##*/}"
			return
		fi
	done
	return 1
}

# The picture is in init.
set_up_links()
{
	local tap ipv6=/proc/sys/net/ipv6/conf
	ip link set lo up
	ip link set "$(interface_of "52:54:00:78:00:0$MY_NUMBER")" name log mtu "$LOG_MTU" &&
		ip address add "$MY_LOG/24" dev log &&
		ip link set log up &&
		rdma link add rxe0 type rxe netdev log || return
	# Only IPv4 is spoken to clients; IPv6 would stir the bridge with its own announcements.
	echo 1 >"$ipv6/default/disable_ipv6"
	ip link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0 &&
		ip address add "$MY_NET/24" dev br0 &&
		ip link set br0 up &&
		ip link set "$(interface_of "52:54:00:77:00:0$MY_NUMBER")" name net &&
		echo 1 >"$ipv6/net/disable_ipv6" &&
		ip link set net master br0 up &&
		ip netns add client &&
		ip link add port type veth peer name eth0 netns client &&
		ip link set port master br0 up &&
		ip -n client link set lo up &&
		ip -n client address add "$MY_CLIENT/24" dev eth0 &&
		ip -n client link set eth0 up || return
	# Made beforehand they stay in the bridge whoever comes and goes.
	for tap in dop0 dop1; do
		ip tuntap add "$tap" mode tap multi_queue && ip link set "$tap" master br0 up || return
	done
}

# in_client COMMAND...: replaces this shell, in the client's namespace.
in_client()
{
	exec ip netns exec client "$@"
}

# A disk that outlives the machine, at /disk.
mount_disk()
{
	mkdir -p /disk && mount -t ext4 /dev/vda /disk
}
