#!/bin/bash
#
# VMware FT's network table on this code: a guest that streams, alone and protected, measured beside one another,
# and beside two other ways to protect it. Run by `make perf` and `make perf-quick`; perf/README.md explains it.
#
# Where there is no KVM, tests/user_kvm/ stands in for it.
#
# From the environment: ROUNDS (5), EACH (0.6), seconds of a test, CHANNELS and LINKS ("1G 10G"), QUICK=1 for the first of
# both alone, MODES, TESTS, and RESULTS, the folder for what is found. Exit status: 0 measured, 1 something went wrong,
# 2 this machine lacks something.

set -u
cd "${0%/*}/.." || exit
. tests/figures.sh
. tests/kvm.sh
. perf/report.sh
BUILD=${BUILD:-build} RESULTS=${RESULTS:-perf/results}
user_kvm
if [ "$(kvm_kind)" = none ]; then
	echo "perf: /dev/kvm cannot be opened, and what stands in for it wants root, /dev/net/tun and $BUILD/tests/user_kvm.so" >&2
	exit 2
fi
ROUNDS=${ROUNDS:-5} EACH=${EACH:-0.6}
CHANNELS=${CHANNELS:-1G 10G} LINKS=${LINKS:-1G 10G}
[ -z "${QUICK:-}" ] || CHANNELS=${CHANNELS%% *} LINKS=${LINKS%% *}
MODES=${MODES:-received replayed durable epochs checkpoints}
STREAMS="transmit receive transmit-large receive-large"
TESTS=${TESTS:-$STREAMS echo}
DELAY=20us    # of a channel, one way
DISTURBED=10  # percent of the processors that others have used
VM=perf-$$
# Those that may be used, by number.
mapfile -t CPUS < <(sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' /proc/self/status | tr ',' '\n' |
	while IFS=- read -r first last; do seq "$first" "${last:-$first}"; done)
declare -A PID=()

end_all()
{
	local name
	trap '' HUP INT TERM
	for name in "${!PID[@]}"; do
		kill -KILL "${PID[$name]}" 2>/dev/null
		wait "${PID[$name]}" 2>/dev/null
	done
	[ -z "${DIR:-}" ] || rm -rf "$DIR"
}

