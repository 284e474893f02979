#!/bin/bash
#
# How fast the log travels, beside what the machine and the link allow: figures, and targets that are marked
# when they are missed. Run by `make bench-transport`; alone: tests/bench_transport.sh [ROUNDS [local|lab]].
# About two minutes, asks nothing, leaves nothing behind.
#
# On this machine: both ends, each on a processor of its own, over shm beside memcpy, over tcp on loopback,
# and a writer that never stops over the link model beside the rate that was asked for. In the lab (two
# machines in QEMU, soft-RoCE between them; tests/lab): over rdma beside perftest's ib_write_bw and
# ib_write_lat on the same link, and over tcp. What is compared is measured in turns, ROUNDS times, a ratio
# for each; shown are the median and, in brackets, the least and the most.
#
# Exit status: 0 measured, whatever was found; 1 something went wrong.

set -u
cd "${0%/*}/.." || exit
BUILD=${BUILD:-build}
ROUNDS=${1:-5} PLACES=${2:-local lab}
BENCH=$BUILD/tests/bench/bench_transport
MISSED=0

# Values by name, separated by blanks, one a round.
declare -A FIGURES=()

fail()
{
	echo "bench-transport: $*" >&2
	exit 1
}

# take PREFIX FILE: lines of a name and a value.
take()
{
	local name value
	while read -r name value; do
		FIGURES[$1.$name]="${FIGURES[$1.$name]:-} $value"
	done <"$2"
}

# busy: what all processors have been busy for, what our own children have, and what there was, in ticks.
busy()
{
	awk 'FNR == NR && /^cpu / { busy = $2 + $3 + $4 + $7 + $8 + $9; all = busy + $5 + $6 }
		FNR < NR { print busy, $16 + $17, all }' /proc/stat "/proc/$$/stat"
}

# disturbed BUSY...: by other processes, since busy has said so.
disturbed()
{
	awk -v b="$1 $(busy)" 'BEGIN { split(b, v)
		others = (v[4] - v[1]) - (v[5] - v[2])
		# Ticks are counted in two ways, which differ a little.
		printf "  (other processes had %.0f %% of the processors meanwhile)\n", (others > 0 ? 100 * others / (v[6] - v[3]) : 0) }'
}

# ratio NAME ABOVE BELOW [FACTOR]: of two figures, a value a round.
ratio()
{
	FIGURES[$1]=$(awk -v a="${FIGURES[$2]:-}" -v b="${FIGURES[$3]:-}" -v f="${4:-1}" 'BEGIN {
		n = split(a, above); split(b, below)
		for (i = 1; i <= n; i++) if (below[i] > 0) printf " %.6f", above[i] / (f * below[i]) }')
}

