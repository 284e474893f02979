# shellcheck shell=bash
#
# What perf.sh has measured: a table for the terminal, and in $RESULTS the same as Markdown, every value as JSON,
# and plots.

QUANTILES="p1 p10 p25 p50 p75 p90 p99 p999" # of the latency, that traffic says

# names CHANNEL LINK WHAT: the figures of all modes.
names()
{
	local mode
	for mode in $MODES; do
		printf '%s ' "$mode.$1.$2.$3"
	done
}

# rows PRINT LINK CHANNEL: calls PRINT with a title, decimals and the name of each mode's figure, "-": there is none.
# shellcheck disable=SC2046 # several words
rows()
{
	local print=$1 link=$2 channel=$3 test figure
	for test in $TESTS; do
		if [ "$test" = echo ]; then
			for figure in p50 p99 p999; do
				"$print" "echo $figure, us" 0 "run.-.$link.echo.${figure}_us" $(names "$channel" "$link" "echo.${figure}_us")
			done
			"$print" "  requests" 0 "run.-.$link.echo.requests" $(names "$channel" "$link" echo.requests)
			"$print" "  added p50" 0 - $(names "$channel" "$link" echo.added_us)
		else
			"$print" "$test, Mbit/s" 0 "run.-.$link.$test.mbit" $(names "$channel" "$link" "$test.mbit")
			"$print" "  to run" 3 - $(names "$channel" "$link" "$test.mbit.ratio")
			"$print" "  log, Mbit/s" 1 - $(names "$channel" "$link" "$test.log")
			[[ $test != receive* ]] ||
				"$print" "  beyond the frames, %" 2 - $(names "$channel" "$link" "$test.beyond")
		fi
		for figure in primary backup client; do
			"$print" "  $figure, % of a processor" 0 "run.-.$link.$test.cpu.$figure" \
				$(names "$channel" "$link" "$test.cpu.$figure")
		done
	done
}

# What no figure below can be the fault of.
limits()
{
	local test
	printf '\nthe client at the guest'"'"'s program, without a machine and a limit of the link:'
	for test in $TESTS; do
		if [ "$test" = echo ]; then
			printf ' echo p50 %s us;' "$(spread host.-.0.echo.p50_us 0)"
		else
			printf ' %s %s Mbit/s;' "$test" "$(spread "host.-.0.$test.mbit" 0)"
		fi
	done
	printf '\nthe dataplane alone, frames of 60 bytes through the hold: %s million/s, dpdk-testpmd %s' \
		"$(spread forward.-.0.forward.mpps 2)" "$(spread testpmd.-.0.forward.mpps 2)"
	printf '; ratio of the medians %.2f, of the fastest %.2f\n' \
		"$(calculate "$(middle forward.-.0.forward.mpps) / $(middle testpmd.-.0.forward.mpps)")" \
		"$(calculate "$(most forward.-.0.forward.mpps) / $(most testpmd.-.0.forward.mpps)")"
	printf 'waking three threads, one by the other: %s us\n' "$(spread wake_us 1)"
}

# bits RATE: a second, of 1G.
bits()
{
	local rate=${1/G/e9}
	echo "${rate/M/e6}"
}

# goal PRINT TITLE PAPER RELATION LIMIT DECIMALS FOUND: calls PRINT with what is measured, the paper's figure, what is to be
# reached, what was found, and whether that is.
goal()
{
	local print=$1 title=$2 paper=$3 relation=$4 limit=$5 decimals=$6 found=$7 verdict=reached words
	[ -n "$found" ] || return 0
	awk "BEGIN { exit !($found $relation $limit) }" || verdict=MISSED
	[ "$relation" = "<" ] && words=under || words="at least"
	"$print" "$title" "$paper" "$words $(printf '%.*f' "$decimals" "$limit")" "$(printf '%.*f' "$decimals" "$found")" "$verdict"
}

# Whether what most of the goals are of was measured.
has_goals()
{
	[[ " $MODES " == *" received "* && " $TESTS " == *" echo "* && " $CHANNELS " == *" 1G "* && " $LINKS " == *" 1G "* ]]
}

