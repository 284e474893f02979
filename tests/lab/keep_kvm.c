/*
 * Keeps a virtual machine with a virtual CPU that never runs, for as long as a machine of the lab lives;
 * returns as soon as it is there.
 *
 * KVM turns branches of the kernel's scheduler on with the first VM and off with the last, by rewriting
 * instructions that the other processor may be executing. QEMU's emulation of two processors now and then
 * goes on executing the breakpoint that is put there meanwhile, for ever: the machine hangs. With one VM
 * always there, nothing is rewritten.
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

int main(void)
{
	int kvm = open("/dev/kvm", O_RDWR);
	int vm = kvm < 0 ? -1 : ioctl(kvm, KVM_CREATE_VM, 0);
	if (vm < 0 || ioctl(vm, KVM_CREATE_VCPU, 0) < 0) {
		perror("/dev/kvm");
		return 1;
	}
	pid_t keeper = fork();
	while (keeper == 0)
		pause();
	return keeper < 0;
}
