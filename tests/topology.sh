# shellcheck shell=bash
#
# The network of the demo and the tests. Nothing of it is in the root namespace, and every run has one
# of its own, so that several can go on at the same time.
#
#   namespace PREFIX-hosts                            namespace PREFIX-client
#   +-----------------------------------------+       +-----------------------+
#   |  doppel ---- dop0 ---+                  |       |                       |
#   |                      +--- br0 --- port0 |=======| eth0  10.77.0.1/24    |
#   |  doppel ---- dop1 ---+                  | veth  |                       |
#   +-----------------------------------------+       +-----------------------+
#
# Both doppel processes run in the hosts namespace: a primary and its backup on one machine. Each makes
# its own tap, which vanishes with it; topology_plug puts it on the bridge. The guest is 10.77.0.2.
#
# Sourced, not run. It needs bash, iproute2 and coreutils, and root.

TOPOLOGY_CLIENT_ADDRESS=10.77.0.1/24

# topology_make PREFIX: sets HOSTS and CLIENTS, the names of the two namespaces.
topology_make()
{
	HOSTS=$1-hosts
	CLIENTS=$1-client
	local ns ipv6=/proc/sys/net/ipv6/conf
	for ns in "$HOSTS" "$CLIENTS"; do
		ip netns add "$ns" || return
		# Only IPv4 is spoken here; IPv6 would stir the bridge with its own announcements.
		ip netns exec "$ns" tee "$ipv6/all/disable_ipv6" "$ipv6/default/disable_ipv6" \
			<<<1 >/dev/null 2>&1
		ip -n "$ns" link set lo up || return
	done
	# A port forwards from its first moment, and the bridge asks nobody about multicast.
	ip -n "$HOSTS" link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0 &&
		ip -n "$HOSTS" link set br0 up &&
		ip -n "$HOSTS" link add port0 type veth peer name eth0 netns "$CLIENTS" &&
		ip -n "$HOSTS" link set port0 master br0 up &&
		ip -n "$CLIENTS" address add "$TOPOLOGY_CLIENT_ADDRESS" dev eth0 &&
		ip -n "$CLIENTS" link set eth0 up
}

# topology_plug TAP PID: puts the tap on the bridge as soon as process PID has made it. Fails when the
# process is gone, or after 30 seconds. It looks without a process of its own, many times in a test of many kills.
topology_plug()
{
	local tries devices pause
	exec {pause}<> <(:) # a pipe into which nobody writes: who reads it sleeps
	for ((tries = 0; tries < 1500; tries++)); do
		devices=''
		{ read -rd '' devices <"/proc/$2/net/dev"; } 2>/dev/null
		if [[ $devices == *[[:space:]]"$1:"* ]] && ip -n "$HOSTS" link set "$1" master br0 up 2>/dev/null; then
			exec {pause}>&-
			return 0
		fi
		kill -0 "$2" 2>/dev/null || break
		read -rt 0.02 -u "$pause"
	done
	exec {pause}>&-
	return 1
}

# topology_remove: both namespaces, with whatever still runs in them. Safe at any time.
topology_remove()
{
	local ns pid
	for ns in ${HOSTS:+"$HOSTS"} ${CLIENTS:+"$CLIENTS"}; do
		for pid in $(ip netns pids "$ns" 2>/dev/null); do
			kill -KILL "$pid" 2>/dev/null
		done
		ip netns delete "$ns" 2>/dev/null
	done
	HOSTS='' CLIENTS=''
}
