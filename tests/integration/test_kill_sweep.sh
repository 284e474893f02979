#!/bin/bash
#
# Kills, by the hundred: at every crash point of the protocol (base/crash_point.h) and at random moments,
# of primaries, backups and standbys, while a client adds numbers and asks for the total and the time. After
# each kill the guest has to go on from where it was, and the client checks the whole history: no answered
# ADD lost or counted twice, total and clock never back, nothing answered that the survivor does not know.
#
#   test_kill_sweep.sh                 the sweep, over shm and over tcp; KILL_SEED chooses its plan
#   test_kill_sweep.sh ROUND SEED      one round of it again over TRANSPORT, such as: chain 17
#
# Rounds, each with a lab of its own, a few at a time:
#
#   chain     One guest is handed from process to process. Each step kills one side of the pair, with a
#             new standby ready to take its place. A process learns at its start where it will die; one
#             that dies as a primary joins when the one before it dies at once, so that its passings of
#             the point begin with its first log. A backup that dies in its durable log keeps one. Never
#             are both sides of a pair to die.
#   fair      A chain whose guest computes for long without leaving KVM, and is interrupted by resyncs
#             (engine/resync.h): the points are those of a resync, from its first page to its commit, on
#             either side, and random moments.
#   hand      A side dies with the next generation in its hand, while the other one, which it suspected,
#             was only frozen, and is thawed then. It cannot know what its successor has already
#             answered, and must halt: the guest is lost with the dead one. That is what A1 asks
#             for (who dies before link() leaves the generation to the other: those are in the
#             chain); what the client was answered has to be right even so.
#   release   A primary dies before or behind the sending of an output, with a client that always has
#             requests waiting. A new guest each time.
#   clone     A primary without a backup dies before the last message of its clone. The guest is lost
#             with its only copy, the standby must not go live with what it has, and serves the next.
#
# First: nothing takes longer.

set -u
cd "${0%/*}/../.." || exit
. tests/integration/lib.sh
. tests/integration/cases.sh
. tests/integration/faults.sh
user_kvm

CHAIN_KILLS=50
# How many rounds of each kind, and how many kills they make at least.
declare -A ROUNDS=(
	[shm]="hand release clone chain chain chain chain chain chain fair" [tcp]="hand release clone chain chain fair"
)
declare -A LEAST=([shm]=400 [tcp]=200)
HANDS=4 RELEASES=10 CLONES=6 # in a round of its kind, at each point
AT_ONCE=3 # rounds; each of them waits most of the time
BACKUP_POINTS=(receive.checked ack.before ack.after apply.before apply.after)
LOG_POINTS=(log.copied log.appended log.settled log.ended)
PRIMARY_POINTS=(append.before append.after flush.before flush.after clone.after)
RESYNC_BACKUP_POINTS=(stage.after commit.before commit.after)
RESYNC_PRIMARY_POINTS=(resync.page resync.before resync.after)
GUEST=() # what the guest of a chain is started with
# Passed before the generation is taken: whoever is left can take it.
EARLY_POINTS=(fence.after arbiter.before)
BACKUP_LATE_POINTS=(arbiter.linked arbiter.won live.before live.after)
PRIMARY_LATE_POINTS=(arbiter.linked arbiter.won)
# A side that nothing is to suspect for silence, and one that does so soon.
PATIENT=10000 HASTY=400

# ---- all rounds ----