# goals PRINT: at `received`, client link and channel 1 Gbit/s, frames of 1,500 bytes if nothing else is said.
goals()
{
	local print=$1 at=received.1G.1G test peer
	for test in transmit receive; do
		goal "$print" "run: $test, Mbit/s" 940 ">=" 900 0 "$(middle "run.-.1G.$test.mbit")"
	done
	goal "$print" "transmit to run, channel 1G" 0.91 ">=" 0.99 3 "$(middle "$at.transmit.mbit.ratio")"
	goal "$print" "transmit to run, channel 10G" 0.995 ">=" 0.995 3 "$(middle received.10G.1G.transmit.mbit.ratio)"
	goal "$print" "receive to run, channel 1G" 0.64 ">=" 0.95 3 "$(middle "$at.receive.mbit.ratio")"
	goal "$print" "receive to run, channel 10G" 0.915 ">=" 0.99 3 "$(middle received.10G.1G.receive.mbit.ratio)"
	for test in transmit receive; do
		goal "$print" "protected: $test, Mbit/s" "" ">=" 900 0 "$(middle "$at.$test.mbit")"
	done
	goal "$print" "log of transmit, Mbit/s" 42 "<" 42 1 "$(middle "$at.transmit.log")"
	goal "$print" "log of transmit-large, Mbit/s" "" "<" 10 1 "$(middle "$at.transmit-large.log")"
	goal "$print" "log of receive beyond the frames, %" 21 "<" 3 2 "$(middle "$at.receive.beyond")"
	# What a round trip takes and what is allowed; and what the scheduler may have added (wake.c).
	goal "$print" "added latency p50, us" "" "<" "$(calculate "2 * ${DELAY%us} + 20")" 0 "$(middle "$at.echo.added_us")"
	"$print" "  to wake three threads that sleep, us" "" "" "$(printf '%.0f' "$(middle wake_us)")" ""
	peer=$(middle checkpoints.1G.1G.echo.p50_us)
	goal "$print" "p50 of checkpoints / protected" "" ">=" 10 1 \
		"${peer:+$(calculate "$peer / $(middle "$at.echo.p50_us")")}"
	goal "$print" "dataplane to dpdk-testpmd, packets" "" ">=" 0.9 2 \
		"$(calculate "$(middle forward.-.0.forward.mpps) / $(middle testpmd.-.0.forward.mpps)")"
}

text_goal()
{
	printf '  %-37s %-10s %-16s %-10s %s\n' "$@"
}

markdown_goal()
{
	printf '| %s | %s | %s | %s | %s |\n' "${1#  }" "${@:2}"
}

warning()
{
	echo "$disturbed of $tests tests were disturbed: others used more than $DISTURBED % of the processors."
	[ "$again" = 0 ] || echo "$again lives were measured again, since their guest or its client did not come to the end."
}

settings()
{
	echo "Medians of $ROUNDS rounds (least to most). Each test took $EACH s. Channel: a model of a link in front of" \
		"shared memory, $DELAY each way."
}

# shellcheck disable=SC2086 # several words
table()
{
	local link channel
	limits
	for link in $LINKS; do
		for channel in $CHANNELS; do
			printf '\n%-31s %-22s' "link $link, channel $channel" run
			printf ' %-22s' $MODES
			echo
			rows text_row "$link" "$channel"
		done
	done
	if has_goals; then
		printf '\nlink 1G, received\n'
		text_goal "" paper "to reach" found ""
		goals text_goal
	fi
	echo
	settings
	warning
}

# shellcheck disable=SC2086 # several words
markdown()
{
	local link channel
	printf '%s\n\n%s\n%s\n' "$MACHINE" "$(settings)" "$(warning)"
	limits
	echo
	if has_goals; then
		markdown_head "link 1G, received" "VMware FT" "to reach" found ""
		goals markdown_goal
	fi
	for link in $LINKS; do
		for channel in $CHANNELS; do
			echo
			markdown_head "link $link, channel $channel" run $MODES
			rows markdown_row "$link" "$channel"
		done
	done
}

json()
{
	figures_json | jq --arg machine "$MACHINE" --arg rounds "$ROUNDS" --arg each "$EACH" --arg delay "$DELAY" \
		--arg disturbed "$disturbed" --arg tests "$tests" --arg versions "$(versions)" '
		{machine: $machine, versions: $versions,
		 settings: {rounds: ($rounds | tonumber), seconds: ($each | tonumber), delay: $delay},
		 tests: ($tests | tonumber), disturbed: ($disturbed | tonumber),
		 figures: .}'
}

versions()
{
	echo "DPDK $(pkg-config --modversion libdpdk), $(gcc --version | head -n 1)"
}

# plot FILE COMMAND: with the data on standard input.
plot()
{
	gnuplot -e "set terminal svg size 900,480 font 'sans,13' background 'white'; set output '$1'; set key outside; $2"
}

# value NAME: the median, or what gnuplot takes for none.
value()
{
	local median
	median=$(middle "$1")
	echo "${median:-NaN}"
}

