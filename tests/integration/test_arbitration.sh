#!/bin/bash
#
# Who goes on when each side believes that the other is dead: silence between living sides, races for the
# next generation, an arbiter that cannot be asked, and sides that were frozen at some step and wake up
# in a world that has gone on without them. In the end there is one, which has the newest
# generation, and a client that was there all the time finds nothing wrong.
#
#   test_arbitration.sh [WORD...]      only the cases whose sentence has one of the words

# Mounts of its own, which go with it.
if [ -z "${OWN_MOUNTS:-}" ] && [ "$(id -u)" -eq 0 ]; then
	OWN_MOUNTS=1 exec unshare --mount "$0" "$@"
fi
set -u
cd "${0%/*}/../.." || exit
. tests/integration/lib.sh
. tests/integration/cases.sh
. tests/integration/faults.sh
user_kvm

RACES=10
# A side that nothing is to suspect for silence, and one that does so soon.
PATIENT=60000 HASTY=600
WORDS=("$@")
WRONG='' # why the case has failed

# ---- what cases are made of ----

# try SENTENCE FUNCTION [ARGUMENT...]: one case, behind which nothing of it is left running.
try()
{
	local sentence=$1 word wanted=${#WORDS[@]}
	shift
	for word in "${WORDS[@]}"; do
		[[ $sentence != *"$word"* ]] || wanted=0
	done
	[ "$wanted" -eq 0 ] || return 0
	WRONG=''
	if "$@"; then
		ok "$sentence"
	else
		failed "$sentence" "$WRONG" "$(head -n 20 "$LAB"/[ps]/log)" \
			"see it again with: tests/integration/test_arbitration.sh '$sentence'"
		mkdir "$LAB/failed$CASES_FAILED"
		cp -r "$LAB"/[ps] "$LAB/client" "$LAB/failed$CASES_FAILED"
	fi
	end_side "${!HOST_PID[@]}"
	[ -z "$CLIENT_PID" ] || end_quietly "$CLIENT_PID"
	CLIENT_PID=''
	heartbeats_flow
}

wrong()
{
	WRONG=$*
	return 1
}

heartbeats_stop()
{
	ip -n "$HOSTS" link set lo down
}

heartbeats_flow()
{
	ip -n "$HOSTS" link set lo up
}

# pair_with_client ARGUMENT...: as pair_up, and a client that has its first answers.
pair_with_client()
{
	pair_up "$@" || wrong "p and s did not become a pair" || return
	begin_client --rate 200 --seconds 300
	within 60 has_answered p || wrong "the client gets no answers"
}

# goes_live NAME: it has the generation, and the guest.
goes_live()
{
	within 60 says "$1" "as generation" || wrong "$1 has not gone on"
}

# is_deposed NAME: it halts, and says why.
is_deposed()
{
	wait_end "$1" 60 || wrong "$1 has not halted" || return
	[ "$HOST_STATUS" -eq 5 ] || wrong "$1 has ended with $HOST_STATUS, not as deposed" || return
	says "$1" deposed || wrong "$1 does not say that it was deposed"
}

# reigns NAME: it alone runs the guest, with the newest generation in its name.
reigns()
{
	local other role generation
	for other in "${!HOST_PID[@]}"; do
		[ "$other" = "$1" ] || wrong "$other lives beside $1" || return
	done
	within 60 holds "$1" || wrong "generation $GENERATION is process $HOLDER's, not $1's" || return
	role=$(host_status "$1" role) generation=$(host_status "$1" generation)
	[ "$role $generation" = "solo $GENERATION" ] ||
		wrong "$1 is $role with generation $generation, and not solo with $GENERATION"
}

# The client's verdict on everything up to now, answers behind the last fault included.
client_agrees()
{
	pause 0.3
	finish_client || wrong "the client found: $(cat "$LAB/client/summary"; head -n 5 "$LAB/client/said")"
}

# nobody_answers SECONDS
nobody_answers()
{
	local answer
	! answer=$(ip netns exec "$CLIENTS" "$CLIENT" --wait "$1" ask GET 2>&1) ||
		wrong "somebody answers, without the generation: $answer"
}

# ---- silence and races ----

# end_of_race: one of p and s is left. WINNER is its name.
end_of_race()
{
	local loser=s
	WINNER=p
	within 60 one_has_ended || wrong "neither p nor s has halted" || return
	if has_ended p; then
		WINNER=s loser=p
	fi
	is_deposed "$loser" && goes_live "$WINNER" && client_agrees && reigns "$WINNER"
}

one_has_ended()
{
	has_ended p || has_ended s
}

silence()
{
	pair_with_client '' '' "$HASTY" "$HASTY" || return
	heartbeats_stop
	end_of_race
}

# Both have looked at the arbiter, and are let go at the same time, with link() to come.
race()
{
	pair_with_client freeze=arbiter.before:2 freeze=arbiter.before:1 "$HASTY" "$HASTY" || return
	heartbeats_stop
	within 60 is_frozen p && within 60 is_frozen s || wrong "p and s do not both come to link()" || return
	if [ "$1" -eq 0 ]; then
		kill -CONT "${HOST_PID[p]}" "${HOST_PID[s]}"
	else
		kill -CONT "${HOST_PID[s]}" "${HOST_PID[p]}"
	fi
	end_of_race
}

races()
{
	local n
	declare -A won=([p]=0 [s]=0)
	for ((n = 0; n < RACES; n++)); do
		if [ $((n % 2)) -eq 0 ]; then
			race $((n / 2 % 2)) || return
		else
			silence || return
		fi
		won[$WINNER]=$((won[$WINNER] + 1))
		end_side "$WINNER"
		heartbeats_flow
	done
	echo "figure races=$RACES won_by_primary=${won[p]} won_by_backup=${won[s]}"
}

# Each is silent for the other, but neither has heard anything since.
both_stand_still()
{
	pair_with_client '' '' "$HASTY" "$HASTY" || return
	freeze p
	freeze s
	pause 1
	thaw p
	thaw s
	pause 1
	client_agrees || return
	if has_ended p; then
		is_deposed p && reigns s
	elif has_ended s; then
		is_deposed s && reigns p
	else
		holds p || wrong "generation $GENERATION is process $HOLDER's, not p's"
	fi
}

# ---- an arbiter that cannot be asked ----

arbiter_moves_away()
{
	mv "$LAB/arbiter" "$LAB/arbiter.away"
}

arbiter_is_a_file()
{
	arbiter_moves_away
	: >"$LAB/arbiter"
}

arbiter_is_another()
{
	arbiter_moves_away
	mkdir "$LAB/arbiter"
}

arbiter_is_read_only()
{
	mount -o remount,ro "$LAB/arbiter"
}

arbiter_returns()
{
	if mountpoint -q "$LAB/arbiter"; then
		mount -o remount,rw "$LAB/arbiter"
	else
		rm -rf "$LAB/arbiter"
		mv "$LAB/arbiter.away" "$LAB/arbiter"
	fi
}

# without_arbiter FAULT VICTIM SURVIVOR
without_arbiter()
{
	[ "$1" != arbiter_is_read_only ] || mount -t tmpfs tmpfs "$LAB/arbiter" || return
	pair_with_client '' '' "$PATIENT" "$PATIENT"
	"$1"
	end_side "$2"
	within 60 says "$3" "the arbiter does not answer" || wrong "$3 does not say that it cannot ask" || return
	nobody_answers 0.7 || return
	arbiter_returns
	goes_live "$3" && client_agrees && reigns "$3"
}

# The same, and an end of what the case has mounted or moved.
arbiter_case()
{
	GENERATION=0
	without_arbiter "$@"
	local status=$?
	! mountpoint -q "$LAB/arbiter" || umount "$LAB/arbiter"
	[ ! -e "$LAB/arbiter.away" ] || arbiter_returns
	GENERATION=0
	return "$status"
}

# While both live nobody needs it; a standby is not taken without it, but afterwards.
arbiter_not_needed()
{
	pair_with_client '' '' "$PATIENT" "$PATIENT" || return
	arbiter_moves_away
	pause 1.5
	[ "$(host_status p role) $(host_status s role)" = "primary backup" ] ||
		wrong "p and s did not stay a pair" || return
	[ "$(host_status s tx_frames)" = 0 ] || wrong "the backup has sent frames" || return
	arbiter_returns
	client_agrees
}

no_clone_without_arbiter()
{
	launch_primary p '' s
	within 60 holds p || wrong "p has not started" || return
	begin_client --rate 200 --seconds 300
	freeze p
	launch_standby s '' s p
	within 60 says s "waiting for a primary" || wrong "s does not wait" || return
	arbiter_moves_away
	thaw p
	pause 1
	! says s "following the primary" || wrong "s follows without having asked the arbiter" || return
	arbiter_returns
	within 60 says s "following the primary" || wrong "p and s did not become a pair" || return
	client_agrees
}

# A start that died with the generation in hand: nobody knows whether it has run.
dead_at_start()
{
	rm -f "$LAB/arbiter/$VM".gen-*
	GENERATION=0
	address s
	launch_side p crash=arbiter.linked:1 primary --kernel "$LEDGER" --standby "$ADDRESS"
	wait_end p 60 && [ "$HOST_STATUS" -eq 137 ] || wrong "p was not killed" || return
	launch_side p '' primary --kernel "$LEDGER" --standby "$ADDRESS"
	wait_end p 60 && [ "$HOST_STATUS" -eq 6 ] || wrong "a second start was not refused" || return
	launch_primary p '' s
	goes_on_alone
}

goes_on_alone()
{
	ask_guest GET >/dev/null || wrong "the guest does not answer" || return
	reigns p
}

taken_over_by_force()
{
	launch_primary p '' nobody
	within 60 holds p || wrong "p has not started" || return
	launch_primary s '' nobody
	within 60 holds s || wrong "s has not started" || return
	is_deposed p && reigns s
}

# ---- frozen sides ----

# A primary that stops at a point: the backup takes over, and what wakes up later must halt.
primary_stops()
{
	pair_with_client "freeze=$1:$((100 + RANDOM % 60)):15" '' "$PATIENT" "$HASTY" --commit "$2" || return
	within 60 is_frozen p || wrong "p has not come to $1" || return
	succession
}

primary_stops_anywhere()
{
	pair_with_client '' '' "$PATIENT" "$HASTY" || return
	pause "0.$((RANDOM % 10))$((RANDOM % 10))"
	freeze p
	succession
}

succession()
{
	goes_live s || return
	pause 0.3
	thaw p
	is_deposed p && client_agrees && reigns s
}

# A backup that stops: the primary goes on alone.
backup_stops()
{
	pair_with_client '' "freeze=$1:$((20 + RANDOM % 60)):15" "$HASTY" "$PATIENT" || return
	within 60 is_frozen s || wrong "s has not come to $1" || return
	succession_of_one
}

backup_stops_anywhere()
{
	pair_with_client '' '' "$HASTY" "$PATIENT" || return
	pause "0.$((RANDOM % 10))$((RANDOM % 10))"
	freeze s
	succession_of_one
}

succession_of_one()
{
	goes_live p || return
	pause 0.3
	thaw s
	is_deposed s && client_agrees && reigns p
}

# suspect_stops SUSPECT OTHER POINT N: it stops at a step of taking the generation, while the other, of whom
# it has not heard, was frozen and comes back first. SUSPECT wins if it had the generation already.
suspect_stops()
{
	local traps=('' "freeze=$3:$4") timeouts=("$PATIENT" "$HASTY")
	[ "$1" = s ] || traps=("freeze=$3:$4" '') timeouts=("$HASTY" "$PATIENT")
	pair_with_client "${traps[@]}" "${timeouts[@]}" || return
	freeze "$2"
	within 60 is_frozen "$1" || wrong "$1 has not come to $3" || return
	thaw "$2"
	case $3 in
	fence.after | arbiter.before)
		goes_live "$2" || return
		pause 0.3
		thaw "$1"
		is_deposed "$1" && client_agrees && reigns "$2"
		;;
	*)
		is_deposed "$2" && nobody_answers_from "$1" "$3" || return
		thaw "$1"
		goes_live "$1" && client_agrees && reigns "$1"
		;;
	esac
}

