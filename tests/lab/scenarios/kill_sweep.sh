#!/bin/bash
#
# One guest is handed from process to process, and from host to host, by LAB_KILLS kills (50), at the points of
# the protocol (base/crash_point.h) and at random moments, while a client adds numbers. Each step kills one side
# of the pair; a new standby takes its place, on the same host. LAB_SEED repeats a plan.

. "${0%/*}/../lab.sh"
kills=${LAB_KILLS:-50} seed=${LAB_SEED:-$((SRANDOM % 100000))}
backup_points=(receive.checked ack.before ack.after apply.before apply.after)
primary_points=(append.before append.after flush.before flush.after clone.after)
TOOL=/build-crash/doppel

# What dies in which step. A process is told its point when it starts, as a standby; one that is to die as
# a primary is told only if it becomes one in its own step, so that it passes the point by its first log.
RANDOM=$seed
roles=() points=() counts=()
for ((i = 0; i <= kills + 1; i++)); do
	roles+=("$( ((RANDOM % 2)) && echo backup || echo primary)")
	if [ "${roles[i]}" = backup ]; then
		points+=("${backup_points[RANDOM % 5]}") counts+=($((1 + RANDOM % 60)))
	elif [ "$i" -gt 1 ] && [ "${roles[i - 1]}" = primary ]; then
		points+=("${primary_points[RANDOM % 5]}") counts+=($((1 + RANDOM % 60)))
		[ "${points[i]}" != clone.after ] || counts[i]=1
	else
		points+=(random) counts+=(0)
	fi
	((RANDOM % 6)) || points[i]=random
done

# join STEP HOST: the process that begins as this step's standby.
join()
{
	local step=$1 trap=''
	if [ "${roles[$1]}" = primary ]; then
		step=$(($1 + 1))
	fi
	if [ "${roles[step]}" != "${roles[$1]}" ]; then
		step=0
	fi
	[ "$step" -eq 0 ] || [ "${points[step]}" = random ] || trap=DOPPEL_CRASH=${points[step]}:${counts[step]}
	host[$1]=$2
	DOPPEL_ENV=$trap start_standby "p$1" "$2"
}

# step N: one kill.
step()
{
	local backup=p$1 victim survivor
	victim=$live survivor=$backup
	[ "${roles[$1]}" = primary ] || victim=$backup survivor=$live
	until [ "$(role "$backup")" = backup ] || ! running "$victim"; do
		[ "$SECONDS" -lt "$end" ] || { echo "step $1: $live and $backup did not become a pair"; return 1; }
		sleep 0.1
	done
	if [ "${points[$1]}" = random ]; then
		sleep "0.$((RANDOM % 10))"
		send_signal "$victim" KILL
	fi
	ended_with "$victim" 137 60 || { echo "step $1: the ${roles[$1]} did not die at ${points[$1]}:${counts[$1]}"; return 1; }
	wait_role "$survivor" solo 60 || { echo "step $1: $survivor does not go on"; return 1; }
	live=$survivor lost=$victim
}

lab_boot "kills at any moment leave the guest whole"
if ! on_a 'test -x /build-crash/doppel'; then
	echo "skip kills at any moment leave the guest whole: there is no build with crash points"
	exit 0
fi
declare -A host=([0]=a)
start_primary p0 a
join 1 b
live=p0
check "two hosts protect a guest" wait_protected p0 p1 60
start_client a --rate 20 --seconds 3000 --deadline 60 --wait 40
for ((n = 1; n <= kills; n++)); do
	end=$((SECONDS + 60))
	if ! step "$n" >"$LAB/step" 2>&1; then
		failed "a kill leaves one side that goes on" "$(cat "$LAB/step")" "again with: LAB_SEED=$seed LAB_KILLS=$kills $0"
		lab_finish
	fi
	[ "$n" -eq "$kills" ] || join $((n + 1)) "${host[${lost#p}]}"
done
ok "$kills kills at points of the protocol and at random moments leave one side that goes on"
send_signal "$CLIENT" TERM
check "the client has seen nothing wrong" finish_client 90
echo "figure kills=$kills seed=$seed requests=$(summary requests) lost=$(summary lost) max_gap_ms=$(summary max_gap_ms)"
lab_finish
