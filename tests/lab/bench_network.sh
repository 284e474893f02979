#!/bin/bash
#
# VMware FT's network table over the verbs provider, in the lab: figures, not verdicts. Run by `make bench-network`;
# alone: tests/lab/bench_network.sh.
#
# Each round boots the same stock Debian guest (guest/streams) once for each mode: `doppel run`, and protected at each
# commit level, the log over soft-RoCE. Its client is on the clients' link. iperf3 streams out of the guest and into it,
# and requests of 64 bytes are answered by the guest's busybox, one at a time.
#
# From the environment: ROUNDS (5), EACH (5), seconds of a stream behind one that does not count, ECHOES (300) requests,
# MODES, TESTS, RESULTS, the folder for what is found. Exit status: 0 measured, or there can be no lab; 1 something went
# wrong.

. "${0%/*}/lab.sh"
. "${0%/*}/guest.sh"
. tests/figures.sh
. tests/lab/bench.sh
ROUNDS=${ROUNDS:-5} EACH=${EACH:-5} ECHOES=${ECHOES:-300} RESULTS=${RESULTS:-perf/results}
MODES=${MODES:-placed received replayed durable} TESTS=${TESTS:-transmit receive echo}
# Of a smaller guest, whose durable log a machine's disk can hold.
MEMORY=128M DISK="--log /disk/log --log-size 160M --log-keep newest"

# ---- loads: each says its results, a name and a value a line ----

# stream [-R]: by the clock of the side that receives. One algorithm everywhere: what a system has for its default may pace.
stream()
{
	local began
	began=$(now_us)
	(in_outside timeout 120 "$GUEST_PACKAGES/usr/bin/iperf3" -c "$GUEST" -t "$EACH" -O 1 -C cubic --json "$@") \
		>"$LAB/iperf3" 2>"$LAB/iperf3.log" || return
	echo "seconds $(seconds_since "$began")"
	jq -er '.end | "mbit \(.sum_received.bits_per_second / 1e6)", "retransmits \(.sum_sent.retransmits)"' "$LAB/iperf3"
}

requests()
{
	local began
	began=$(now_us)
	(in_outside timeout 240 "$BUILD/tests/lab/crowd" echo "$GUEST" 7 64 "$ECHOES") || return
	echo "seconds $(seconds_since "$began")"
}

# ---- the guest ----

declare -A LOADS=([transmit]="stream -R" [receive]=stream [echo]=requests)

# The log's rate is by the time of the test; the status before and behind it takes seconds here, in which the guest
# has next to nothing to do.
measure()
{
	local mode=$1 test what name
	for test in $TESTS; do
		what=$mode.$test
		progress "round $ROUND of $ROUNDS: $mode, $test"
		# shellcheck disable=SC2086 # several words
		load "$what" ${LOADS[$test]}
		for name in exits log_entries rx_frames tx_frames resyncs pages; do
			figure "$what.$name" "$(calculate "${GREW[$name]:-0} / $(last "$what.seconds")")"
		done
		if [ "$mode" != run ]; then
			figure "$what.log" "$(calculate "${GREW[log_bytes]} * 8 / 1e6 / $(last "$what.seconds")")"
			figure "$what.slowed" "$(calculate "${GREW[slowed_ms]} / 10 / $(last "$what.seconds")")"
			[ "$test" != receive ] ||
				figure "$what.beyond" "$(calculate "100 * (${GREW[log_bytes]} / ${GREW[rx_bytes]} - 1)")"
			if [ "$test" = echo ]; then
				figure "$what.added_us" "$(calculate "$(last "$what.p50_us") - $(last run.echo.p50_us)")"
			else
				figure "$what.ratio" "$(calculate "$(last "$what.mbit") / $(last "run.$test.mbit")")"
			fi
		fi
	done
	bench_end
}

# ---- the table ----

# names WHAT: the figures of all modes but run.
names()
{
	local mode
	for mode in $MODES; do
		printf '%s ' "$mode.$1"
	done
}

# rows PRINT: calls PRINT with a title, decimals and the name of each mode's figure, "-": there is none.
# shellcheck disable=SC2046 # several words
rows()
{
	local print=$1 test figure
	for test in $TESTS; do
		if [ "$test" = echo ]; then
			for figure in p50 p99 p999; do
				"$print" "echo $figure, us" 0 "run.echo.${figure}_us" $(names "echo.${figure}_us")
			done
			"$print" "  added p50" 0 - $(names echo.added_us)
		else
			"$print" "$test, Mbit/s" 2 "run.$test.mbit" $(names "$test.mbit")
			"$print" "  to run" 3 - $(names "$test.ratio")
		fi
		"$print" "  log, Mbit/s" 2 - $(names "$test.log")
		[ "$test" != receive ] || "$print" "  beyond the frames, %" 2 - $(names "$test.beyond")
		"$print" "  the guest is slowed, %" 0 - $(names "$test.slowed")
		"$print" "  exits/s" 0 "run.$test.exits" $(names "$test.exits")
	done
}

settings()
{
	echo "guest: ${IMAGE_KERNEL##*/linux-image-}, $MEMORY, one vCPU; $("$GUEST_PACKAGES/usr/bin/iperf3" --version | head -n 1);" \
		"protected: $SLOW, log ${LAB_LOG%%:*}"
	echo "Medians of $ROUNDS rounds (least to most). A stream took $EACH s; the echo is of $ECHOES requests."
}

# shellcheck disable=SC2086 # several words
report()
{
	echo
	printf '%-31s' "the lab, log ${LAB_LOG%%:*}"
	printf ' %-22s' run $MODES
	echo
	rows text_row
	echo
	settings
	redone
	mkdir -p "$RESULTS" || lab_fail "$RESULTS cannot be made"
	{
		printf '%s\n\n%s\n\n' "$MACHINE" "$(settings)"
		markdown_head "the lab, log ${LAB_LOG%%:*}" run $MODES
		rows markdown_row
	} >"$RESULTS/lab.md"
	figures_json | jq --arg machine "$MACHINE" --arg settings "$(settings)" '{machine: $machine, settings: $settings, figures: .}' \
		>"$RESULTS/lab.json" || lab_fail "$RESULTS cannot be written"
	echo "Markdown and JSON are in $RESULTS."
}

lab_boot "a stock guest's network is measured"
guest_make streams usr/bin/iperf3
on_b mount_disk || lab_fail "machine b has no disk"
MACHINE=$(machine_line "emulated in QEMU: two machines of one processor each, with soft-RoCE between them")
echo "$MACHINE"
for ((ROUND = 1; ROUND <= ROUNDS; ROUND++)); do
	progress "round $ROUND of $ROUNDS: run"
	bench_alone run
	measure run
	for mode in $MODES; do
		progress "round $ROUND of $ROUNDS: $mode"
		STANDBY_OPTIONS=''
		[ "$mode" != durable ] || STANDBY_OPTIONS=$DISK
		bench_pair "$mode" --commit "$mode"
		measure "$mode"
		on_b 'rm -f /disk/log' >/dev/null
	done
done
progress ""
report
lab_finish
