#!/bin/bash
#
# with_kvm.sh COMMAND [ARGUMENT...]: runs a command where there is a KVM. That is here, if /dev/kvm opens; else it is a
# machine in QEMU, whose KVM is an emulated AMD-V one, and whose root is this system's: each file as it is here,
# and what the command writes is written to the machine's memory and gone with it.
#
# The environment, the folder and the output are the caller's, and the status is the command's; input is there none. Of one
# that fails, what it has left in /tmp under doppel's name is kept here.
#
# Read from the environment: MEMORY of such a machine (4G). Exit status 125, with a line that says why: there is no such
# machine.

set -u
top=$(cd "${BASH_SOURCE[0]%/*}/../.." && pwd) || exit
. "$top/tests/kvm.sh"
[ "$(kvm_kind)" = none ] || exec "$@"
. "$top/tests/lab/image.sh"

QEMU_PID='' READER_PID='' WORK=''

clean_up()
{
	trap '' HUP INT TERM PIPE
	[ -z "$QEMU_PID" ] || {
		kill -KILL "$QEMU_PID"
		wait "$QEMU_PID"
	} 2>/dev/null
	[ -z "$READER_PID" ] || kill "$READER_PID" 2>/dev/null
	[ -z "$WORK" ] || rm -rf "$WORK"
}

give_up()
{
	echo "with_kvm: $*" >&2
	exit 125
}

trap clean_up EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 141' PIPE
trap 'exit 143' TERM
WORK=$(mktemp -d "${TMPDIR:-/tmp}/doppel-machine.XXXXXX") || exit
mkdir "$WORK/job" && mkfifo "$WORK/output" || exit
if ! image_install || ! image_kernel || ! image_root "$WORK/initrd"; then
	give_up "${IMAGE_LACKS:-no image}"
fi
{
	export -p | grep -v -e ' TMPDIR=' -e ' XDG_RUNTIME_DIR='
	printf 'cd %q || exit 125\nexec ' "$PWD"
	printf '%q ' "$@"
} >"$WORK/job/command"
cat >"$WORK/job/begin" <<END
ip link set lo up
mkdir -p /run/netns
chmod 666 /dev/net/tun
ulimit -l unlimited
ulimit -c 0
port=\$(grep -lx output /sys/class/virtio-ports/*/name)
port=\${port%/name}
bash /job/command </dev/null >"/dev/\${port##*/}" 2>&1
status=\$?
if [ \$status -ne 0 ]; then
	find /tmp/doppel-* -type f -newer /job/command -size -16M -print0 | tar -czf /job/left.tar.gz --null -T - 2>/dev/null
fi
echo \$status >/job/status
echo o >/proc/sysrq-trigger
sleep 60
END
cat "$WORK/output" &
READER_PID=$!
# It dies with this shell, however that ends, and no key pressed here reaches it.
setsid setpriv --pdeathsig KILL "${IMAGE_QEMU[@]}" \
	-name doppel-kvm -m "${MEMORY:-4G}" \
	-kernel "$IMAGE_KERNEL/vmlinuz" -initrd "$WORK/initrd" \
	-append "rdinit=/init $IMAGE_APPEND" \
	-serial "file:$WORK/console" \
	-device virtio-serial-pci \
	-chardev "file,id=output,path=$WORK/output" -device virtserialport,chardev=output,nr=1,name=output \
	-fsdev "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap" \
	-device virtio-9p-pci,fsdev=root,mount_tag=root \
	-fsdev "local,id=job,path=$WORK/job,security_model=none" \
	-device virtio-9p-pci,fsdev=job,mount_tag=job \
	</dev/null >"$WORK/qemu" 2>&1 &
QEMU_PID=$!
wait "$QEMU_PID"
QEMU_PID=''
wait "$READER_PID"
READER_PID=''
if [ ! -s "$WORK/job/status" ]; then
	tail -qn 5 "$WORK/console" "$WORK/qemu" >&2
	give_up "the machine in QEMU ended before the command did"
fi
if [ -e "$WORK/job/left.tar.gz" ]; then
	left=$(mktemp -d "${TMPDIR:-/tmp}/doppel-left.XXXXXX") && tar -C "$left" -xzf "$WORK/job/left.tar.gz" &&
		{ rmdir "$left" 2>/dev/null || echo "with_kvm: what it left is in $left"; }
fi
exit "$(cat "$WORK/job/status")"
