/*
 * Where a guest starts, and where every interrupt enters.
 *
 * The loader leaves: 64-bit mode, interrupts off, the first 4 GiB mapped one to one, RDI the size
 * of memory, RSI struct boot_params, no stack.
 */

#define CODE 0x10
#define DATA 0x18

	.section .text.start, "ax"
	.globl _start
_start:
	lea stack_top(%rip), %rsp
	lgdt gdt_pointer(%rip)
	mov $DATA, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	lea 1f(%rip), %rax
	pushq $CODE
	push %rax
	lretq
1:	xor %ebp, %ebp
	mov %rdi, %r12
	mov 0x228(%rsi), %r13d	/* cmd_line_ptr of struct boot_params */
	call interrupts_start
	mov %r12, %rdi
	mov %r13, %rsi
	call guest_main
	mov %eax, %edi
	call power_off

/*
 * One stub for each vector. All leave the same frame, struct registers in runtime.h: where the CPU
 * pushes no error code, a zero stands in for it.
 */
	.text
	.globl interrupt_stubs
	.balign 16
interrupt_stubs:
	.set vector, 0
	.rept 48
	.balign 16
	.if (vector != 8) && !((vector >= 10) && (vector <= 14)) && (vector != 17)
	pushq $0
	.endif
	pushq $vector
	jmp interrupt_entry
	.set vector, vector + 1
	.endr

interrupt_entry:
	push %rax
	push %rbx
	push %rcx
	push %rdx
	push %rsi
	push %rdi
	push %rbp
	push %r8
	push %r9
	push %r10
	push %r11
	push %r12
	push %r13
	push %r14
	push %r15
	cld
	mov %rsp, %rdi
	call interrupt	/* the CPU has aligned the stack, and the frame is a multiple of 16 */
	pop %r15
	pop %r14
	pop %r13
	pop %r12
	pop %r11
	pop %r10
	pop %r9
	pop %r8
	pop %rbp
	pop %rdi
	pop %rsi
	pop %rdx
	pop %rcx
	pop %rbx
	pop %rax
	add $16, %rsp
	iretq

	.section .rodata
	.balign 8
gdt:	.quad 0, 0
	.quad 0x00af9b000000ffff	/* CODE: 64-bit, already marked as accessed */
	.quad 0x00cf93000000ffff	/* DATA */
gdt_pointer:
	.word . - gdt - 1
	.quad gdt

	.bss
	.balign 4096
	.skip 65536
stack_top:
	.section .note.GNU-stack, "", @progbits
