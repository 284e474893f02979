#!/bin/bash
#
# Stock guests that try to break what protects them: one that executes RDTSC and RDRAND in loops, changes memory
# faster than the log can carry it, unloads its drivers, resets its devices and scrambles their registers in the
# middle of the traffic, and is visited by hundreds; one that boots another kernel by kexec; and two that end by
# a restart and by a triple fault. No host may crash, no divergence may go unnoticed, and whatever a guest has done to
# itself, in the end two hosts protect it again and its clients have lost nothing.
#
# CONNECTIONS is how many are opened and closed (300: under emulation nine or ten a second; 10000 take twenty minutes), CROWD
# so many at once (100).

. "${0%/*}/../lab.sh"
. "${0%/*}/../guest.sh"
LAB_MEMORY=2G VM=guest
CONNECTIONS=${CONNECTIONS:-300} CROWD=${CROWD:-100}
GUEST=10.77.0.2
lab_boot "guests try to break their hosts"
guest_make hostile usr/bin/memcached "$PWD/$BUILD/tests/lab/guest/attack" "$IMAGE_KERNEL/vmlinuz"

# begin SENTENCE: a guest that two hosts protect, on the console of LIVE. Its root may touch its devices' registers.
begin()
{
	rm -f "$LAB/arbiter"/*
	guest_protect --append "'quiet iomem=relaxed'"
	check "$1: it serves" until_true 180 guest_says "^guest: serving" || lab_finish
}

# told COMMAND...: the guest does a step, and says that it has done it without an error.
STEPS=0
told()
{
	STEPS=$((STEPS + 1))
	guest_type "$STEPS $*" && until_true 120 guest_says "^guest: $STEPS has ended with" &&
		guest_says "^guest: $STEPS has ended with 0"
}

# step SENTENCE COMMAND...: and what follows from it: clients are served, and two hosts protect it.
step()
{
	local sentence=$1 began=$SECONDS
	shift
	check "$sentence" told "$@"
	check "$sentence: two hosts protect it" eval 'sleep 1; wait_protected "$LIVE" "$BACKUP" 120'
	echo "figure $sentence: seconds=$((SECONDS - began)) divergences=$(divergences)"
}

# How often a backup has said that it has diverged. The primary counts them too.
divergences()
{
	cat "$LAB"/side*/log | grep -c 'diverged \(at\|behind\) position'
}

# talk N: so many clients that keep their connections, and compare what they have stored with what they get, until talked.
talk()
{
	mkdir -p "$LAB/talk"
	rm -f "$LAB/talk/stop"
	(in_outside "$BUILD/tests/lab/crowd" talk "$GUEST" 11211 "$1" "$LAB/talk/stop") >"$LAB/talk/out" 2>"$LAB/talk/log" &
	TALK=$!
}

talked()
{
	: >"$LAB/talk/stop"
	wait "$TALK"
}

# ended_both STATUS PATTERN: both sides have ended with it, and say why alike.
ended_both()
{
	ended_with "$LIVE" "$1" 60 && ended_with "$BACKUP" "$1" 60 && grep -q "$2" "$LAB/$LIVE/log" &&
		grep -q "$2" "$LAB/$BACKUP/log"
}

begin "a guest that attacks"
talk 20
step "its programs execute RDTSC" attack rdtsc 5
before=$(divergences)
step "its programs execute RDRAND" attack rdrand 5
grep -a '^attack:' "$LAB/$LIVE/out" | tail -n 1 | sed 's/^/figure /'
check "a random number that is told is a divergence that is said" \
	eval 'grep -aq "rdrand is refused" "$LAB/$LIVE/out" || [ "$(divergences)" -gt "$before" ]'
check "and counted" equal divergences "$(host_status "$LIVE" divergences)" "$(divergences)"
step "it changes more memory than the log can carry at once" attack pages 16 3
step "its programs read and write ports" attack ports 3
step "its programs read strings from ports" attack strings 3
step "it unloads and loads its network's driver" reload virtio_net
step "it unloads and loads the driver of its console" reload virtio_console
step "it draws random bytes while their driver goes and comes" draw
step "its network's driver lets go of the device, again and again" rebind virtio_net 5
step "and that of its console" rebind virtio_console 5
step "its network goes down and up" flap 10
step "it scrambles its network's registers" scramble 0xd0000000
step "its driver begins anew" rebind virtio_net 1
step "it scrambles the registers of its console" scramble 0xd0000200
step "its driver begins anew too" rebind virtio_console 1
check "$CONNECTIONS connections are opened, used and closed" eval \
	'(in_outside "$BUILD/tests/lab/crowd" open "$GUEST" 11211 "$CROWD" "$CONNECTIONS") >"$LAB/crowd"'
echo "figure connections: $(cat "$LAB/crowd")"
check "two hosts protect it still" wait_protected "$LIVE" "$BACKUP" 120
on "${HOST_OF[$LIVE]}" "kill -KILL \$(cat /lab/$LIVE/pid)"
host=${HOST_OF[$LIVE]}
LIVE=$BACKUP
check "the backup goes live when the primary is killed" wait_role "$LIVE" solo 60
check "it serves" told true
sleep 2
check "none of its clients' connections has ended, and what was stored is there" talked
echo "figure talk: $(cat "$LAB/talk/out")"
join "$host"
check "two hosts protect it again" wait_protected "$LIVE" "$BACKUP" 120
guest_type "0 end acpi"
check "a restart ends both sides in order" ended_both 0 "asks for a restart"
echo "figure seconds=$SECONDS"

begin "a guest with kexec"
guest_type "0 again"
check "another kernel serves" until_true 180 eval '[ "$(grep -ac "^guest: serving" "$LAB/$LIVE/out")" = 2 ]'
talk 2
step "it is a guest like the first one" attack pages 8 2
check "its clients are served" eval 'sleep 5; talked && grep -q "answered=[1-9]" "$LAB/talk/out"'
echo "figure talk: $(cat "$LAB/talk/out")"
echo "figure kexec: divergences=$(divergences)"
on "${HOST_OF[$LIVE]}" "DOPPEL_RUN_DIR=/run/$LIVE doppel stop $VM"
check "it is stopped in order" ended_with "$LIVE" 0
# The backup has ended with it, unless it was waiting to be copied anew.
running "$BACKUP" && send_signal "$BACKUP" TERM
ended "$BACKUP"
echo "figure seconds=$SECONDS"

begin "a guest that dies"
guest_type "0 end triple"
check "a triple fault ends both sides alike" ended_both 7 "died of a triple fault"
echo "figure seconds=$SECONDS"
lab_finish
