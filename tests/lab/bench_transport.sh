#!/bin/bash
#
# The log between two machines, beside perftest on the same link and in turns with it: a line for each
# figure, its name and its value, for tests/bench_transport.sh. An argument says how many rounds.

. "${0%/*}/lab.sh"
[ -x "$BUILD/tests/bench/bench_transport" ] ||
	{ echo "skip $BUILD/tests/bench/bench_transport is missing: run make bench-transport"; exit 0; }
lab_boot "two machines with soft-RoCE between them"

BENCH=/build/tests/bench/bench_transport
RUNS=0

# pair SERVER CLIENT: on the two machines; what the client has printed is in $SAID.
pair()
{
	local server=server$((RUNS += 1))
	start_on_b "$server" "exec $1"
	SAID=$(on_a "$2") && ended "$server" 10 || {
		echo "$SAID"
		lab_fail "$2"
	}
}

# perftest NAME FIELD FACTOR COMMAND: a client that comes too soon finds nobody, and ends.
perftest()
{
	local name=$1 field=$2 factor=$3
	shift 3
	pair "$*" "for i in {1..50}; do $* \$PEER_LOG 2>/dev/null && exit; sleep 0.2; done; exit 1"
	awk -v name="$name" -v field="$field" -v factor="$factor" -v size="$SIZE" \
		'$1 == size && NF > 4 { printf "%s %.3f\n", name, factor * $field }' <<<"$SAID"
}

# bench SCHEME MS PHASE...
bench()
{
	local scheme=$1
	shift
	pair "$BENCH standby \"$scheme:\$MY_LOG:7801\"" "$BENCH primary \"$scheme:\$PEER_LOG:7801\" 1 $*"
	sed -n "s/^[a-z][A-Za-z0-9_]* [0-9.]*$/${scheme}_&/p" <<<"$SAID"
}

for ((round = 0; round < ${1:-5}; round++)); do
	# What perftest calls MB is 1,048,576 bytes.
	SIZE=65536 perftest ib_write_bw_MBs 4 1.048576 ib_write_bw -R -s 65536 -n 400
	bench rdma 1500 idle_stream
	SIZE=64 perftest ib_write_lat_us 5 1 ib_write_lat -R -s 64 -n 2000
	bench rdma 800 spinning placed
	bench tcp 800 idle_stream idle
done
lab_finish