# bad WHY: ends the round.
bad()
{
	local log
	echo "round $ROUND $SEED over $TRANSPORT failed behind $DEATHS kills: $*"
	for log in $(ls -t "$LAB"/*/log | head -n 4); do
		[ ! -s "$log" ] || tail -n 6 "$log" | sed "s|^|    ${log#"$LAB"/}: |"
	done
	echo "    what was written is in $LAB; see it again with: TRANSPORT=$TRANSPORT tests/integration/test_kill_sweep.sh $ROUND $SEED"
	LAB=''
	exit 1
}

# died ROLE POINT: counts a kill.
died()
{
	DEATHS=$((DEATHS + 1))
	echo "kill $1 $2"
}

# await_kill NAME ROLE POINT: the process dies at its point, or has just been killed.
await_kill()
{
	wait_end "$1" 60 || bad "the $2 $1 did not come to $3"
	[ "$HOST_STATUS" -eq 137 ] || bad "the $2 $1 has ended with $HOST_STATUS instead of being killed at $3"
	died "$2" "$3"
}

client_found()
{
	echo "the client found: $(cat "$LAB/client/summary")"
	head -n 5 "$LAB/client/said"
}

# The client's verdict: everything answered, nothing wrong.
client_content()
{
	finish_client || bad "$(client_found)"
	echo "gap $(summary max_gap_ms)"
}

# The same when the guest was lost: what was answered was right.
client_unharmed()
{
	finish_client
	[ "$(summary violations)" = 0 ] || bad "$(client_found)"
}

# ---- chain ----

# Steps from 1: ROLES says who dies, POINTS where (or "random"), COUNTS at which passing, and after how
# many milliseconds there.
ROLES=() POINTS=() COUNTS=()

# step ROLE POINT PASSING: one more. In two of three the thread stands at the point for a while before the
# process dies: a rule that only its haste keeps the other threads from breaking is broken then.
step()
{
	ROLES+=("$1") POINTS+=("$2") COUNTS+=("$3:$((RANDOM % 3 ? 15 : 0))")
}

# at ROLE POINT: one more step, at a passing that is soon reached.
at()
{
	local last=60
	case $1.$2 in
	*.random | *.clone.after | *.log.copied | backup.fence.* | backup.arbiter.*) last=1 ;;
	backup.log.*) last=20 ;;
	primary.fence.* | primary.arbiter.*)
		# It has passed the point once, when it went live.
		step "$1" "$2" 2
		return
		;;
	esac
	step "$1" "$2" $((1 + RANDOM % last))
}

# at_one_of ROLE POINT...
at_one_of()
{
	local role=$1
	shift
	at "$role" "${@:1 + RANDOM % $#:1}"
}

# Each point once, and then what the dice say. A primary has a point only if the one before it died in the
# step before, see above.
plan_chain()
{
	local n run point
	step - - -
	for point in "${BACKUP_POINTS[@]}" "${LOG_POINTS[@]}" "${EARLY_POINTS[@]}"; do
		at backup "$point"
	done
	at primary random
	for point in "${PRIMARY_POINTS[@]}" "${EARLY_POINTS[@]}"; do
		at primary "$point"
	done
	while [ "${#ROLES[@]}" -le $((CHAIN_KILLS + 1)) ]; do
		run=$((2 + RANDOM % 5))
		for ((n = 0; n < run; n++)); do
			case $((RANDOM % 8)) in
			0) at backup random ;;
			1) at standby random ;;
			2) at_one_of backup "${EARLY_POINTS[@]}" ;;
			3) at_one_of backup "${LOG_POINTS[@]}" ;;
			*) at_one_of backup "${BACKUP_POINTS[@]}" ;;
			esac
		done
		at primary random
		run=$((2 + RANDOM % 5))
		for ((n = 0; n < run; n++)); do
			case $((RANDOM % 8)) in
			0) at primary random ;;
			1) at_one_of primary "${EARLY_POINTS[@]}" ;;
			*) at_one_of primary "${PRIMARY_POINTS[@]}" ;;
			esac
		done
	done
}

declare -A PLACE=()

# join STEP PLACE: the process pSTEP, which begins as this step's standby.
join()
{
	local this=$1 next=$(($1 + 1)) trap='' other=a timeout=$PATIENT log=()
	[ "$2" = b ] || other=b
	if [ "${ROLES[$this]}" = backup ] && [ "${POINTS[$this]}" != random ]; then
		trap=crash=${POINTS[$this]}:${COUNTS[$this]}
	elif [ "${ROLES[$this]} ${ROLES[$next]}" = "primary primary" ] && [ "${POINTS[$next]}" != random ]; then
		trap=crash=${POINTS[$next]}:${COUNTS[$next]}
	fi
	[[ $trap != *fence* && $trap != *arbiter* ]] || timeout=$HASTY
	[[ $trap != *=log.* ]] || log=(--log "$LAB/p$this.durable" --log-size 24M)
	PLACE[p$this]=$2
	launch_standby "p$this" "$trap" "$2" "$other" --heartbeat-timeout "$timeout" "${log[@]}"
}

# The standby has become the backup, or whoever dies in this step has done so.
formed()
{
	says "$1" "following the primary" || has_ended "$2"
}

# play STEP: one kill. LIVE has the guest, `backup` is its peer; the survivor is LIVE behind it.
play()
{
	local role=${ROLES[$1]} point=${POINTS[$1]} backup=p$1 victim survivor moment
	if [ "$role" = primary ]; then
		victim=$LIVE survivor=$backup
	else
		victim=$backup survivor=$LIVE
	fi
	printf -v moment '0.%03d' $((RANDOM % 150))
	if [ "$role" = standby ]; then
		within 60 says "$backup" "waiting for a primary" || bad "standby $backup does not wait"
	else
		within 60 formed "$backup" "$victim" || bad "$LIVE and $backup did not become a pair"
		has_ended "$victim" || holds "$LIVE" || within 20 has_ended "$victim" ||
			bad "generation $GENERATION is process $HOLDER's, but $LIVE runs"
		[ "$1" -eq "$CHAIN_KILLS" ] || join $(($1 + 1)) "${PLACE[$victim]}"
	fi
	if [ "$point" = random ]; then
		pause "$moment"
		kill -KILL "${HOST_PID[$victim]}"
	elif [[ $point == fence* || $point == arbiter* ]]; then
		freeze "$survivor"
	fi
	await_kill "$victim" "$role" "$point"
	[[ $point != fence* && $point != arbiter* ]] || thaw "$survivor"
	[ "$role" != standby ] || join $(($1 + 1)) "${PLACE[$victim]}"
	LIVE=$survivor
}

chain()
{
	local i
	plan_chain
	PLACE[p0]=a LIVE=p0
	launch_primary p0 '' b --heartbeat-timeout "$PATIENT" "${GUEST[@]}"
	join 1 b
	within 60 says p0 "protected by" || bad "the first pair did not form"
	begin_client --rate 60 --seconds 600
	for ((i = 1; i <= CHAIN_KILLS; i++)); do
		play "$i"
	done
	client_content
	holds "$LIVE" || bad "generation $GENERATION is process $HOLDER's, but $LIVE runs"
}

# The guest checks what it works on, and ends if it is not what it left.
fair()
{
	BACKUP_POINTS=("${RESYNC_BACKUP_POINTS[@]}") PRIMARY_POINTS=("${RESYNC_PRIMARY_POINTS[@]}")
	GUEST=(--append compute=2)
	chain
}

# ---- hand, release, clone: a new guest for each kill ----

# hand_over ROLE POINT: that side dies at the point, its peer being frozen meanwhile.
hand_over()
{
	local victim=s other=p
	if [ "$1" = primary ]; then
		# It took its first generation when it started.
		victim=p other=s
		launch_primary p "crash=$2:2" s --heartbeat-timeout "$HASTY"
	else
		launch_primary p '' s --heartbeat-timeout "$PATIENT"
	fi
	begin_client --rate 200 --deadline 0.1 --seconds 300
	within 60 has_answered p || bad "the client gets no answers"
	if [ "$1" = primary ]; then
		launch_standby s '' s p --heartbeat-timeout "$PATIENT"
	else
		launch_standby s "crash=$2:1" s p --heartbeat-timeout "$HASTY"
	fi
	# A busy machine may be silent for long enough to be suspected before it is frozen.
	within 60 formed s "$victim" || bad "p and s did not become a pair"
	has_ended "$other" || freeze "$other"
	await_kill "$victim" "$1" "$2"
	has_ended "$other" || thaw "$other"
	wait_end "$other" 60 || bad "$other has not halted, although $victim had the next generation"
	[ "$HOST_STATUS" -eq 5 ] || bad "$other has ended with $HOST_STATUS, and not as deposed"
	client_unharmed
}

hand()
{
	local n point
	for ((n = 0; n < HANDS; n++)); do
		for point in "${BACKUP_LATE_POINTS[@]}"; do
			hand_over backup "$point"
		done
		for point in "${PRIMARY_LATE_POINTS[@]}"; do
			hand_over primary "$point"
		done
	done
}

# release_at POINT: nothing is sent before the client asks, so that the pair has formed before the first.
release_at()
{
	pair_up "crash=$1:$((1 + RANDOM % 60))" '' "$PATIENT" "$PATIENT" || bad "p and s did not become a pair"
	begin_client --closed 16 --seconds 300
	await_kill p primary "$1"
	within 60 says s "live as generation" || bad "the backup did not go live"
	pause 0.1
	client_content
	holds s || bad "generation $GENERATION is process $HOLDER's, but s runs"
	end_side s
}

release()
{
	local n
	for ((n = 0; n < RELEASES; n++)); do
		release_at release.before
		release_at transmit.after
	done
}

clone_before()
{
	launch_primary p crash=clone.before:1 s
	within 60 holds p || bad "p did not start"
	begin_client --rate 200 --deadline 0.1 --seconds 300
	within 60 has_answered p || bad "the client gets no answers"
	launch_standby s '' s p
	await_kill p primary clone.before
	within 60 says s "was not accepted" || bad "the standby does not see that its clone was cut off"
	client_unharmed
	launch_primary q '' s
	within 60 says s "following the primary" || bad "the standby does not serve the next primary"
	holds q || bad "generation $GENERATION is process $HOLDER's, but q runs"
	end_side q s
}

clone()
{
	local n
	for ((n = 0; n < CLONES; n++)); do
		clone_before
	done
}

# ---- the sweep ----

round()
{
	ROUND=$1 SEED=$2 DEATHS=0
	RANDOM=$SEED
	lab_begin
	"$1"
	echo "done $1"
	exit 0
}

if [ $# -eq 2 ]; then
	case $1 in
	chain | fair | hand | release | clone) round "$1" "$2" ;;
	esac
	echo "usage: $0 [chain|fair|hand|release|clone SEED]" >&2
	exit 2
fi

skip_all_if_lacking "the kill sweep"
seed=${KILL_SEED:-$((SRANDOM % 100000))}
work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null; wait; rm -rf "$work"' EXIT
trap 'exit 143' HUP INT PIPE TERM

# The long ones first, so that both processors have work to the end.
plan=()
for transport in "${!ROUNDS[@]}"; do
	for round in ${ROUNDS[$transport]}; do
		if [ "$round" = chain ] || [ "$round" = fair ]; then
			plan=("$transport $round" "${plan[@]}")
		else
			plan+=("$transport $round")
		fi
	done
done
for ((n = 0, running = 0; n < ${#plan[@]}; n++)); do
	read -r transport round <<<"${plan[n]}"
	TRANSPORT=$transport "$0" "$round" $((seed + n)) >"$work/$transport.$n" 2>&1 &
	running=$((running + 1))
	[ "$running" -lt "$AT_ONCE" ] || wait -n
done
wait

cat "$work"/* | grep -Ev '^(kill|gap|done) |: line .* Killed  '

# count TRANSPORT PATTERN: of kills.
count()
{
	cat "$work/$1".* | grep -c "^kill $2\$"
}

# verdict TRANSPORT SENTENCE KIND...: all rounds of these kinds have come to their end.
verdict()
{
	local transport=$1 sentence=$2 kinds wanted found
	shift 2
	kinds=$(IFS="|" && echo "$*")
	wanted=$(printf "%s\n" ${ROUNDS[$transport]} | grep -cE "^($kinds)$")
	found=$(cat "$work/$transport".* | grep -cE "^done ($kinds)$")
	check "over $transport: $sentence" equal "the number of rounds that went well" "$found" "$wanted"
}

points=$(grep -rhoE 'CRASH_POINT\("[^"]+"\)' base dataplane engine transport | cut -d'"' -f2 | sort -u)
for transport in "${!ROUNDS[@]}"; do
	verdict "$transport" "no answer is lost, counted twice or taken back by the death of either side, at any point" \
		chain fair release
	verdict "$transport" "a side that dies with the next generation ends the guest: nobody else goes on" hand
	verdict "$transport" "a clone without its last message never goes live" clone
	figures='' missed=''
	for point in $points random; do
		primary=$(count "$transport" "primary $point") backup=$(count "$transport" "backup $point")
		figures+=" $point=$primary+$backup"
		[ $((primary + backup)) -gt 0 ] || missed+=" $point"
	done
	check "over $transport: sides are killed at every point" equal "what was missed" "$missed" ""
	check "over $transport: at least ${LEAST[$transport]} sides are killed" \
		[ "$(count "$transport" '.*')" -ge "${LEAST[$transport]}" ]
	echo "figure $transport: kills=$(count "$transport" '.*') primary=$(count "$transport" 'primary .*')" \
		"backup=$(count "$transport" 'backup .*') standby=$(count "$transport" 'standby .*')" \
		"longest_silence_ms=$(cat "$work/$transport".* | sed -n 's/^gap //p' | sort -n | tail -n 1)"
	echo "figure $transport primary+backup:$figures"
done
echo "figure seed=$seed seconds=$SECONDS"
[ "$CASES_FAILED" -eq 0 ]
