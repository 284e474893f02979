/*
 * The two ways from ring 3 into ring 0 and back (ring_3.h): few instructions, since ring 0 may be emulated.
 *
 * A program sleeps by a HLT, which faults: an INT from ring 3 is not offered by every software KVM.
 */

#define NET_INTERRUPT_ACK 0xd0000064
#define HLT 0xf4

	.text
	.globl ring_3_faults, ring_3_wakes
	.balign 16
ring_3_faults:			/* an error code lies above the frame */
	push %rax
	mov 16(%rsp), %rax
	cmpb $HLT, (%rax)
	pop %rax
	jne interrupt_stubs + 13 * 16 /* nothing that we know of */
	incq 8(%rsp)
	add $8, %rsp
	sti
	hlt
	cli
	iretq

	.balign 16
ring_3_wakes:
	push %rax
	mov $NET_INTERRUPT_ACK, %eax
	movl $3, (%rax)
	pop %rax
	iretq

	.section .note.GNU-stack, "", @progbits
