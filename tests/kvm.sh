# shellcheck shell=sh
#
# What kind of KVM a machine has. Sourced.

# device_opens PATH. A device it must be, since to open what is not there would make it.
device_opens()
{
	[ -c "$1" ] && (exec 3<>"$1") 2>/dev/null
}

# none; user: see below; emulated: QEMU's, where all that a process does takes ten times as long (tests/lab/with_kvm.sh);
# software: the kernel is a guest itself, and runs a guest's kernel mode a thousand times slower; or hardware.
kvm_kind()
{
	if [ "${LD_PRELOAD:+${LD_PRELOAD##*/}}" = user_kvm.so ]; then
		echo user
	elif ! device_opens /dev/kvm; then
		echo none
	elif grep -q '^model name.*TCG' /proc/cpuinfo; then
		echo emulated
	elif [ -d /sys/module/kvm_amd/parameters ] || [ -d /sys/module/kvm_intel/parameters ]; then
		echo hardware
	else
		echo software
	fi
}

# user_kvm: where there is no KVM, tests/user_kvm/ stands in for it in all that is started from here on. Of this folder's
# guests ledger and stream can do with it. Not where it or a test's network could not work, nor under a sanitizer, which
# wants to be first itself: then there is still none.
user_kvm()
{
	user_kvm=${BUILD:-build}/tests/user_kvm.so
	case $user_kvm in *address* | *thread*) return ;; esac
	if [ "$(kvm_kind)" = none ] && [ -e "$user_kvm" ] && [ "$(id -u)" -eq 0 ] && device_opens /dev/net/tun; then
		LD_PRELOAD=$(realpath "$user_kvm")
		export LD_PRELOAD
	fi
}
