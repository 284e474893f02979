#!/bin/bash
#
# How a process ends that is told to: `doppel stop`, SIGTERM and SIGINT, in each role; what becomes of
# the other side; and that nothing is left behind.

set -u
cd "${0%/*}/../.." || exit
. tests/integration/lib.sh
. tests/integration/cases.sh
user_kvm

# What a process may leave behind are the arbiter's generations, and nothing else.
nothing_left()
{
	local left
	left=$(
		ls -A "$LAB"/*/run
		find "$LAB" -type s
		find "$LAB/arbiter" -type f ! -name '*.gen-[0-9]*'
		ip -n "$HOSTS" -o link show type tun
		ip netns pids "$HOSTS"
		comm -13 "$LAB/outside" <(things_outside)
	)
	left=$(grep -v '^$\|:$' <<<"$left")
	[ -z "$left" ] || { echo "left behind: $left"; return 1; }
}

# Where DPDK and others would leave something.
things_outside()
{
	ls -d /var/run/dpdk/* /run/doppel/* /tmp/dpdk* /dev/hugepages/* 2>/dev/null | sort
}

# tell NAME WHAT: stop, TERM or INT.
tell()
{
	if [ "$2" = stop ]; then
		DOPPEL_RUN_DIR=$LAB/$1/run "$DOPPEL" stop "$VM"
	else
		kill "-$2" "${HOST_PID[$1]}"
	fi
}

generations()
{
	(cd "$LAB/arbiter" && echo *)
}

# make_pair LIVE [BACKUP]: with consoles on sockets.
make_pair()
{
	rm -f "$LAB/arbiter/"*
	start_primary a dop0 b --console "unix:$LAB/a.console" || return
	[ "${1:-}" = alone ] && { wait_role a solo 60; return; }
	start_standby b dop1 b a --console "unix:$LAB/b.console" && wait_protected a b 60
}

skip_all_if_lacking "every process ends in order"
lab_begin
things_outside >"$LAB/outside"

for how in stop TERM INT; do
	launch a run --kernel "$LEDGER" --name $VM --net net_tap0,iface=dop0 --console "unix:$LAB/a.console"
	check "$how, run: it runs" wait_role a run 30
	check "$how, run: it is told" tell a "$how"
	check "$how, run: it ends in order" ends_with a 0
	check "$how, run: nothing is left" nothing_left

	check "$how, solo: it runs" make_pair alone
	check "$how, solo: it is told" tell a "$how"
	check "$how, solo: it ends in order" ends_with a 0
	check "$how, solo: nothing is left" nothing_left

	start_standby b dop1 b a
	check "$how, standby: it waits" wait_role b standby 30
	check "$how, standby: it is told" tell b "$how"
	check "$how, standby: it ends in order" ends_with b 0
	check "$how, standby: nothing is left" nothing_left
done

for side in a b; do
	check "stop at $side: a pair" make_pair
	check "stop at $side: it is told" tell $side stop
	check "stop at $side: the primary ends in order" ends_with a 0
	check "stop at $side: the backup ends in order" ends_with b 0
	check "stop at $side: nobody takes over" equal generations "$(generations)" ledger.gen-1
	check "stop at $side: nothing is left" nothing_left
done

# The backup hears of the stop when the primary has gone. Only for a last output that nobody has sent may
# it take over: the guest writes one a second.
no_needless_takeover()
{
	grep -q 'last outputs were not acknowledged' "$LAB/a/log" || equal generations "$(generations)" ledger.gen-1
}
# A slow machine takes a second to tell, and nobody is to suspect the backup in it.
OPTIONS=("${PAIR_OPTIONS[@]}")
PAIR_OPTIONS+=(--heartbeat-timeout 5000)
check "stop behind a frozen backup: a pair" make_pair
kill -STOP "${HOST_PID[b]}"
check "stop behind a frozen backup: it is told" tell a stop
check "stop behind a frozen backup: the primary ends in order" ends_with a 0
kill -CONT "${HOST_PID[b]}"
check "stop behind a frozen backup: the backup ends in order" ends_with b 0
check "stop behind a frozen backup: nobody takes over" no_needless_takeover
check "stop behind a frozen backup: nothing is left" nothing_left
PAIR_OPTIONS=("${OPTIONS[@]}")

for how in TERM INT; do
	check "$how of a primary: a pair" make_pair
	start_client --rate 300 --seconds 300 --deadline 60
	sleep 1
	check "$how of a primary: it is told" tell a "$how"
	check "$how of a primary: it ends in order" ends_with a 0
	check "$how of a primary: its backup goes on" wait_role b solo 60
	check "$how of a primary: the client sees nothing wrong" finish_client
	check "$how of a primary: the survivor ends in order" stop_host b
	check "$how of a primary: one takeover" equal generations "$(generations)" "ledger.gen-1 ledger.gen-2"
	check "$how of a primary: nothing is left" nothing_left

	check "$how of a backup: a pair" make_pair
	start_client --rate 300 --seconds 300 --deadline 60
	sleep 1
	check "$how of a backup: it is told" tell b "$how"
	check "$how of a backup: it ends in order" ends_with b 0
	check "$how of a backup: the primary goes on alone" wait_role a solo 60
	check "$how of a backup: the client sees nothing wrong" finish_client
	check "$how of a backup: the primary ends in order" stop_host a
	check "$how of a backup: nothing is left" nothing_left
done
end_cases
