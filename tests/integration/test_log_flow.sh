#!/bin/bash
#
# The log between a primary and a backup that is slow, stopped, or fed by a client with entries of its
# own: a full ring stops the guest and not the log (L3), outputs that wait are bounded on both sides
# (D3, O3), and what looks like an entry inside a frame is a frame (L2).

set -u
cd "${0%/*}/../.." || exit
. tests/integration/lib.sh
. tests/integration/cases.sh

ring=$((1 << 20))
payload=1400 # of the datagrams sent here

in_client()
{
	ip netns exec "$CLIENTS" "$@"
}

# blast FILE COUNT: datagrams with the file's bytes, to the guest's echo, as fast as they go.
blast()
{
	# shellcheck disable=SC2016  # for the inner shell
	in_client bash -c 'exec 3>/dev/udp/10.77.0.2/7 && dd if="$1" bs="$2" count="$3" status=none >&3' \
		- "$1" $payload "$2"
}

# echoes FILE COUNT: the guest's echo of the file's bytes is equal to them, a datagram after the other.
# One that is lost is sent again from another port, where no late echo can be taken for it.
echoes()
{
	# shellcheck disable=SC2016
	in_client bash -c '
		exec 3<>/dev/udp/10.77.0.2/7
		for ((i = 0; i < $3; i++)); do
			dd if="$1" bs="$2" skip=$i count=1 status=none of="$4/sent"
			for ((try = 0; try < 10; try++)); do
				cat "$4/sent" >&3
				timeout 5 dd bs=2000 count=1 status=none of="$4/echo" <&3 && break
				exec 3<>/dev/udp/10.77.0.2/7
			done
			cmp "$4/sent" "$4/echo" || exit
		done' - "$1" $payload "$2" "$LAB"
}

less()
{
	[ "${1:-x}" != x ] && [ "$1" -lt "$2" ]
}

ring_is_full()
{
	blast "$LAB/recording" 200
	lag=$(host_status a lag_bytes)
	[ "$lag" -le "$most_lag" ] || most_lag=$lag
	[ "$lag" -gt $((ring - 128 * 1024)) ]
}

stands_still()
{
	local before after
	before=$(host_status a exits)
	sleep 0.5
	after=$(host_status a exits)
	[ -n "$before" ] && equal "the guest's number of exits" "$after" "$before"
}

lag_is_small()
{
	less "$(host_status a lag_bytes)" $((ring / 4))
}

still_a_pair()
{
	equal "the role of a" "$(host_status a role)" primary &&
		equal "the role of b" "$(host_status b role)" backup
}

# A full ring is what is looked at here, and not what keeps a guest from it.
make_pair()
{
	rm -f "$LAB/arbiter/"*
	start_primary a dop0 b --ring 1M --lag 60000 "$@" &&
		start_standby b dop1 b a "${@/--commit=*/--name=$VM}" &&
		wait_protected a b 60
}

skip_all_if_lacking "the log flows"
lab_begin

# Something to send: a recording is full of well-formed entries.
launch recorded run --kernel "$BUILD/guests/hammer.elf" --append seconds=2 --record "$LAB/recording"
check "a guest is recorded" ends_with recorded 0

# A backup that stands still for less than the timeout.
check "a pair with a ring of 1 MiB" make_pair --heartbeat-timeout 60000
start_client --rate 200 --seconds 300 --deadline 60
sleep 1
most_lag=0
kill -STOP "${HOST_PID[b]}"
frozen=$(date +%s%N)
check "the ring of a frozen backup fills" until_true 60 ring_is_full
check "and then the guest stands still" until_true 60 stands_still
check "the lag is bounded by the ring" test "$most_lag" -le "$(host_status a ring_bytes)"
check "nothing more is released meanwhile" test "$(host_status a held_outputs)" -gt 0
kill -CONT "${HOST_PID[b]}"
frozen=$((($(date +%s%N) - frozen) / 1000000))
check "the backup catches up once it is thawed" until_true 60 lag_is_small
sleep 1
check "both have their roles still" still_a_pair
check "nothing is lost or counted twice" finish_client
gap=$(summary max_gap_ms)
check "the client saw a pause while the backup stood still" test "${gap%.*}" -ge $((frozen / 2))
echo "figure frozen_ms=$frozen max_gap_ms=$gap most_lag_bytes=$most_lag ring_bytes=$ring"

# More output than either side can hold.
filled=$(host_status a tx_bytes)
fill=$((8 << 20))
most_kept=0
kept_is_small()
{
	local kept
	kept=$(host_status b held_outputs)
	[ "${kept:-0}" -le "$most_kept" ] || most_kept=$kept
	less "$kept" 200
}
# The guest serves one FILL at a time, and the last frames of the one before may not be counted yet.
begin_fill()
{
	ask_guest "FILL $fill" | head -c 3 | grep -qv ERR
}
sent_all()
{
	kept_is_small
	[ "$(host_status a tx_bytes)" -ge $((filled + fill)) ] 2>/dev/null
}
for n in 1 2 3; do
	check "FILL $n of 8 MiB begins" until_true 30 begin_fill
	check "FILL $n is sent in full" until_true 90 sent_all
	filled=$((filled + fill))
	check "after FILL $n the backup does not keep what has left" until_true 30 kept_is_small
done
check "both have their roles after so much output" still_a_pair
echo "figure most_kept_outputs=$most_kept"

echoes=150
[ "$(kvm_kind)" != emulated ] || echoes=30
# Entries from a client: of another session, and, as the ring has them, of this very one.
start_client --rate 200 --seconds 300 --deadline 60
whole=$(($(stat -c %s "$LAB/recording") / payload)) # of the datagrams that the recording fills
check "entries of a recording are echoed as they are" echoes "$LAB/recording" $((whole < echoes ? whole : echoes))
at=$(sed -n 's/-.*memfd:doppel log ring.*//p' "/proc/${HOST_PID[b]}/maps" | head -n 1)
check "a copy of the present log" dd if="/proc/${HOST_PID[b]}/mem" of="$LAB/ring" bs=64K count=$ring \
	iflag=skip_bytes,count_bytes skip=$((0x$at))
check "entries of the present log are echoed as they are" echoes "$LAB/ring" $echoes
laps=$(($(host_status a log_bytes) / ring))
goes_round()
{
	blast "$LAB/ring" 300
	[ "$(host_status a log_bytes)" -gt $(((laps + 2) * ring)) ]
}
check "the log goes over such frames again" until_true 60 goes_round
check "both have their roles after such frames" still_a_pair
kill_hard a
check "the backup takes over in the middle of such frames" wait_role b solo 60
check "echoes are right after the failover" echoes "$LAB/ring" 20
check "no answer is lost or wrong" finish_client
check "the survivor ends in order" stop_host b

# Outputs that wait for the replay.
check "a pair that commits what is replayed" make_pair --commit=replayed
check "the status says so" equal commit "$(host_status a commit)" replayed
start_client --rate 400 --seconds 300 --deadline 60
sleep 3
check "both have their roles under load" still_a_pair
kill_hard a
check "its backup takes over" wait_role b solo 60
sleep 1
check "nothing is lost there either" finish_client
echo "figure replayed_p50_us=$(summary p50_us) replayed_p99_us=$(summary p99_us)"
check "that survivor ends in order" stop_host b
end_cases