nobody_answers_from()
{
	# Behind live.after all is done, and the frozen one's dataplane has stopped with it.
	nobody_answers 0.3 || wrong "$1 answers, frozen at $2"
}

# ---- the clone's last message ----

dies_before_commit()
{
	launch_standby s '' s p
	launch_primary p crash=clone.before:1 s
	wait_end p 60 && [ "$HOST_STATUS" -eq 137 ] || wrong "p was not killed" || return
	within 60 says s "was not accepted" || wrong "s does not see that the clone was cut off" || return
	pause 1
	newest_generation
	[ "$(host_status s role)" = standby ] && ! holds s && ! says s live ||
		wrong "s is $(host_status s role), generation $GENERATION is process $HOLDER's" || return
	launch_primary p '' s
	within 60 says s "following the primary" || wrong "s does not serve the next primary"
}

dies_behind_commit()
{
	launch_standby s '' s p
	launch_primary p crash=clone.after:1 s
	wait_end p 60 && [ "$HOST_STATUS" -eq 137 ] || wrong "p was not killed" || return
	goes_live s && ask_guest GET >/dev/null && reigns s
}

# With a client from the beginning, who knows what the guest has answered alone.
frozen_around_commit()
{
	launch_primary p "freeze=$1:1" s --heartbeat-timeout "$PATIENT"
	within 60 holds p || wrong "p has not started" || return
	begin_client --rate 200 --seconds 300
	within 60 has_answered p || wrong "the client gets no answers"
	launch_standby s '' s p --heartbeat-timeout "$HASTY"
	within 60 is_frozen p || wrong "p has not come to $1" || return
	"$2"
}