# Mbit/s against the channel's rate, a line for each mode.
plot_throughput()
{
	local test=$1 link=$2 channel mode columns='' i=3
	for mode in run $MODES; do
		columns+="${columns:+, }'\$data' using 1:$i:xtic(2) with linespoints lw 2 title '$mode'"
		i=$((i + 1))
	done
	{
		echo "\$data << END"
		i=1
		for channel in $CHANNELS; do
			printf '%s %s %s' $i "$channel" "$(value "run.-.$link.$test.mbit")"
			for mode in $MODES; do
				printf ' %s' "$(value "$mode.$channel.$link.$test.mbit")"
			done
			echo
			i=$((i + 1))
		done
		echo END
		echo "set title '$test at a client link of $link'; set xlabel 'logging channel, bit/s'; set ylabel 'Mbit/s'"
		echo "set yrange [0:*]; set xrange [0.5:$i - 0.5]; plot $columns"
	} >"$DIR/plot"
	plot "$RESULTS/throughput-$test-$link.svg" "load '$DIR/plot'"
}

plot_latency()
{
	local link=$1 channel=$2 mode columns='' q n=0 prefix
	{
		for mode in run $MODES; do
			prefix=$mode.$channel
			[ "$mode" != run ] || prefix=run.-
			echo "\$d$n << END"
			for q in $QUANTILES; do
				echo "$(value "$prefix.$link.echo.${q}_us") $(sed -E 's/p(..)(.)?/\1.\20/' <<<"${q/#p1/p01}")"
			done
			echo END
			columns+="${columns:+, }\$d$n using 1:2 with linespoints lw 2 title '$mode'"
			n=$((n + 1))
		done
		echo "set title 'request and answer of 64 bytes, link $link, channel $channel'; set logscale x"
		echo "set xlabel 'microseconds'; set ylabel 'percent of the answers'; set yrange [0:100]; plot $columns"
	} >"$DIR/plot"
	plot "$RESULTS/latency-$link-$channel.svg" "load '$DIR/plot'"
}

# bars FILE TITLE UNIT STACKED COLUMN...: standard input has a line for each bar or group: its name and the columns.
bars()
{
	local file=$1 title=$2 unit=$3 style=$4 column columns='' i=2
	shift 4
	for column in "$@"; do
		columns+="${columns:+, }'\$data' using $i:xtic(1) title '$column'"
		i=$((i + 1))
	done
	{
		echo "\$data << END"
		cat
		echo END
		echo "set title '$title'; set ylabel '$unit'; set style data histograms; set style histogram $style"
		echo "set style fill solid 0.8; set boxwidth 0.9; set yrange [0:*]; set xtics rotate by -30; plot $columns"
	} >"$DIR/plot"
	plot "$file" "load '$DIR/plot'"
}

# shellcheck disable=SC2086 # several words
plot_log()
{
	local link=$1 channel=$2 test mode
	for test in $TESTS; do
		printf '%s' "$test"
		for mode in $MODES; do
			printf ' %s' "$(value "$mode.$channel.$link.$test.log")"
		done
		echo
	done | bars "$RESULTS/log-$link-$channel.svg" "log, link $link, channel $channel" "Mbit/s" clustered $MODES
}

plot_cpu()
{
	local link=$1 channel=$2 test=$3 mode prefix
	for mode in run $MODES; do
		prefix=$mode.$channel.$link.$test.cpu
		[ "$mode" != run ] || prefix=run.-.$link.$test.cpu
		echo "$mode $(for what in vcpu dataplane primary backup_vcpu receiver backup client; do value "$prefix.$what"; done | tr '\n' ' ')"
	done | awk '{ for (i = 2; i <= NF; i++) if ($i == "NaN") $i = 0
			$4 -= $2 + $3; $7 -= $5 + $6; print }' |
		bars "$RESULTS/cpu-$test-$link-$channel.svg" "$test, link $link, channel $channel" "% of a processor" rowstacked \
			"primary: vCPU" "primary: dataplane" "primary: rest" "backup: vCPU" "backup: receiver" "backup: rest" client
}

report()
{
	local link channel test
	table
	mkdir -p "$RESULTS" || return
	markdown >"$RESULTS/table.md"
	json >"$RESULTS/figures.json" || return
	for link in $LINKS; do
		for test in $TESTS; do
			[ "$test" = echo ] || plot_throughput "$test" "$link"
		done
		for channel in $CHANNELS; do
			[[ " $TESTS " != *" echo "* ]] || plot_latency "$link" "$channel"
			plot_log "$link" "$channel"
			for test in $TESTS; do
				plot_cpu "$link" "$channel" "$test"
			done
		done
	done
	echo "Markdown, JSON and plots are in $RESULTS."
}