# row TITLE DECIMALS NAME [below|above LIMIT]: a line of the table.
row()
{
	local verdict='' spread
	spread=$(tr ' ' '\n' <<<"${FIGURES[$3]:-}" | sort -g | awk -v d="$2" 'NF { v[++n] = $1 }
		END { if (n) printf "%.*f (%.*f-%.*f) %.6f", d, (v[int((n + 1) / 2)] + v[int(n / 2) + 1]) / 2,
			d, v[1], d, v[n], (v[int((n + 1) / 2)] + v[int(n / 2) + 1]) / 2 }')
	[ -n "$spread" ] || fail "there is no figure for: $1"
	if [ -n "${4:-}" ]; then
		verdict="$4 $5"
		awk -v v="${spread##* }" -v l="$5" -v w="$4" 'BEGIN { exit !(w == "below" ? v <= l : v >= l) }' ||
			{ verdict="MISSED: $verdict"; MISSED=$((MISSED + 1)); }
	fi
	printf '  %-46s %-28s %s\n' "$1" "${spread% *}" "$verdict"
}

# both NAME ADDRESS MS PHASE...: both ends on this machine.
both()
{
	local name=$1 address=$2
	shift 2
	timeout 60 "$BENCH" both "$address" "$ROUNDS" "$@" >"$OUT" || fail "$address could not be measured"
	take "$name" "$OUT"
}

# latencies NAME LIMIT...: the rows that all have.
latencies()
{
	local name=$1
	shift
	row "64 bytes to their received ack, us" 2 "$name.spinning_p50_us" "$@"
	row "  p99" 2 "$name.spinning_p99_us"
	row "  CPU time of both ends, us an entry" 2 "$name.spinning_cpu_us"
}

idle_latencies()
{
	row "the same, ends that sleep when idle, us" 2 "$1.idle_p50_us"
	row "  p99" 2 "$1.idle_p99_us"
	row "  CPU time of both ends, us an entry" 2 "$1.idle_cpu_us"
}

# stream NAME PHASE
stream()
{
	row "entries of 64 KiB, MB/s" 0 "$1.$2_MBs"
	row "  CPU time of both ends, us an entry" 2 "$1.$2_cpu_us"
}

measure_local()
{
	local rate before
	before=$(busy)
	both shm "shm:bench-$$" 200 spinning idle memcpy stream
	# A port of loopback below those that the system hands out by itself.
	both tcp "tcp:127.0.0.1:$((20000 + $$ % 10000))" 200 spinning idle memcpy idle_stream
	for rate in 1 10; do
		both "link$rate" "link:rate=${rate}G/shm:bench-$$" 500 idle_stream
	done
	printf '\non this machine, shm\n'
	disturbed "$before"
	latencies shm below 2
	idle_latencies shm
	stream shm stream
	row "memcpy of the same bytes, MB/s" 0 shm.memcpy_MBs
	ratio shm.ratio shm.stream_MBs shm.memcpy_MBs
	row "entries of 64 KiB to memcpy" 2 shm.ratio above 0.5
	row "an entry's bytes beside its payload" 0 shm.overhead_bytes
	printf '\non this machine, tcp over loopback\n'
	latencies tcp
	idle_latencies tcp
	stream tcp idle_stream
	ratio tcp.ratio tcp.idle_stream_MBs tcp.memcpy_MBs
	row "entries of 64 KiB to memcpy" 2 tcp.ratio
	printf '\non this machine, link model over shm, a writer that never stops\n'
	for rate in 1 10; do
		FIGURES[rate]=$((rate * 125))
		FIGURES[link$rate.off]=$(awk -v v="${FIGURES[link$rate.idle_stream_MBs]}" -v r="${FIGURES[rate]}" \
			'BEGIN { n = split(v, m); for (i = 1; i <= n; i++) { d = 100 * (m[i] / r - 1); printf " %.4f", d < 0 ? -d : d } }')
		row "$rate Gbit/s: MB/s" 2 "link$rate.idle_stream_MBs"
		row "  off the rate, in percent" 2 "link$rate.off" below 2
	done
}

measure_lab()
{
	local why before
	before=$(busy)
	printf '\nin the lab, two machines without a hardware accelerator, soft-RoCE between them\n'
	BUILD=$BUILD tests/lab/bench_transport.sh "$ROUNDS" >"$OUT" || {
		cat "$OUT"
		fail "the lab could not be measured"
	}
	why=$(sed -n 's/^skip //p' "$OUT")
	if [ -n "$why" ]; then
		echo "  skipped: $why"
		return
	fi
	disturbed "$before"
	take lab "$OUT"
	ratio lab.bw lab.rdma_idle_stream_MBs lab.ib_write_bw_MBs
	ratio lab.ack lab.rdma_spinning_p50_us lab.ib_write_lat_us 2
	ratio lab.put lab.rdma_placed_p50_us lab.ib_write_lat_us 2
	row "ib_write_bw of 64 KiB, MB/s" 2 lab.ib_write_bw_MBs
	row "rdma: entries of 64 KiB, MB/s" 2 lab.rdma_idle_stream_MBs
	row "  to ib_write_bw" 2 lab.bw above 0.9
	row "  CPU time of both ends, us an entry" 0 lab.rdma_idle_stream_cpu_us
	row "ib_write_lat of 64 bytes, one way, us" 1 lab.ib_write_lat_us
	row "rdma: 64 bytes to their received ack, us" 1 lab.rdma_spinning_p50_us
	row "  to twice ib_write_lat" 2 lab.ack below 1.3
	row "  p99, us" 1 lab.rdma_spinning_p99_us
	row "  CPU time of both ends, us an entry" 0 lab.rdma_spinning_cpu_us
	row "rdma: 64 bytes until they are placed, us" 1 lab.rdma_placed_p50_us
	row "  to twice ib_write_lat" 2 lab.put below 1.1
	row "registered memory of the primary, MiB" 1 lab.rdma_pinned_primary_MiB
	row "registered memory of the standby, MiB" 1 lab.rdma_pinned_standby_MiB
	row "tcp: entries of 64 KiB, MB/s" 2 lab.tcp_idle_stream_MBs
	row "tcp: 64 bytes to their received ack, us" 1 lab.tcp_idle_p50_us
}

OUT=$(mktemp) || exit
trap 'rm -f "$OUT"' EXIT
echo "$(nproc) processors, $(sed -n 's/^model name[^:]*: //p;T;q' /proc/cpuinfo), Linux $(uname -r); load $(cut -d ' ' -f 1 /proc/loadavg)"
printf '  %-46s %-28s %s\n' "" "median (least-most) of $ROUNDS" wanted
for place in $PLACES; do
	"measure_$place"
done
[ "$MISSED" -eq 0 ] || printf '\n%s\n' "$MISSED missed"