then_thawed()
{
	pause 1
	thaw p
	within 60 says s "following the primary" || wrong "p and s did not become a pair" || return
	within 60 says p "protected by" && client_agrees && holds p ||
		wrong "${WRONG:-generation $GENERATION is process $HOLDER\'s, not p\'s}"
}

then_without_standby()
{
	end_side s
	thaw p
	goes_live p && client_agrees && reigns p
}

# ---- the cases ----

skip_all_if_lacking "one side goes on, whatever happens to the other and to the arbiter"
lab_begin

try "heartbeats cut while both live: one goes on, the other halts" silence
try "two that try at once, $RACES times: one goes on each time" races
try "both stand still and wake: the guest goes on" both_stand_still

for fault in moves_away is_a_file is_another is_read_only; do
	try "the arbiter ${fault//_/ } and the primary dies: nothing leaves until it is back" \
		arbiter_case "arbiter_$fault" p s
	try "the arbiter ${fault//_/ } and the backup dies: nothing leaves until it is back" \
		arbiter_case "arbiter_$fault" s p
done
try "the arbiter is away while both live: nothing happens" arbiter_not_needed
try "the arbiter is away and a standby waits: it is taken when the arbiter is back" no_clone_without_arbiter
try "a start that died with the generation: the next one is refused, and taking over works" dead_at_start
try "taking over from one that runs alone: it halts" taken_over_by_force

