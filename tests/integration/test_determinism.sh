#!/bin/bash
#
# The same guest from the same log is the same guest: hammer, which makes replay as hard as it can,
# runs for SECONDS_HAMMER (60; 30 where KVM is emulated) recorded, and at the same time protected by a
# live backup. Then the recording is replayed twice. All of it competes for the same processors, so that
# interrupts land in other places each time.

set -u
cd "${0%/*}/../.." || exit
. tests/integration/lib.sh
. tests/integration/cases.sh
seconds=60
[ "$(kvm_kind)" != emulated ] || seconds=30
seconds=${SECONDS_HAMMER:-$seconds}
least=$((seconds * 20000 / 60))
[ "$(kvm_kind)" != emulated ] || least=$((least / 4))
HAMMER=$BUILD/guests/hammer.elf

# last_ticks FILE: the guest's own count in the last line that it wrote.
last_ticks()
{
	sed -n '$s/^hammer: ticks=\([0-9]*\) digest=.*/\1/p' "$1"
}

# The backup's numbers as long as it lives; leaves the last ones in `followed`.
watch_backup()
{
	local now
	while running "${HOST_PID[backup]}"; do
		now=$(host_status backup interrupts)
		[ -z "$now" ] || followed=$now
		sleep 0.5
	done
}

replayed_equal()
{
	"$DOPPEL" replay "$LAB/recording" >"$LAB/$1/out" 2>"$LAB/$1/log" || return
	grep -q 'every digest matched' "$LAB/$1/log"
}

at_least()
{
	[ "${1:-0}" -ge "$2" ] || { echo "$1 are less than $2"; return 1; }
}

skip_all_if_lacking "a recorded and a protected guest repeat themselves exactly"
lab_begin
VM=hammer
launch recorded run --kernel "$HAMMER" --append "seconds=$seconds" --console - \
	--record "$LAB/recording" --name hammer
pair=(--name hammer "${PAIR_OPTIONS[@]}" --console - --heartbeat-timeout 10000)
address hammer
launch backup standby --listen "$ADDRESS" "${pair[@]}"
launch primary primary --standby "$ADDRESS" --kernel "$HAMMER" --append "seconds=$seconds seed=2" "${pair[@]}"

followed=0
check "a backup joins a guest that never rests" wait_protected primary backup 60
watch_backup
check "the recorded run ends with the guest's power-off" ends_with recorded 0 60
check "a protected guest's power-off ends the primary in order" ends_with primary 0
check "and its backup too, with every digest equal" ends_with backup 0
check "the backup has taken thousands of interrupts where the primary did" at_least "$followed" $((least / 2))
if grep -q 'is lost\|live as\|diverged' "$LAB/primary/log" "$LAB/backup/log"; then
	failed "the pair lasts until the guest's end"
else
	ok "the pair lasts until the guest's end"
fi
check "the guest's last line reaches the console of the primary" at_least "$(last_ticks "$LAB/primary/out")" "$least"
check "a backup writes nothing to its console" cmp "$LAB/backup/out" /dev/null

mkdir "$LAB/first" "$LAB/second"
replayed_equal first &
first=$!
replayed_equal second
second=$?
wait "$first"
first=$?
for n in first second; do
	if [ "${!n}" -eq 0 ]; then
		ok "the $n replay finds every digest equal"
	else
		failed "the $n replay finds every digest equal" "$(cat "$LAB/$n/log")" \
			"see it again with: $DOPPEL replay $LAB/recording"
	fi
	check "the $n replay writes what the recorded run wrote" cmp "$LAB/recorded/out" "$LAB/$n/out"
done

closing=$(cat "$LAB/first/log")
interrupts=$(sed -n 's/.* \([0-9]*\) interrupts:.*/\1/p' <<<"$closing")
exits=$(sed -n 's/.* over \([0-9]*\) exits.*/\1/p' <<<"$closing")
entries=$(sed -n 's/.*replayed \([0-9]*\) entries.*/\1/p' <<<"$closing")
log_bytes=$("$DOPPEL" dump "$LAB/recording" | sed -n '$s/^lsn=\([0-9]*\) .*/\1/p')
check "at least $least interrupts are recorded" at_least "$interrupts" "$least"
check "the guest has counted $least ticks of its timer" at_least "$(last_ticks "$LAB/recorded/out")" "$least"
echo "figure interrupts=$interrupts exits=$exits entries=$entries log_bytes=$log_bytes backup_interrupts=$followed"
end_cases
