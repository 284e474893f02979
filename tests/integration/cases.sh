# shellcheck shell=bash
#
# The verdicts of an integration test: a line a case, as tests/run_integration.sh wants them. Sourced
# behind lib.sh. A case that failed keeps the lab's folder.

CASES_FAILED=0
CASES_ARGUMENTS=("$@")

ok()
{
	echo "ok $*"
}

# failed SENTENCE [DETAIL...]: each detail is a line or more that helps to see why.
failed()
{
	local detail
	echo "failed $1"
	shift
	for detail in "$@"; do
		[ -z "$detail" ] || sed 's/^/    /' <<<"$detail"
	done
	CASES_FAILED=$((CASES_FAILED + 1))
}

# check SENTENCE COMMAND [ARGUMENT...]: ok when the command, which may be a function of the test,
# succeeds; otherwise what it said is shown.
check()
{
	local sentence=$1 status
	shift
	"$@" >"$LAB/said" 2>&1
	status=$?
	if [ "$status" -eq 0 ]; then
		ok "$sentence"
	else
		failed "$sentence" "status $status of: $*" "$(tail -n 20 "$LAB/said")"
	fi
	return "$status"
}

# equal WHAT FOUND WANTED
equal()
{
	[ "$2" = "$3" ] && return
	echo "$1 is '$2', not '$3'"
	return 1
}

# until_true SECONDS COMMAND [ARGUMENT...]: fails when the time is over.
until_true()
{
	local end=$((SECONDS + $1))
	shift
	until "$@"; do
		[ "$SECONDS" -lt "$end" ] || return 1
		sleep "${LOOK:-0.1}"
	done
}

# end_cases: the last line of a test.
end_cases()
{
	local log
	[ "$CASES_FAILED" -gt 0 ] || exit 0
	for log in "$LAB"/*/log; do
		[ ! -s "$log" ] || tail -n 8 "$log" | sed "s|^|  ${log#"$LAB"/}: |"
	done
	echo "  what was written is in $LAB"
	LAB=''
	exit 1
}

# skip_all_if_lacking SENTENCE: ends the test when this machine lacks something for a lab. A KVM that it lacks a machine
# in QEMU has, and the test is done over there.
skip_all_if_lacking()
{
	local lacking status
	if [ "$(kvm_kind)" = none ]; then
		tests/lab/with_kvm.sh "$0" "${CASES_ARGUMENTS[@]}"
		status=$?
		[ "$status" -eq 125 ] || exit "$status"
	fi
	lacking=$(lab_lacks)
	[ -n "$lacking" ] || return 0
	echo "skip $1: $lacking"
	exit 0
}

# launch NAME COMMAND [ARGUMENT...]: doppel in the hosts' namespace, without anything added. Its
# standard output is in $LAB/NAME/out, its errors in $LAB/NAME/log. TOOL is another build's doppel.
launch()
{
	local name=$1
	shift
	mkdir -p "$LAB/$name/run"
	DOPPEL_RUN_DIR=$LAB/$name/run ip netns exec "$HOSTS" "${TOOL:-$DOPPEL}" "$@" \
		</dev/null >"$LAB/$name/out" 2>"$LAB/$name/log" &
	HOST_PID[$name]=$!
}

# ends_with NAME STATUS [SECONDS]: waits for the process's own end, 60 s if nothing else is said.
ends_with()
{
	local name=$1 pid=${HOST_PID[$1]} wanted=$2 end=$((SECONDS + ${3:-60})) status
	while running "$pid"; do
		if [ "$SECONDS" -ge "$end" ]; then
			echo "$name has not ended"
			return 1
		fi
		sleep 0.1
	done
	wait "$pid" 2>/dev/null
	status=$?
	equal "$name's exit status" "$status" "$wanted"
}