for point in release.before transmit.after append.after flush.before flush.after; do
	try "a primary frozen at $point and thawed: it halts" primary_stops "$point" received
done
try "a primary frozen at transmit.after, committing what is replayed: it halts" \
	primary_stops transmit.after replayed
for n in 1 2 3 4 5; do
	try "a primary frozen at a random moment ($n): it halts" primary_stops_anywhere
done
for point in receive.checked ack.before ack.after apply.before apply.after; do
	try "a backup frozen at $point and thawed: it halts" backup_stops "$point"
done
try "a backup frozen at a random moment: it halts" backup_stops_anywhere

for point in fence.after arbiter.before; do
	try "a backup frozen at $point of its takeover: the primary goes on" suspect_stops s p "$point" 1
done
for point in arbiter.linked arbiter.won live.before live.after; do
	try "a backup frozen at $point of its takeover: the primary halts" suspect_stops s p "$point" 1
done
try "a primary frozen at fence.after, to be alone: the backup goes on" suspect_stops p s fence.after 1
try "a primary frozen at arbiter.before, to be alone: the backup goes on" suspect_stops p s arbiter.before 2
try "a primary frozen at arbiter.linked, to be alone: the backup halts" suspect_stops p s arbiter.linked 2
try "a primary frozen at arbiter.won, to be alone: the backup halts" suspect_stops p s arbiter.won 2

try "a primary that dies before the clone's last message: the standby never tries" dies_before_commit
try "a primary that dies behind the clone's last message: the standby goes live" dies_behind_commit
try "a primary frozen before the clone's last message: it goes on with its standby" \
	frozen_around_commit clone.before then_thawed
try "a primary frozen before the clone's last message, whose standby dies: it goes on alone" \
	frozen_around_commit clone.before then_without_standby
try "a primary frozen behind the clone's last message: the standby takes over" \
	frozen_around_commit clone.after succession
end_cases
