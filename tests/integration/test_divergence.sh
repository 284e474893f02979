#!/bin/bash
#
# A backup that is not what the primary is (D5): one bit of it is changed on purpose, by a hook in the
# build with crash points (engine/tamper.h) or from outside, through /proc/PID/mem. It has to be found
# within one sweep of memory, and then the backup ends without ever going live, while the primary goes
# on alone. Offline the same, with a recording.

set -u
cd "${0%/*}/../.." || exit
. tests/integration/lib.sh
. tests/integration/cases.sh
CRASH_BUILD=${CRASH_BUILD:-build-crash}

# Small, so that a sweep is short: 1,536 logged positions, of which there are some 1,000 a second.
memory=6 sweep=$((6 * 256))
# Nothing but the sweep reads this: behind the command line, in a page that the boot has left behind.
unread=$((0x8f00))

# change_byte NAME ADDRESS: of the guest's memory in that process.
change_byte()
{
	local pid=${HOST_PID[$1]} start old
	start=$(sed -n 's/-.*memfd:doppel-guest.*//p' "/proc/$pid/maps" | head -n 1)
	[ -n "$start" ] || return
	start=$((0x$start + $2))
	old=$(dd if="/proc/$pid/mem" bs=1 count=1 skip="$start" status=none | od -An -tu1) || return
	printf "\\$(printf '%03o' $((old ^ 1)))" |
		dd of="/proc/$pid/mem" bs=1 count=1 seek="$start" conv=notrunc status=none
}

# The generations' numbers and holders, on one line.
generations()
{
	sed -n 's/^doppel generation \([0-9]*\) .* pid \([0-9]*\) .*/\1:\2/p' "$LAB/arbiter/ledger.gen-"* |
		tr '\n' ' '
}

says_where()
{
	grep -q 'diverged at position [0-9]* (rip 0x[0-9a-f]*): .*; the log says: lsn=[0-9]* pos=[0-9]* ' \
		"$LAB/$1/log"
}

swept_over()
{
	local page
	page=$(printf '%#x' $(($2 & ~4095)))
	grep -q "memory differs (memory swept: $page to " "$LAB/$1/log"
}

when=end # what a backup does then: nothing more, so that it can be looked at
# make_pair [OPTION...]: a is the primary, b its backup, and a client is at work. Only b has the hook. No
# resync is to mend what was changed, however slow this machine is.
make_pair()
{
	rm -f "$LAB/arbiter/"*
	start_primary a dop0 b --memory ${memory}M --interrupt-wait 10000 "$@" || return
	DOPPEL=$CRASH_BUILD/doppel start_standby b dop1 b a --when-diverged "$when" "$@" || return
	wait_protected a b 60 || return
	start_client --rate 500 --seconds 300 --deadline 60
}

# never_held PID: no generation is that process's.
never_held()
{
	! generations | grep -q ":$1 "
}

# found_out HOW: what holds in the end, however the backup was changed.
found_out()
{
	local holder
	check "$1: the backup ends with status 3" ends_with b 3 90
	check "$1: it says where, and what the log says" says_where b
	check "$1: the primary goes on alone" wait_role a solo 30
	holder=${HOST_PID[a]}
	check "$1: only the primary has taken generations" equal generations "$(generations)" "1:$holder 2:$holder "
	check "$1: the client sees nothing wrong" finish_client
	check "$1: the primary ends in order" stop_host a
}

skip_all_if_lacking "a backup that differs is found out"
if [ ! -x "$CRASH_BUILD/doppel" ]; then
	echo "skip a backup that differs is found out: $CRASH_BUILD/doppel is missing: run make CRASH_POINTS=1"
	exit 0
fi
lab_begin

export DOPPEL_TAMPER=register:2000
check "a backup joins, in which a register will change" make_pair
unset DOPPEL_TAMPER
found_out "one bit of a register"
check "one bit of a register: it is the registers that differ" grep -q 'register' "$LAB/b/log"

export DOPPEL_TAMPER=memory:2000:$unread
check "a backup joins, in which a byte of memory will change" make_pair
unset DOPPEL_TAMPER
found_out "one bit of memory"
check "one bit of memory: it is found as the sweep passes it" swept_over b $unread

check "a backup joins, into which somebody will write" make_pair
sleep 1
check "one byte can be changed from outside" change_byte b $((unread + 8))
found_out "one byte from outside"
check "one byte from outside: it is found as the sweep passes it" swept_over b $unread

