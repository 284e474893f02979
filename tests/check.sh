#!/bin/sh
# tests/check.sh PART...: each part in turn, whatever became of those before it:
#   tests       the unit and the integration tests, in the order in which they fail fastest
#   sanitizers  the unit tests once more under each sanitizer
#   perf        the harness in perf/
#   lab         the scenarios of the lab
# Closes with the counts of all together. Run by `make check` and `make check-full`. BUILD names the plain build
# folder.
cd "$(dirname "$0")/.." || exit
BUILD=${BUILD:-build}
export BUILD CRASH_BUILD=build-crash
counts=$(mktemp)
trap 'rm -f "$counts" "$counts".*' EXIT

# part TITLE COMMAND...: runs it, and keeps the counts that it closes with, without which it has failed, and its
# sentences that have failed: those of an early part would be out of sight.
part()
{
	title=$1
	shift
	echo "== $title"
	"$@" 2>&1 | tee "$counts.part"
	grep -E '^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$' "$counts.part" | tail -n 1 >"$counts.line"
	if [ ! -s "$counts.line" ]; then
		echo "0 passed, 1 failed, 0 skipped" >"$counts.line"
		echo "failed: $title have not come to their end" >>"$counts.failed"
	fi
	cat "$counts.line" >>"$counts"
	grep '^failed' "$counts.part" >>"$counts.failed"
	rm -f "$counts.part" "$counts.line"
}

jobs=-j$(nproc)
. tests/kvm.sh
patience=600
[ "$(kvm_kind)" != none ] || patience=1800
check_tests()
{
	part "unit tests" env WITH_KVM=1 make -s "$jobs" BUILD="$BUILD" unit
	echo "== the build with crash points"
	if ! make -s "$jobs" CRASH_POINTS=1 BUILD="$CRASH_BUILD" all; then
		echo "0 passed, 1 failed, 0 skipped" >>"$counts"
		echo "failed: the build with crash points" >>"$counts.failed"
		return
	fi
	part "integration tests" env TEST_SECONDS=$patience AT_ONCE=2 tests/run_integration.sh
}

# Each in a build folder of its own, which the Makefile names. An emulated KVM is too slow for them: WITH_KVM=1 by hand.
check_sanitizers()
{
	part "unit tests, address and undefined-behaviour sanitizers" \
		env -u BUILD make -s "$jobs" SANITIZE=address,undefined unit
	part "unit tests, thread sanitizer" env -u BUILD make -s "$jobs" SANITIZE=thread unit
}

# All but the two that are among the integration tests, and the one whose test was done on kvm-amd anyway.
check_lab()
{
	done_before='-e /host_killed.sh -e /linux.sh'
	[ "$(kvm_kind)" != none ] || done_before="$done_before -e /kvm.sh"
	# shellcheck disable=SC2046,SC2086  # lists of words
	part "the lab" env TEST_SECONDS=1500 tests/run_integration.sh $(ls tests/lab/scenarios/*.sh | grep -v $done_before)
}

check_perf()
{
	make -s "$jobs" BUILD="$BUILD" perf-programs
	part "the harness" env TEST_SECONDS=$patience tests/run_integration.sh perf/test_perf.sh
}

for name in "${@:-none}"; do
	case $name in
	tests | sanitizers | perf | lab) ;;
	*)
		echo "check.sh: there is no part $name: give tests, sanitizers, perf or lab" >&2
		exit 2
		;;
	esac
done
for name; do
	"check_$name"
done

if [ -s "$counts.failed" ]; then
	echo "== what has failed"
	sort -u "$counts.failed" | head -n 10
fi
echo "== in all"
awk '{ p += $1; f += $3; s += $5 } END { printf "%d passed, %d failed, %d skipped\n", p, f, s; exit f > 0 }' "$counts"
