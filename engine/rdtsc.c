#include "engine/rdtsc.h"

#include <Zydis/Zydis.h>
#include <string.h>

#define IN_EAX_IMM8 0xe5u
#define OUT_IMM8_AL 0xe6u
#define NOP 0x90u
#define FAULT 13u /* #GP */
#define CR4_TSD (1u << 2)

static const uint8_t trap[] = {OUT_IMM8_AL, PORT_TSC};

unsigned rdtsc_replace(uint8_t *code, size_t length)
{
	ZydisDecoder decoder;
	ZydisDecodedInstruction instruction;
	unsigned count = 0;
	if (ZYAN_FAILED(
		    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64)))
		return 0;
	/* What cannot be decoded is padding or a table; code begins again behind it. */
	for (size_t at = 0; at < length;) {
		if (ZYAN_FAILED(ZydisDecoderDecodeInstruction(
			    &decoder, NULL, code + at, length - at, &instruction))) {
			at++;
			continue;
		}
		if (instruction.mnemonic == ZYDIS_MNEMONIC_RDTSC && instruction.length == 2) {
			code[at] = IN_EAX_IMM8;
			code[at + 1] = PORT_TSC;
			count++;
		}
		at += instruction.length;
	}
	return count;
}

/* An entry of Linux's list: its struct idt_data. */
struct idt_data {
	uint32_t vector, segment;
	uint16_t bits;
	uint16_t pad[3];
	uint64_t address;
};

uint64_t rdtsc_find_handler(const uint8_t *data, size_t length)
{
	const struct idt_data wanted = {
		.vector = FAULT, .segment = 0x10, .bits = 0x8e00 /* an interrupt gate of ring 0 */};
	for (size_t at = 0; length >= sizeof wanted && at <= length - sizeof wanted; at += 8) {
		struct idt_data here;
		if (memcmp(data + at, &wanted, offsetof(struct idt_data, address)) != 0)
			continue;
		memcpy(&here, data + at, sizeof here);
		if (here.address >> 32 == 0xffffffffu)
			return here.address;
	}
	return 0;
}

bool rdtsc_trap(uint8_t *handler, size_t length)
{
	static const uint8_t endbr64[] = {0xf3, 0x0f, 0x1e, 0xfa}, nops[] = {NOP, NOP};
	size_t room = 0;
	if (length >= sizeof nops && memcmp(handler, nops, sizeof nops) == 0)
		room = sizeof nops;
	if (length >= sizeof endbr64 && memcmp(handler, endbr64, sizeof endbr64) == 0)
		room = sizeof endbr64;
	if (room == 0)
		return false;
	memset(handler, NOP, room);
	memcpy(handler, trap, sizeof trap);
	return true;
}

/* What the processor has pushed for the handler. */
struct fault_frame {
	uint64_t error, rip, cs, flags, rsp, ss;
};

/* So many bytes at an address of the guest's own, to the end of their page at most; NULL: there are none. */
static void *at_linear(
	struct vcpu *vcpu, struct guest_memory *memory, uint64_t linear, uint64_t length)
{
	gpa physical;
	if (linear % 4096 + length > 4096 || !vcpu_translate(vcpu, linear, &physical))
		return NULL;
	return memory_write_ptr(memory, physical, length);
}

int rdtsc_keep_trapped(struct vcpu *vcpu, struct guest_memory *memory)
{
	const struct kvm_sregs *sregs = &vcpu->run->s.regs.sregs;
	/* Linux has its table in the upper half; no other guest is to pay for a look at each exit. */
	if ((sregs->cr4 & CR4_TSD) || !(sregs->idt.base >> 63))
		return 0;
	uint64_t gate[2];
	const void *at = at_linear(vcpu, memory, sregs->idt.base + 16 * FAULT, sizeof gate);
	if (!at)
		return 0;
	memcpy(gate, at, sizeof gate);
	uint64_t address = gate[1] << 32 | (gate[0] >> 32 & 0xffff0000u) | (gate[0] & 0xffffu);
	const uint8_t *handler = at_linear(vcpu, memory, address, sizeof trap);
	if (!handler || memcmp(handler, trap, sizeof trap) != 0)
		return 0;
	return vcpu_set_cr4(vcpu, sregs->cr4 | CR4_TSD);
}

/* Is there an RDTSC, of whatever page each byte is? */
static bool is_rdtsc(struct vcpu *vcpu, struct guest_memory *memory, uint64_t linear)
{
	const uint8_t *first = at_linear(vcpu, memory, linear, 1);
	const uint8_t *second = at_linear(vcpu, memory, linear + 1, 1);
	return first && second && *first == 0x0f && *second == 0x31;
}

/* An IRETQ in what is behind this address, in this page or one of the next; 0: none. */
static uint64_t find_iret(struct vcpu *vcpu, struct guest_memory *memory, uint64_t linear)
{
	static const uint8_t iretq[] = {0x48, 0xcf};
	for (unsigned page = 0; page < 4; page++) {
		uint64_t length = 4096 - linear % 4096;
		const uint8_t *code = at_linear(vcpu, memory, linear, length);
		const uint8_t *found = code ? memmem(code, length, iretq, sizeof iretq) : NULL;
		if (found)
			return linear + (uint64_t)(found - code);
		linear += length;
	}
	return 0;
}

/* The handler of #GP begins: the fault is a program's RDTSC, or the handler's. */
static void serve_fault(struct vcpu *vcpu, struct guest_memory *memory, uint64_t tsc)
{
	struct kvm_regs *regs = &vcpu->run->s.regs.regs;
	struct fault_frame frame;
	/* A program with the right to use ports has said so: what its stack pointer points at is nobody's frame. */
	if ((vcpu->run->s.regs.sregs.cs.selector & 3) != 0)
		return;
	void *at = at_linear(vcpu, memory, regs->rsp, sizeof frame);
	if (!at)
		return;
	memcpy(&frame, at, sizeof frame);
	if (frame.error != 0 || (frame.cs & 3) != 3 || !is_rdtsc(vcpu, memory, frame.rip))
		return;
	uint64_t iret = find_iret(vcpu, memory, regs->rip);
	if (iret == 0)
		return;
	frame.rip += 2;
	memcpy(at, &frame, sizeof frame);
	regs->rsp += sizeof frame.error;
	regs->rip = iret;
	regs->rax = tsc & UINT32_MAX;
	regs->rdx = tsc >> 32;
	vcpu->run->kvm_dirty_regs |= KVM_SYNC_X86_REGS;
}

void rdtsc_serve(struct vcpu *vcpu, struct guest_memory *memory, uint64_t tsc)
{
	struct kvm_run *run = vcpu->run;
	if (run->io.direction == KVM_EXIT_IO_OUT) {
		serve_fault(vcpu, memory, tsc);
		return;
	}
	/* KVM puts these into EAX. */
	memcpy((uint8_t *)run + run->io.data_offset, &tsc, run->io.size);
	run->s.regs.regs.rdx = tsc >> 32;
	run->kvm_dirty_regs |= KVM_SYNC_X86_REGS;
}