# By default such a backup is copied anew, and is as good as before.
when=rejoin
check "a backup joins that may join again" make_pair
sleep 1
check "one byte of it can be changed" change_byte b $((unread + 8))
diverges()
{
	[ "$(host_status "$1" divergences)" = "$2" ]
}
check "the primary hears that it has diverged" until_true 60 diverges a 1
check "so does whoever asks the backup" diverges b 1
check "it says where, and what the log says" says_where b
joined()
{
	[ "$(grep -c "protected by" "$LAB/a/log")" = "$1" ]
}
check "it joins again" until_true 60 joined 2
sleep 1
check "one byte of it can be changed once more" change_byte b $((unread + 8))
check "the primary hears of it again" until_true 60 diverges a 2
check "it joins a second time" until_true 60 joined 3
check "and is not found to differ any more" diverges b 2
sleep 1
kill_hard a
check "it goes live when the primary dies" wait_role b solo 30
sleep 1
check "the client sees nothing wrong with that" finish_client
check "the survivor ends in order" stop_host b

# One that KVM refuses to run any further is no better, and no worse.
export DOPPEL_TAMPER=refused:2000
check "a backup joins, whose guest KVM will refuse" make_pair
unset DOPPEL_TAMPER
check "it says what has failed" until_true 60 grep -q "KVM cannot run the guest: Invalid argument" "$LAB/b/log"
check "the primary hears that it is no backup any more" until_true 60 diverges a 1
check "it joins again" until_true 60 joined 2
kill_hard b
check "the primary goes on alone" wait_role a solo 30
check "the client sees nothing wrong with that" finish_client
check "the primary ends in order" stop_host a
when=end

# The primary dies before the backup has found out: then nobody is left, and nobody goes live, whichever of the
# two, the end of the connection or its own divergence, the backup hears of first. Their guest is hammer, which
# is soon a sweep further.
make_hammer_pair()
{
	local options=(--name "$VM" "${PAIR_OPTIONS[@]}" --heartbeat-timeout 60000)
	rm -f "$LAB/arbiter/"*
	address b
	launch a primary "${options[@]}" --kernel "$BUILD/guests/hammer.elf" --append seconds=300 --memory 2M \
		--standby "$ADDRESS" --lag 60000
	launch b standby "${options[@]}" --listen "$ADDRESS" --when-diverged "$when"
	wait_protected a b 60
}
sweep=$((2 * 256))
check "a backup joins, and is frozen" make_hammer_pair
kill -STOP "${HOST_PID[b]}"
check "one byte of a frozen backup can be changed" change_byte b $unread
# Some one of four exits is a logged position: more than a sweep has to wait in the ring.
began=$(host_status a exits)
more_than_a_sweep()
{
	[ "$(host_status a exits)" -gt $((began + 12 * sweep)) ]
}
check "the primary goes on meanwhile" until_true 60 more_than_a_sweep
diverged=${HOST_PID[b]}
kill_hard a
kill -CONT "$diverged"
check "a backup that finds out in the rest of the log ends with status 3" ends_with b 3 90
check "it has taken no generation" never_held "$diverged"

# Offline, where every position can be counted.
launch recorded run --kernel "$BUILD/guests/hammer.elf" --append ticks=2000 --memory 2M --record "$LAB/recording"
mkdir "$LAB/register" "$LAB/memory"
check "a guest is recorded" ends_with recorded 0
"$DOPPEL" dump "$LAB/recording" | sed -n 's/^lsn=[0-9]* pos=\([0-9]*\) .*/\1/p' >"$LAB/positions"
check "its recording matches" "$DOPPEL" replay "$LAB/recording"

# offline HOW TAMPER: the positions, each counted once, from the tampered entry to where it was found.
offline()
{
	local found status
	DOPPEL_TAMPER=$2 "$CRASH_BUILD/doppel" replay "$LAB/recording" >/dev/null 2>"$LAB/$1/log"
	status=$?
	check "offline, $1: the replay ends with status 3" equal status $status 3
	check "offline, $1: it says where, and what the log says" says_where "$1"
	found=$(sed -n 's/.*diverged at position \([0-9]*\) .*/\1/p' "$LAB/$1/log")
	positions=$(tail -n +300 "$LAB/positions" | uniq | awk -v found="${found:-0}" '$1 <= found' | wc -l)
	if [ "$positions" -ge 1 ] && [ "$positions" -le $((sweep + 1)) ]; then
		ok "offline, $1: it is found within one sweep"
	else
		failed "offline, $1: it is found within one sweep" \
			"after $positions logged positions, of $sweep in a sweep" "$(cat "$LAB/$1/log")"
	fi
}
offline register register:300
registers=$positions
offline memory memory:300:$unread
check "offline, memory: it is found as the sweep passes it" swept_over memory $unread
echo "figure sweep_positions=$sweep register_found_after=$registers memory_found_after=$positions"
end_cases