give_up()
{
	echo "perf: $*" >&2
	tail -n 3 "$DIR"/*/log >&2
	exit 1
}

# waits COMMAND...: until it is true, 10 s at most.
waits()
{
	local end=$((SECONDS + 10))
	until "$@"; do
		[ "$SECONDS" -lt "$end" ] || return
		read -rt 0.05 -u "$silence" || true
	done
}

# start NAME PROGRAM DEVICE ARGUMENT...: a doppel process.
start()
{
	local name=$1 program=$2 device=$3
	shift 3
	rm -rf "${DIR:?}/$name"
	mkdir -p "$DIR/$name"
	DOPPEL_RUN_DIR=$DIR/$name "$program" "$@" --name "$VM" --console "unix:$DIR/$name/console" --net "$device" \
		</dev/null >"$DIR/$name/out" 2>"$DIR/$name/log" &
	PID[$name]=$!
}

stop()
{
	local name
	for name in "$@"; do
		kill -TERM "${PID[$name]}" 2>/dev/null
	done
	for name in "$@"; do
		wait "${PID[$name]}" 2>/dev/null
		unset "PID[$name]"
	done
}

# port ROLE: the two ends of the client's link.
port()
{
	echo "net_memif0,role=$1,socket=$DIR/link,socket-abstract=no"
}

# The primary's counters of one moment, which is later than the others', as asking takes a process: NOW's log and
# frames, the bytes of both, and log_us, the moment.
look_at_log()
{
	local status
	status=$(DOPPEL_RUN_DIR=$DIR/a "$BUILD/doppel" status "$VM" --json 2>/dev/null)
	[[ $status =~ \"log_bytes\":\ *([0-9]+) ]] && NOW[log]=${BASH_REMATCH[1]}
	[[ $status =~ \"rx_bytes\":\ *([0-9]+) ]] && NOW[frames]=${BASH_REMATCH[1]}
	[[ $status =~ \"time_us\":\ *([0-9]+) ]] && NOW[log_us]=${BASH_REMATCH[1]}
}

protected()
{
	[ -e "$DIR/a/log" ] && [[ $(<"$DIR/a/log") == *"protected by"* ]]
}

# start_mode MODE CHANNEL
start_mode()
{
	local guest=(--kernel "$BUILD/guests/stream.elf" --memory 64M) program=$BUILD/doppel commit=$1 log=() ring=()
	local options=(--arbiter "dir:$DIR/arbiter" --key "$DIR/key") address=link:rate=$2,delay=$DELAY/shm:$VM
	rm -rf "$DIR/arbiter" "$DIR/link" "$DIR/durable"
	mkdir "$DIR/arbiter"
	case $1 in
	host)
		mkdir -p "$DIR/a"
		"$BUILD/perf/stream_host" "$(port server)" >"$DIR/a/out" 2>"$DIR/a/log" &
		PID[a]=$!
		waits test -S "$DIR/link" || give_up "the port without a machine did not come"
		return
		;;
	forward)
		mkdir -p "$DIR/a"
		taskset -c "${CPUS[1]}" "$BUILD/perf/forward" "$(port server)" >"$DIR/a/out" 2>"$DIR/a/log" &
		PID[a]=$!
		waits test -S "$DIR/link" || give_up "the dataplane's port did not come"
		return
		;;
	testpmd)
		mkdir -p "$DIR/a"
		# It wants a processor for its prompt beside the one that it forwards with. Its input stays open.
		RUNTIME_DIRECTORY=$DIR/a dpdk-testpmd --no-huge -m 128 --no-shconf --no-pci --no-telemetry -l "${CPUS[0]},${CPUS[1]}" \
			--vdev "$(port server)" -- --forward-mode=io --burst=32 --total-num-mbufs=8192 --auto-start \
			<&"$silence" >"$DIR/a/out" 2>"$DIR/a/log" &
		PID[a]=$!
		waits test -S "$DIR/link" || give_up "the port of dpdk-testpmd did not come"
		return
		;;
	run)
		start a "$program" "$(port server)" run "${guest[@]}"
		waits test -S "$DIR/link" || give_up "the guest's port did not come"
		return
		;;
	durable) log=(--log "$DIR/durable" --log-size 256M --log-keep newest) ;;
	epochs | checkpoints)
		program=$BUILD/perf/$1 commit=received
		options+=(--lag 60000)
		ring=(--ring 64M) # an epoch's pages are on their way all at once
		;;
	esac
	start b "$program" net_null0,no-rx=1 standby "${options[@]}" --commit "$commit" --listen "$address" "${log[@]}"
	start a "$program" "$(port server)" primary "${options[@]}" --commit "$commit" --standby "$address" "${ring[@]}" "${guest[@]}"
	waits protected || give_up "$1 at $2: the guest was not protected"
}

# add_ran WHAT PROCESS [NAME]: NOW's WHAT are the nanoseconds that its threads, or those of that name, have been running.
add_ran()
{
	local task name ns sum=0
	for task in "/proc/${PID[$2]}/task"/*; do
		{ read -r name <"$task/comm" && read -r ns _ <"$task/schedstat"; } 2>/dev/null || continue
		[ "$name" != "${3:-$name}" ] || sum=$((sum + ns))
	done
	NOW[$1]=$sum
}

# sample: sets NOW to what grows while a test goes on. It starts no process but the one that asks for the log, since on
# a slow machine each takes as long as a test.
declare -A NOW=() BEFORE=()
sample()
{
	local user nice system irq softirq steal
	# Of the whole machine, what others take of a virtual one included; in ticks of 10 ms.
	read -r _ user nice system _ _ irq softirq steal _ </proc/stat
	NOW=([us]=${EPOCHREALTIME/[.,]/} [machine]=$((user + nice + system + irq + softirq + steal)))
	add_ran client client
	add_ran primary a
	add_ran vcpu a vcpu
	add_ran dataplane a dataplane
	[ -n "${PID[b]:-}" ] || return
	add_ran backup b
	add_ran backup_vcpu b vcpu
	add_ran receiver b receiver
	look_at_log
}

# account PREFIX: of the test that has ended.
account()
{
	local what us ours others
	local -A grown=()
	for what in "${!NOW[@]}"; do
		grown[$what]=$((NOW[$what] - ${BEFORE[$what]:-0}))
	done
	us=${grown[us]}
	for what in client primary vcpu dataplane backup backup_vcpu receiver; do
		[ -n "${grown[$what]:-}" ] || continue
		quotient "${grown[$what]}" $((10 * us)) # percent
		figure "$1.cpu.$what" "$QUOTIENT"
	done
	if [ -n "${grown[log]:-}" ]; then
		# Nothing moves any more: the log ended with the test, and not when it was asked for.
		quotient $((grown[log] * 8)) $((NOW[us] - BEFORE[log_us]))
		figure "$1.log" "$QUOTIENT"
		if [[ $1 == *.receive* ]]; then
			quotient $((100 * (grown[log] - grown[frames]))) "${grown[frames]}"
			figure "$1.beyond" "$QUOTIENT"
		fi
	fi
	ours=$((grown[client] + grown[primary] + ${grown[backup]:-0}))
	others=$(((grown[machine] * 10000000 - ours) / 10 / us / ${#CPUS[@]}))
	figure others "$others"
	[ "$others" -le "$DISTURBED" ] || disturbed=$((disturbed + 1))
	tests=$((tests + 1))
}

# live MODE CHANNEL LINK [TEST...]: the figures of one life of a guest are MODE.CHANNEL.LINK.TEST.WHAT. False: it did not
# come to its end.
live()
{
	local prefix=$1.$2.$3 name='' value key from to pin=()
	start_mode "$1" "$2"
	case $1 in forward | testpmd) pin=(taskset -c "${CPUS[0]}") ;; esac
	coproc CLIENT { exec "${pin[@]}" "$BUILD/perf/traffic" --port "$(port client)" --rate "$(bits "$3")" --seconds "$EACH" "${@:4}" 2>"$DIR/client"; }
	PID[client]=$CLIENT_PID
	# The shell forgets these with the client.
	from=${CLIENT[0]} to=${CLIENT[1]}
	while read -rt 20 -u "$from" name value; do
		case $name in
		begin)
			sample
			BEFORE=()
			for key in "${!NOW[@]}"; do
				BEFORE[$key]=${NOW[$key]}
			done
			echo >&"$to"
			;;
		end)
			sample
			account "$prefix.$value"
			echo >&"$to"
			;;
		"done") break ;;
		*) figure "$prefix.$name" "$value" ;;
		esac
	done
	# The guest's side goes first: the port of whose other end goes may fall.
	if [ -n "${PID[b]:-}" ]; then stop b a; else stop a; fi
	exec {to}>&-
	wait "${PID[client]}" 2>/dev/null
	unset "PID[client]"
	[ "$name" = "done" ]
}

# measure MODE CHANNEL LINK [TEST...]: a life, and another one in its place where the client has found something wrong; none
# of the first one's figures count then.
measure()
{
	local name attempt
	local -A before=()
	for name in "${!FIGURES[@]}"; do
		before[$name]=${FIGURES[$name]}
	done
	for attempt in 1 2 3; do
		live "$@" && return
		echo "perf: $1.$2.$3, attempt $attempt: $(cat "$DIR/client")" >&2
		again=$((again + 1))
		FIGURES=()
		for name in "${!before[@]}"; do
			FIGURES[$name]=${before[$name]}
		done
	done
	give_up "$1.$2.$3 cannot be measured"
}

# ratio A B: of this round, as A.ratio.
ratio()
{
	figure "$1.ratio" "$(calculate "$(last "$1") / $(last "$2")")"
}

# compare MODE CHANNEL LINK: with the base of this round.
compare()
{
	local test p=$1.$2.$3 base=run.-.$3
	for test in $TESTS; do
		if [ "$test" = echo ]; then
			figure "$p.echo.added_us" "$(calculate "$(last "$p.echo.p50_us") - $(last "$base.echo.p50_us")")"
		else
			ratio "$p.$test.mbit" "$base.$test.mbit"
		fi
	done
}

progress()
{
	n=$((n + 1))
	[ ! -t 2 ] || printf '\r%d of %d lives, %d s left  ' "$n" "$total" \
		$((n > 1 ? (SECONDS - began) * (total - n + 1) / (n - 1) : 0)) >&2
}

for tool in traffic forward stream_host wake epochs checkpoints; do
	[ -x "$BUILD/perf/$tool" ] || { echo "perf: $BUILD/perf/$tool is missing: run make perf" >&2; exit 2; }
done
if [ "${#CPUS[@]}" -lt 2 ]; then
	echo "perf: two processors are needed: the client's and the forwarder's are to differ" >&2
	exit 2
fi
DIR=$(mktemp -d "${TMPDIR:-/tmp}/doppel-perf.XXXXXX") || exit
trap end_all EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
mkfifo "$DIR/silence" && exec {silence}<>"$DIR/silence" || exit
(umask 077 && head -c 32 /dev/urandom >"$DIR/key") || exit
MACHINE=$(machine_line "$(kvm_kind)")
echo "$MACHINE"
total=3 n=0 began=$SECONDS disturbed=0 tests=0 again=0
for link in $LINKS; do
	for channel in $CHANNELS; do
		total=$((total + 1 + $(wc -w <<<"$MODES")))
	done
done
total=$((total * ROUNDS))
# shellcheck disable=SC2086 # TESTS is several words
for ((round = 1; round <= ROUNDS; round++)); do
	# What the client can do, with the guest's program beside it and no machine between them.
	progress
	measure host - 0 $TESTS
	for forwarder in testpmd forward; do
		progress
		measure "$forwarder" - 0 forward forward forward
	done
	figure wake_us "$("$BUILD/perf/wake")"
	for link in $LINKS; do
		for channel in $CHANNELS; do
			progress
			measure run - "$link" $TESTS
			for mode in $MODES; do
				progress
				measure "$mode" "$channel" "$link" $TESTS
				compare "$mode" "$channel" "$link"
			done
		done
	done
done
[ ! -t 2 ] || printf '\r%40s\r' '' >&2
report
