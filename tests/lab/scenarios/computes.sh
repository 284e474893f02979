#!/bin/bash
#
# A stock guest that only computes: two processes compress and hash a file, and seldom leave KVM. It goes on
# through the death of one host after the other, every hash is right, and so is its clock.
#
# How much it gets done is measured beside `doppel run`, which may do less here: alone a guest takes each tick when it
# is due, and on these machines a tick is dear; protected it takes as many as its exits and resyncs let in. What
# being protected costs is the share of time in resyncs, and that for which it is slowed.
#
# FAILOVERS is how many (5). SEED chooses the moments.

. "${0%/*}/../lab.sh"
. "${0%/*}/../guest.sh"
LAB_MEMORY=2G VM=guest RANDOM=${SEED:=$((SRANDOM % 32768))}
FAILOVERS=${FAILOVERS:-5}
MEASURED=20 # seconds
lab_boot "a guest that computes outlives its hosts"
guest_make computes

now_ms()
{
	echo $((${EPOCHREALTIME/[!0-9]/} / 1000))
}

# reports FILE...: what the guest has said there, as "rounds wrong date_ms" of each whole line.
reports()
{
	cat "$@" | sed -n 's/^computes: rounds=\([0-9]*\)+\([0-9]*\) wrong=\([0-9]*\) date=\([0-9]*\)\.\([0-9]\{3\}\)[0-9]*\r$/\1 \2 \3 \4\5/p' |
		awk '{ print $1 + $2, $3, $4 }'
}

# listen SECONDS: the next that LIVE reports: ROUNDS, and DATE in ms; it came AT, in ms of our own clock.
listen()
{
	local end=$((SECONDS + $1)) before line
	before=$(reports "$LAB/$LIVE/out" | wc -l)
	until line=$(reports "$LAB/$LIVE/out" | tail -n +$((before + 1)) | grep .); do
		[ "$SECONDS" -lt "$end" ] || { echo "$LIVE says nothing"; return 1; }
		sleep 0.05
	done
	AT=$(now_ms)
	read -r ROUNDS _ DATE < <(tail -n 1 <<<"$line")
}

declare -A TOLD=()
# ask TIMES: adds to TOLD, so many times, each whole number that LIVE tells of itself.
ask()
{
	local field value
	while read -r field value; do
		TOLD[$field]=$((${TOLD[$field]:-0} + $1 * value))
	done < <(
		echo "at_ms $(now_ms)"
		on "${HOST_OF[$LIVE]}" "DOPPEL_RUN_DIR=/run/$LIVE doppel status $VM --json" |
			sed -n 's/^ *"\([a-z_]*\)": *\([0-9]\{1,\}\).*/\1 \2/p'
	)
}

# measure: what LIVE does in MEASURED seconds: RATE, in rounds a second, and what of TOLD has come to it.
measure()
{
	local rounds at
	TOLD=()
	ask -1
	listen 60 || return
	rounds=$ROUNDS at=$AT
	sleep "$MEASURED"
	listen 60 || return
	RATE=$(awk -v n="$((ROUNDS - rounds))" -v ms="$((AT - at))" 'BEGIN { printf "%.2f", 1000 * n / ms }')
	ask 1
	[ "$ROUNDS" -gt "$rounds" ]
}

# told FIELD [SCALE]: how much of it came in a second.
told()
{
	awk -v n="${TOLD[$1]:-0}" -v ms="${TOLD[at_ms]}" -v scale="${2:-1}" 'BEGIN { printf "%.1f", scale * 1000 * n / ms }'
}

# ---- alone ----

LIVE=alone
HOST_OF[alone]=a
start_on_a alone "mkdir -p /run/alone && DOPPEL_RUN_DIR=/run/alone exec doppel run --kernel /lab/guest.kernel \
	--initrd /lab/guest.initrd --console - --name $VM"
right=$("$IMAGE_KERNEL/busybox" seq 30000 | "$IMAGE_KERNEL/busybox" gzip | sha256sum)
check "alone a stock guest computes" until_true 120 guest_says "^computes: rounds=[1-9]"
check "and makes progress" measure
alone=$RATE
echo "figure alone: rounds_per_s=$RATE interrupts_per_s=$(told interrupts)"
send_signal alone TERM
check "until it is told to end" ended alone 20

# ---- protected ----

guest_protect
check "it computes" until_true 300 guest_says "^computes: rounds=[1-9]"
check "and makes progress too" measure
echo "figure protected: rounds_per_s=$RATE interrupts_per_s=$(told interrupts)" \
	"slowdown=$(awk -v a="$alone" -v p="$RATE" 'BEGIN { printf "%.2f", a / p }')" \
	"log_mbit_per_s=$(told log_bytes 0.000008) slowed_for_its_backup=$(told slowed_ms 0.1)%"
echo "figure resyncs: per_s=$(told resyncs) pages_each=$((TOLD[pages] / (TOLD[resyncs] + !TOLD[resyncs])))" \
	"stop_ms_each=$((TOLD[total_stop_ms] / (TOLD[resyncs] + !TOLD[resyncs]))) share_of_time=$(told total_stop_ms 0.1)%"

# keeps_time: a guest's clock is to be no more than a second ahead of ours, as it was at the beginning, and
# behind it by no more than all its pauses and a second.
keeps_time()
{
	AHEAD=$((DATE - AT - ${FIRST_AHEAD:=$((DATE - AT))}))
	PAUSES=$(pauses_ms)
	echo "it is ahead by $AHEAD ms, after pauses of $PAUSES ms"
	[ "$AHEAD" -le 1000 ] && [ "$AHEAD" -ge $((-1000 - PAUSES)) ]
}

# goes_on: reports that it has done more rounds. What is said first may be from before its host died.
goes_on()
{
	local before end=$((SECONDS + 60))
	listen 60 && before=$ROUNDS || return
	until listen 60 && [ "$ROUNDS" -gt "$before" ]; do
		[ "$SECONDS" -lt "$end" ] || { echo "$ROUNDS rounds, as before"; return 1; }
	done
}
check "its clock is right" keeps_time
for ((n = 1; n <= FAILOVERS && CASES_FAILED == 0; n++)); do
	fail_over "$n"
	check "failover $n: it computes on" goes_on
	check "failover $n: its clock is right" keeps_time
	protect_again "$n"
done
check "it computes to the end" goes_on
check "its clock is right at the end" keeps_time
echo "figure clock: ahead_ms=$AHEAD pauses_ms=$PAUSES"
# What one console said last the next one may say again.
# shellcheck disable=SC2046  # in their order
reports $(seq -f "$LAB/side%.0f/out" "$SIDES") | awk '!told[$0]++' >"$LAB/reports"
check "its clock has never gone back" eval 'cut -d " " -f 3 "$LAB/reports" | sort -nc'
check "nor its rounds" eval 'cut -d " " -f 1 "$LAB/reports" | sort -nc'
check "its hash is that of this machine" grep -aq "^computes: hash=${right%% *}" "$LAB/side1/out"
check "every round's hash is the same" equal "the number of wrong ones" "$(cut -d ' ' -f 2 "$LAB/reports" | sort -u)" 0
echo "figure seed=$SEED failovers=$FAILOVERS rounds=$ROUNDS seconds=$SECONDS"
lab_finish
