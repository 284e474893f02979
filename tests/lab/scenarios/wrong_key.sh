#!/bin/bash
#
# A primary that does not know the VM's key is refused before it is given any memory, and the standby waits on
# for the one that does.

. "${0%/*}/../lab.sh"
lab_boot "a primary with another key is refused"

# says NAME TEXT: within ten seconds.
says()
{
	local end=$((SECONDS + 10))
	until grep -q -- "$2" "$LAB/$1/log" 2>/dev/null; do
		[ "$SECONDS" -lt "$end" ] || { cat "$LAB/$1/log"; return 1; }
		sleep 0.1
	done
}

(umask 077 && head -c 32 /dev/urandom >"$LAB/other_key")
start_standby second b
VM=stranger LAB_KEY=/lab/other_key start_primary first a
check "the standby refuses a primary with another key" says second "does not know this VM's key"
check "the primary says so" says first 'does not know its key.*--key'
check "its guest runs on without a backup" running first
send_signal first TERM >/dev/null
ended first 20
start_primary third a
check "the standby protects the guest of one that knows the key" wait_protected third second 60
lab_finish
