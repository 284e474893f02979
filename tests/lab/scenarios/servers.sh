#!/bin/bash
#
# A stock guest with three servers, each as it is in its package, outlives one host after the other: at random
# moments the primary's process is killed, or its whole host, and a new standby joins. Meanwhile clients on the
# clients' link keep their connections, count what was acknowledged, and compare what they are sent.
#
# FAILOVERS is how many (10). SEED chooses the moments.

. "${0%/*}/../lab.sh"
. "${0%/*}/../guest.sh"
LAB_MEMORY=2G VM=guest RANDOM=${SEED:=$((SRANDOM % 32768))}
FAILOVERS=${FAILOVERS:-10}
CONNECTIONS=200
GUEST=10.77.0.2
lab_boot "servers outlive their hosts"
guest_make servers usr/bin/redis-server usr/sbin/lighttpd usr/bin/memcached

# ---- clients: each works until $LAB/stop is there, and says what it has found in its folder ----

BUSYBOX=$IMAGE_KERNEL/busybox
REDIS=$GUEST_PACKAGES/usr/bin/redis-cli

# Each RPUSH is answered by the length of the list: 1, 2, 3 and so on, if none is lost or done twice. A new
# connection would have another id.
redis_client()
{
	local i answer
	coproc (in_outside "$REDIS" -h "$GUEST")
	request()
	{
		echo "$*" >&"${COPROC[1]}" && read -rt 300 -u "${COPROC[0]}" answer && echo "$answer"
	}
	request client id || return
	for ((i = 1; ; i++)); do
		[ ! -e "$LAB/stop" ] || break
		request rpush "list$1" "value$i" || return
	done
	request client id
}

redis_right()
{
	local answers
	answers=$(($(wc -l <"$LAB/redis$1/out") - 2))
	equal "the connection" "$(tail -n 1 "$LAB/redis$1/out")" "$(head -n 1 "$LAB/redis$1/out")" || return
	sed -e 1d -e '$d' "$LAB/redis$1/out" | cmp - <(seq "$answers") || return
	(in_outside "$REDIS" -h "$GUEST" lrange "list$1" 0 -1) | cmp - <(seq -f value%.0f "$answers") || return
	[ "$answers" -gt 0 ] || { echo "nothing was answered"; return 1; }
	DONE=$((DONE + answers))
}

# The guest's file is 32 times the one that was given to it.
web_client()
{
	while [ ! -e "$LAB/stop" ]; do
		(in_outside "$BUSYBOX" wget -q -O - "http://$GUEST/file") | md5sum
		echo "${PIPESTATUS[0]}"
	done
}

web_right()
{
	local sum
	sum=$(for _ in {1..32}; do cat "$LAB/guest.file"; done | md5sum)
	DONE=$(grep -cFx "$sum" "$LAB/web/out")
	[ "$DONE" -gt 0 ] && [ "$(grep -cvFx -e "$sum" -e 0 "$LAB/web/out")" = 0 ]
}

# Many connections to memcached, each of which has its turn now and then.
memcached_client()
{
	local n round answer
	local -a at
	for ((n = 0; n < CONNECTIONS; n++)); do
		exec {at[n]}<>"/dev/tcp/$GUEST/11211" || return
	done
	for ((round = 1; ; round++)); do
		for ((n = 0; n < CONNECTIONS; n++)); do
			[ ! -e "$LAB/stop" ] || return 0
			printf 'set key%d 0 0 8\r\n%08d\r\n' "$n" "$round" >&"${at[n]}"
			read -rt 300 -u "${at[n]}" answer && [ "$answer" = $'STORED\r' ] || return
			printf 'get key%d\r\n' "$n" >&"${at[n]}"
			read -rt 300 -u "${at[n]}" answer && [ "$answer" = "VALUE key$n 0 8"$'\r' ] || return
			read -rt 300 -u "${at[n]}" answer && [ "$((10#${answer%?}))" = "$round" ] || return
			read -rt 300 -u "${at[n]}" answer && [ "$answer" = $'END\r' ] || return
			echo "$n $round"
		done
	done
}

ping_client()
{
	in_outside "$BUSYBOX" ping -i 0.2 "$GUEST"
}

# begin NAME COMMAND...
declare -A CLIENT_PID=()
begin()
{
	local name=$1
	shift
	mkdir "$LAB/$name"
	"$@" >"$LAB/$name/out" 2>"$LAB/$name/log" &
	CLIENT_PID[$name]=$!
}

# wait_client NAME: its end, and that it had nothing to complain of.
wait_client()
{
	local status
	wait "${CLIENT_PID[$1]}"
	status=$?
	unset "CLIENT_PID[$1]"
	equal "the status of $1" "$status" 0 && [ ! -s "$LAB/$1/log" ]
}

guest_protect
check "it serves" until_true 180 guest_says "^guest: serving"
begin redis1 redis_client 1
begin redis2 redis_client 2
begin web web_client
begin memcached in_outside env LAB="$LAB" GUEST="$GUEST" CONNECTIONS="$CONNECTIONS" \
	bash -c "$(declare -f memcached_client); memcached_client"
begin ping ping_client
for ((n = 1; n <= FAILOVERS && CASES_FAILED == 0; n++)); do
	check "failover $n: the console takes what is typed" guest_type "typed=$((1000 + n))"
	fail_over "$n"
	# shellcheck disable=SC2016  # the guest's shell knows it
	guest_type 'echo typed $typed'
	check "failover $n: its console goes on where the other one ended" \
		until_true 30 guest_says "^typed $((1000 + n))"
	protect_again "$n"
done
sleep 2
: >"$LAB/stop"
DONE=0
check "no connection to redis has ended, no answer is missing, none was taken back" \
	eval 'wait_client redis1 && wait_client redis2 && until_true 60 redis_right 1 && until_true 60 redis_right 2'
echo "figure redis: answered=$DONE"
check "every file that the web server has sent is whole" eval 'wait_client web && web_right'
echo "figure web: files=$DONE of 32 MiB"
check "none of $CONNECTIONS connections to memcached has ended, and what was stored is there" wait_client memcached
echo "figure memcached: turns=$(grep -c . "$LAB/memcached/out")"
# Each of its programs has read the TSC when it was loaded (engine/rdtsc.h).
check "no backup has become another machine than its primary" \
	eval '! grep -h "diverged at" "$LAB"/side*/log'
kill -INT "${CLIENT_PID[ping]}"
wait "${CLIENT_PID[ping]}"
pauses_ms=$(pauses_ms) copies_ms=$(copies_ms)
lost=$(sed -n 's/\([0-9]*\) packets transmitted, \([0-9]*\) .*/\1 \2/p' "$LAB/ping/out" | awk '{ print $1 - $2 }')
# And what was on its way at a death, or comes before the first answer is possible: up to 0.8 s of emulated machines.
check "ping loses no more than the pauses account for" test "${lost:-x}" -le $(((pauses_ms + copies_ms) / 200 + 4 * FAILOVERS))
echo "figure ping: lost=$lost pauses_ms=$pauses_ms copies_ms=$copies_ms"
echo "figure seed=$SEED failovers=$FAILOVERS seconds=$SECONDS"
DOPPEL_STATUS=$(on "${HOST_OF[$LIVE]}" "DOPPEL_RUN_DIR=/run/$LIVE doppel status guest")
echo "figure ${DOPPEL_STATUS#*: }" | tr ' ' '\n' | grep -E 'resync|lag_ms|slowed' | tr '\n' ' ' | sed 's/^/figure /'
echo
lab_finish
