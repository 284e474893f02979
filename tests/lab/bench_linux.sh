#!/bin/bash
#
# What protection costs a stock Debian guest, in the lab: figures, not verdicts. Run by `make bench-linux`; alone:
# tests/lab/bench_linux.sh. Some ten minutes.
#
# Each round boots the same guest twice on machine a, alone (`doppel run`) and with a backup on machine b, at
# commit level `received`, the log over soft-RoCE. Its clients are on the clients' link. Measured are the time that
# a mix of work takes (guest/mix), what redis and a web server do for their clients, and the log that goes with
# each, and with a guest that does nothing; beside it stands what VMware FT's paper says.
#
# ROUNDS is how many (3). Exit status: 0 measured, or there can be no lab; 1 something went wrong.

. "${0%/*}/lab.sh"
. "${0%/*}/guest.sh"
. tests/figures.sh
. tests/lab/bench.sh
ROUNDS=${ROUNDS:-3} FILE_MIB=4 IDLE=20

# ---- loads: each says its results, a name and a value a line ----

# redis CONNECTIONS REQUESTS
redis()
{
	local values
	(in_outside timeout 240 "$GUEST_PACKAGES/usr/bin/redis-benchmark" -h "$GUEST" -c "$1" -n "$2" -t incr --csv) \
		>"$LAB/redis" 2>"$LAB/redis.log" || return
	# The progress, which comes first, ends without a new line.
	IFS=, read -ra values < <(tr -d '"' <"$LAB/redis" | sed -n 's/.*INCR,/INCR,/p')
	[ "${#values[@]}" -eq 8 ] || return
	printf '%s\n' "rate ${values[1]}" "p50 ${values[4]}" "p99 ${values[6]}"
}

# The file is longer.
download()
{
	local began bytes
	began=$(now_us)
	bytes=$( (in_outside timeout 240 "$IMAGE_KERNEL/busybox" wget -q -O - "http://$GUEST/file" 2>/dev/null) |
		head -c "${FILE_MIB}M" | wc -c)
	[ "$bytes" = $((FILE_MIB << 20)) ] || return
	echo "rate $(calculate "$bytes / 1e6 / $(seconds_since "$began")")"
}

mix()
{
	local began
	began=$(now_us)
	(in_outside timeout 240 "$IMAGE_KERNEL/busybox" nc "$GUEST" 9000 </dev/null) | grep -q '^mix: [1-9]' || return
	echo "seconds $(seconds_since "$began")"
}

idle()
{
	sleep "$IDLE"
}

# ---- the guest ----

# work KIND TITLE COMMAND [ARGUMENT...]: a load, and what the log had to carry meanwhile.
work()
{
	local kind=$1 what=$1.$2 name
	shift 2
	load "$what" "$@"
	for name in log_bytes log_entries exits resyncs pages; do
		figure "$what.$name" "$(calculate "${GREW[$name]:-0} * 1e6 / ${GREW[us]}")"
	done
	figure "$what.mbit" "$(calculate "$(last "$what.log_bytes") * 8 / 1e6")"
}

measure()
{
	local kind=$1
	figure "$kind.boot.seconds" "$(seconds_since "$BEGAN")"
	work "$kind" mix mix
	work "$kind" redis1 redis 1 150
	work "$kind" redis8 redis 8 300
	work "$kind" download download
	# Alone there is no log.
	[ "$kind" = alone ] || work "$kind" idle idle
	bench_end
}

# ---- the table ----

# ratio NAME FIGURE [inverse]: of protected to alone, a value a round; inverse where less is better.
ratio()
{
	FIGURES[$1]=$(awk -v a="${FIGURES[alone.$2]}" -v p="${FIGURES[protected.$2]}" -v inverse="${3:-}" 'BEGIN {
		n = split(a, alone); split(p, protected)
		for (i = 1; i <= n; i++) printf " %.6f", inverse ? alone[i] / protected[i] : protected[i] / alone[i] }')
}

# result TITLE DECIMALS FIGURE [inverse]: with the ratio of the speeds.
result()
{
	ratio ratio "$3" "${4:-}"
	row "$1" "$2" "$(spread ratio 2)" "alone.$3" "protected.$3"
}

# log_of TITLE LOAD
log_of()
{
	local column
	printf '  %-29s' "$1"
	for column in "mbit 2" "log_entries 0" "exits 0" "resyncs 2" "pages 0"; do
		printf ' %-19s' "$(spread "protected.$2.${column% *}" "${column#* }")"
	done
	printf ' %s\n' "$(spread "alone.$2.exits" 0)"
}

report()
{
	echo
	printf '%-31s %-22s %-22s %s\n' "median (least-most) of $ROUNDS" alone protected "speed to alone"
	result "boot until it serves, s" 1 boot.seconds inverse
	result "compile-like mix, s" 1 mix.seconds inverse
	result "redis, 1 client, requests/s" 1 redis1.rate
	result "  p50, ms" 1 redis1.p50 inverse
	result "  p99, ms" 1 redis1.p99 inverse
	result "redis, 8 clients, requests/s" 1 redis8.rate
	result "  p50, ms" 1 redis8.p50 inverse
	result "  p99, ms" 1 redis8.p99 inverse
	result "file of $FILE_MIB MiB, MB/s" 3 download.rate
	echo
	printf '%-31s %-19s %-19s %-19s %-19s %-19s %s\n' "the log of the protected one" Mbit/s entries/s exits/s resyncs/s \
		"their pages/s" "exits/s alone"
	log_of "compile-like mix" mix
	log_of "redis, 1 client" redis1
	log_of "redis, 8 clients" redis8
	log_of "file" download
	log_of "idle (wanted: below 0.5)" idle
	echo
	echo "VMware FT, in the paper       speed to alone     log, Mbit/s"
	echo "  kernel compile              0.95               3.0"
	echo "  SPECjbb2005                 0.98               1.5"
	echo "  Oracle Swingbench           0.99               12"
	echo "  MS-SQL DVD Store            0.94               18"
	echo "  idle                                           0.5 to 1.5"
	redone
	awk -v v="$(middle protected.idle.mbit)" 'BEGIN { exit v < 0.5 }' && echo "MISSED: idle below 0.5 Mbit/s"
}

lab_boot "a stock guest is measured"
guest_make servers usr/bin/redis-server usr/sbin/lighttpd usr/bin/memcached
mkdir "$LAB/more" && cp tests/lab/guest/mix "$LAB/more/" && chmod 755 "$LAB/more/mix" &&
	tar -czf "$LAB/more/sources.tar.gz" base dataplane && image_pack "$LAB/more" >>"$LAB/guest.initrd" ||
	lab_fail "the guest's initramfs could not be made"
machine_line "emulated in QEMU: two machines of one processor each, with soft-RoCE between them"
kernel=${IMAGE_KERNEL##*/}
echo "guest: ${kernel%%_*} of Debian, $MEMORY, one vCPU; redis, lighttpd and memcached over TCP;" \
	"alone: run; protected: --commit received $SLOW, log ${LAB_LOG%%:*}"
for ((ROUND = 1; ROUND <= ROUNDS; ROUND++)); do
	progress "round $ROUND of $ROUNDS"
	bench_alone alone
	measure alone
	bench_pair protected
	measure protected
done
progress ""
report
echo
lab_finish
