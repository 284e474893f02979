/*
 * A KVM for machines that have none: a library that is loaded before the others and answers for /dev/kvm.
 *
 * The guest's code runs as this process's own, at the processor's speed and at the addresses that it has for itself. What a
 * process may not do, and what is not memory, ends in a signal, which is an exit: some ten microseconds where this was
 * written, less than software KVM takes from ring 3 and ten times what hardware does.
 *
 * So it is for guests that are known and trusted, ledger and stream in tests/guests: one vCPU in 64-bit mode, mapped one
 * to one. They must not use FS, GS and vector registers, nor what a process is answered without a signal: PUSHF and POPF,
 * STR, SIDT, RDTSC, CPUID, SYSCALL. The selectors in their GDT are ones that no process has, or loading them would not be
 * seen. Nothing keeps a guest from the rest of the process.
 */
#include "engine/vcpu.h"
#include "tests/user_kvm/memory.h"

#include <Zydis/Zydis.h>
#include <cpuid.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define PAGE 4096u
#define RUN_SIZE (2 * PAGE)
#define IO_DATA PAGE /* in struct kvm_run */
#define GUEST_END (1ull << 32)
#define DEVICES 0xd0000000ull /* behind all memory that a guest can have */
#define FAULT_PROTECTION 13u
#define FAULT_PAGE 14u
#define FAULT_WRITE 2u /* in a page fault's error code */
#define FLAG_TRAP (1ull << 8)
#define FLAG_INTERRUPTS (1ull << 9)
#define FLAG_DIRECTION (1ull << 10)
#define FLAG_NESTED (1ull << 14)
#define FLAG_RESUME (1ull << 16)
#define FLAG_ALIGNMENT (1ull << 18)

/* An instruction whose exit waits for the answer. */
struct unfinished {
	bool is_read, is_mmio;
	uint8_t size, length; /* bytes: of the access, of the instruction */
	ZydisRegister to;
};

static struct {
	struct kvm_run *run;
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_xsave xsave;
	struct kvm_vcpu_events events;
	struct kvm_debugregs debug;
	uint64_t msrs[VCPU_MSRS]; /* the engine's list, always the same one */
	int queued; /* an interrupt's vector, or -1 */
	bool shadow; /* behind STI: no interrupt before the guest has been let on */
	struct unfinished unfinished;
	/* Of the signal that ended the guest's stretch. */
	uint64_t fault, error, address;
} vm;

/* ---- in and out of the guest's code ---- */

enum left { LEFT_KICKED, LEFT_FAULTED };

/* Runs the guest from `regs` until a signal; at once LEFT_KICKED where *immediate_exit is set. */
enum left user_kvm_enter(struct kvm_regs *regs, const volatile uint8_t *immediate_exit);
extern const uint8_t user_kvm_entering[], user_kvm_entered[], user_kvm_left[];
uint64_t user_kvm_stack; /* ours, while the guest runs */

/* struct kvm_regs: RAX, RBX, RCX, RDX, RSI, RDI, RSP, RBP, R8 to R15, RIP, RFLAGS. */
__asm__("	.text\n"
	"	.globl user_kvm_enter, user_kvm_entering, user_kvm_entered, user_kvm_left\n"
	"	.hidden user_kvm_enter, user_kvm_entering, user_kvm_entered, user_kvm_left, user_kvm_stack\n"
	"user_kvm_enter:\n"
	"	push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15\n"
	"	mov %rsp, user_kvm_stack(%rip)\n"
	"user_kvm_entering:\n"
	"	xor %eax, %eax\n"
	"	cmpb $0, (%rsi)\n"
	"	jne user_kvm_left\n"
	"	mov %ss, %eax; push %rax\n"
	"	pushq 48(%rdi)\n"
	"	pushq 136(%rdi)\n"
	"	mov %cs, %eax; push %rax\n"
	"	pushq 128(%rdi)\n"
	"	mov (%rdi), %rax; mov 8(%rdi), %rbx; mov 16(%rdi), %rcx; mov 24(%rdi), %rdx; mov 32(%rdi), %rsi\n"
	"	mov 56(%rdi), %rbp; mov 64(%rdi), %r8; mov 72(%rdi), %r9; mov 80(%rdi), %r10; mov 88(%rdi), %r11\n"
	"	mov 96(%rdi), %r12; mov 104(%rdi), %r13; mov 112(%rdi), %r14; mov 120(%rdi), %r15; mov 40(%rdi), %rdi\n"
	"	iretq\n"
	"user_kvm_entered:\n"
	"user_kvm_left:\n"
	"	mov user_kvm_stack(%rip), %rsp\n"
	"	pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp\n"
	"	ret\n");

static void (*kick)(int);
/* As the signal's handlers read it, without a call. */
static _Thread_local bool is_vcpu __attribute__((tls_model("initial-exec")));

static bool is_guest(uint64_t rip)
{
	return rip < GUEST_END;
}

static bool is_entering(uint64_t rip)
{
	return rip >= (uintptr_t)user_kvm_entering && rip < (uintptr_t)user_kvm_entered;
}

/* Lets the signal return behind user_kvm_enter. */
static void leave(greg_t *host, enum left how)
{
	const int order[] = {REG_RAX, REG_RBX, REG_RCX, REG_RDX, REG_RSI, REG_RDI, REG_RSP, REG_RBP,
		REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15, REG_RIP};
	uint64_t *guest = (uint64_t *)&vm.regs;
	if (is_guest((uint64_t)host[REG_RIP])) {
		for (unsigned i = 0; i < sizeof order / sizeof order[0]; i++)
			guest[i] = (uint64_t)host[order[i]];
		/* Interrupts are on for us, whatever they are for the guest. */
		const uint64_t ours = FLAG_INTERRUPTS | FLAG_RESUME;
		vm.regs.rflags = (vm.regs.rflags & FLAG_INTERRUPTS) | ((uint64_t)host[REG_EFL] & ~ours);
		vm.shadow = false;
	}
	host[REG_RIP] = (greg_t)user_kvm_left;
	host[REG_RAX] = how;
	host[REG_EFL] &= ~(greg_t)(FLAG_TRAP | FLAG_DIRECTION | FLAG_ALIGNMENT | FLAG_NESTED);
}

static void take_fault(int number, siginfo_t *info, void *context)
{
	greg_t *host = ((ucontext_t *)context)->uc_mcontext.gregs;
	(void)info;
	if (!is_vcpu || !is_guest((uint64_t)host[REG_RIP])) {
		signal(number, SIG_DFL); /* the instruction comes again, and ends us */
		return;
	}
	vm.fault = (uint64_t)host[REG_TRAPNO];
	vm.error = (uint64_t)host[REG_ERR];
	vm.address = (uint64_t)host[REG_CR2];
	leave(host, LEFT_FAULTED);
}

static void take_kick(int number, siginfo_t *info, void *context)
{
	greg_t *host = ((ucontext_t *)context)->uc_mcontext.gregs;
	(void)info;
	kick(number);
	if (is_vcpu && (is_guest((uint64_t)host[REG_RIP]) || is_entering((uint64_t)host[REG_RIP])))
		leave(host, LEFT_KICKED);
}

/* The engine's handler of kicks is called by ours. */
int sigaction(int number, const struct sigaction *action, struct sigaction *before)
{
	int (*next)(int, const struct sigaction *, struct sigaction *) =
		(int (*)(int, const struct sigaction *, struct sigaction *))dlsym(RTLD_NEXT, "sigaction");
	if (number != VCPU_KICK_SIGNAL || !action || action->sa_handler == SIG_DFL || action->sa_handler == SIG_IGN ||
		(action->sa_flags & SA_SIGINFO))
		return next(number, action, before);
	kick = action->sa_handler;
	struct sigaction ours = *action;
	ours.sa_sigaction = take_kick;
	ours.sa_flags |= SA_SIGINFO | SA_ONSTACK;
	return next(number, &ours, before);
}

/* The guest's stack is no place for a signal's frame. */
static void use_own_stack(void)
{
	static _Alignas(16) uint8_t stack[1 << 16];
	const stack_t own = {.ss_sp = stack, .ss_size = sizeof stack};
	if (!is_vcpu && sigaltstack(&own, NULL) == 0)
		is_vcpu = true;
}

/* ---- rings ---- */

static void push(uint64_t value)
{
	vm.regs.rsp -= sizeof value;
	memory_write(vm.regs.rsp, value);
}

static uint64_t pop(void)
{
	uint64_t value = memory_read(vm.regs.rsp, sizeof value);
	vm.regs.rsp += sizeof value;
	return value;
}

static unsigned ring(void)
{
	return vm.sregs.cs.dpl;
}

/* From the guest's GDT, as the processor would. A null selector for SS is of the ring that it is loaded in. */
static void load_segment(struct kvm_segment *segment, uint16_t selector, unsigned null_dpl)
{
	*segment = (struct kvm_segment){.selector = selector, .dpl = null_dpl & 3, .unusable = 1};
	if (selector < 4)
		return;
	uint64_t at = vm.sregs.gdt.base + (selector & ~7u), low = memory_read(at, 8);
	bool is_system = !(low >> 44 & 1);
	segment->base = (low >> 16 & 0xffffff) | (low >> 56 & 0xff) << 24;
	if (is_system)
		segment->base |= memory_read(at + 8, 4) << 32;
	segment->g = low >> 55 & 1;
	segment->limit = (uint32_t)((low & 0xffff) | (low >> 48 & 15) << 16);
	if (segment->g)
		segment->limit = segment->limit << 12 | 0xfff;
	segment->type = low >> 40 & 15;
	segment->s = !is_system;
	segment->dpl = low >> 45 & 3;
	segment->present = low >> 47 & 1;
	segment->avl = low >> 52 & 1;
	segment->l = low >> 53 & 1;
	segment->db = low >> 54 & 1;
	segment->unusable = !segment->present;
}

/* Enters the guest's handler; with an error code if that is not negative. */
static void interrupt(unsigned vector, int64_t error)
{
	uint64_t gate = vm.sregs.idt.base + vector * 16, low = memory_read(gate, 8);
	uint64_t to = (low & 0xffff) | (low >> 48) << 16 | memory_read(gate + 8, 4) << 32;
	uint64_t stack = vm.regs.rsp, flags = vm.regs.rflags;
	uint16_t code = vm.sregs.cs.selector, data = vm.sregs.ss.selector;
	if (ring() != 0) {
		vm.regs.rsp = memory_read(vm.sregs.tr.base + 4, 8);
		load_segment(&vm.sregs.ss, 0, 0);
	}
	load_segment(&vm.sregs.cs, (uint16_t)(low >> 16), 0);
	vm.regs.rsp &= ~15ull;
	push(data);
	push(stack);
	push(flags);
	push(code);
	push(vm.regs.rip);
	if (error >= 0)
		push((uint64_t)error);
	vm.regs.rip = to;
	vm.regs.rflags &= ~(FLAG_TRAP | FLAG_NESTED | FLAG_RESUME);
	if (!(low >> 40 & 1)) /* a trap gate leaves them on */
		vm.regs.rflags &= ~FLAG_INTERRUPTS;
}

static void return_from_interrupt(void)
{
	vm.regs.rip = pop();
	load_segment(&vm.sregs.cs, (uint16_t)pop(), 0);
	vm.regs.rflags = pop();
	uint64_t stack = pop();
	load_segment(&vm.sregs.ss, (uint16_t)pop(), ring());
	vm.regs.rsp = stack;
	struct kvm_segment *others[] = {&vm.sregs.ds, &vm.sregs.es};
	for (unsigned i = 0; i < 2; i++)
		if (ring() > others[i]->dpl)
			load_segment(others[i], 0, ring());
}

/* ---- instructions ---- */

static const int NEXT = -1, UNKNOWN = -2; /* beside KVM's exit reasons */

struct instruction {
	ZydisDecodedInstruction head;
	ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
};

static uint64_t *register_named(ZydisRegister name)
{
	static const uint8_t order[] = {0, 2, 3, 1, 6, 7, 4, 5, 8, 9, 10, 11, 12, 13, 14, 15};
	ZydisRegister whole = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, name);
	if (whole < ZYDIS_REGISTER_RAX || whole > ZYDIS_REGISTER_R15)
		return NULL;
	return (uint64_t *)&vm.regs + order[whole - ZYDIS_REGISTER_RAX];
}

static bool is_high_byte(ZydisRegister name)
{
	return name >= ZYDIS_REGISTER_AH && name <= ZYDIS_REGISTER_BH;
}

/* As a processor does: 32 bits clear those above, 8 and 16 leave them. */
static void set_register(ZydisRegister name, uint64_t value)
{
	uint64_t *to = register_named(name);
	unsigned size = ZydisRegisterGetWidth(ZYDIS_MACHINE_MODE_LONG_64, name) / 8u;
	if (size == 4)
		*to = (uint32_t)value;
	else
		memcpy((uint8_t *)to + is_high_byte(name), &value, size);
}

static uint64_t address_of(const ZydisDecodedOperand *operand, unsigned length)
{
	uint64_t at = operand->mem.disp.has_displacement ? (uint64_t)operand->mem.disp.value : 0;
	const uint64_t *index = register_named(operand->mem.index);
	if (operand->mem.base == ZYDIS_REGISTER_RIP)
		at += vm.regs.rip + length;
	else if (operand->mem.base != ZYDIS_REGISTER_NONE)
		at += *register_named(operand->mem.base);
	return index ? at + *index * operand->mem.scale : at;
}

static uint64_t value_of(const struct instruction *instruction, const ZydisDecodedOperand *operand)
{
	uint64_t value = 0;
	if (operand->type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
		return operand->imm.value.u;
	if (operand->type == ZYDIS_OPERAND_TYPE_MEMORY)
		return memory_read(address_of(operand, instruction->head.length), operand->size / 8u);
	memcpy(&value, (uint8_t *)register_named(operand->reg.value) + is_high_byte(operand->reg.value),
		operand->size / 8u);
	return value;
}

static bool decode(struct instruction *instruction)
{
	static ZydisDecoder decoder;
	static bool ready;
	if (!ready)
		ready = ZYAN_SUCCESS(ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64));
	const void *code = memory_at(vm.regs.rip, ZYDIS_MAX_INSTRUCTION_LENGTH);
	return code && ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, code, ZYDIS_MAX_INSTRUCTION_LENGTH,
			       &instruction->head, instruction->operands));
}

static int port_access(const struct instruction *instruction, bool is_read)
{
	const ZydisDecodedOperand *port = &instruction->operands[is_read], *data = &instruction->operands[!is_read];
	uint8_t size = (uint8_t)(data->size / 8u);
	vm.run->io.direction = is_read ? KVM_EXIT_IO_IN : KVM_EXIT_IO_OUT;
	vm.run->io.size = size;
	vm.run->io.port = (uint16_t)value_of(instruction, port);
	vm.run->io.count = 1;
	vm.run->io.data_offset = IO_DATA;
	uint64_t value = is_read ? 0 : value_of(instruction, data);
	memcpy((uint8_t *)vm.run + IO_DATA, &value, sizeof value);
	vm.unfinished = (struct unfinished){
		.is_read = is_read, .size = size, .length = instruction->head.length, .to = data->reg.value};
	return KVM_EXIT_IO;
}

/* A MOV to or from what is not memory. */
static int device_access(const struct instruction *instruction)
{
	bool is_read = instruction->operands[1].type == ZYDIS_OPERAND_TYPE_MEMORY;
	const ZydisDecodedOperand *memory = &instruction->operands[is_read], *data = &instruction->operands[!is_read];
	ZydisMnemonic mnemonic = instruction->head.mnemonic;
	if (memory->type != ZYDIS_OPERAND_TYPE_MEMORY || vm.address < DEVICES || vm.address >= GUEST_END ||
		(mnemonic != ZYDIS_MNEMONIC_MOV && mnemonic != ZYDIS_MNEMONIC_MOVZX))
		return UNKNOWN;
	uint8_t size = (uint8_t)(memory->size / 8u);
	vm.run->mmio.phys_addr = vm.address;
	vm.run->mmio.len = size;
	vm.run->mmio.is_write = !is_read;
	uint64_t value = is_read ? 0 : value_of(instruction, data);
	memcpy(vm.run->mmio.data, &value, sizeof value);
	vm.unfinished = (struct unfinished){.is_read = is_read,
		.is_mmio = true,
		.size = size,
		.length = instruction->head.length,
		.to = is_read ? data->reg.value : ZYDIS_REGISTER_NONE};
	return KVM_EXIT_MMIO;
}

static void finish(void)
{
	struct unfinished last = vm.unfinished;
	uint64_t value = 0;
	if (last.length == 0)
		return;
	vm.unfinished = (struct unfinished){0};
	if (last.is_read) {
		memcpy(&value, last.is_mmio ? vm.run->mmio.data : (uint8_t *)vm.run + IO_DATA, last.size);
		set_register(last.to, value);
	}
	vm.regs.rip += last.length;
}

/* A MOV to or from CR2, CR3 or a segment register. */
static int privileged_move(const struct instruction *instruction)
{
	const ZydisDecodedOperand *to = &instruction->operands[0], *from = &instruction->operands[1];
	struct kvm_segment *segments[] = {&vm.sregs.es, &vm.sregs.cs, &vm.sregs.ss, &vm.sregs.ds, &vm.sregs.fs, &vm.sregs.gs};
	if (to->type != ZYDIS_OPERAND_TYPE_REGISTER || from->type != ZYDIS_OPERAND_TYPE_REGISTER)
		return UNKNOWN;
	if (to->reg.value == ZYDIS_REGISTER_CR3)
		vm.sregs.cr3 = value_of(instruction, from); /* what it maps is one to one, still */
	else if (from->reg.value == ZYDIS_REGISTER_CR3)
		set_register(to->reg.value, vm.sregs.cr3);
	else if (from->reg.value == ZYDIS_REGISTER_CR2)
		set_register(to->reg.value, vm.sregs.cr2);
	else if (to->reg.value >= ZYDIS_REGISTER_ES && to->reg.value <= ZYDIS_REGISTER_GS)
		load_segment(segments[to->reg.value - ZYDIS_REGISTER_ES], (uint16_t)value_of(instruction, from), 0);
	else
		return UNKNOWN;
	return NEXT;
}

/* What faulted because it is privileged. NEXT: it is done. */
static int privileged(const struct instruction *instruction)
{
	const ZydisDecodedOperand *operand = instruction->operands;
	struct kvm_dtable table;
	uint64_t at;
	int reason = NEXT;
	bool shadow = false;
	if (ring() != 0) {
		interrupt(FAULT_PROTECTION, 0);
		return NEXT;
	}
	switch (instruction->head.mnemonic) {
	case ZYDIS_MNEMONIC_IN:
	case ZYDIS_MNEMONIC_OUT:
		return port_access(instruction, instruction->head.mnemonic == ZYDIS_MNEMONIC_IN);
	case ZYDIS_MNEMONIC_HLT:
		reason = KVM_EXIT_HLT;
		break;
	case ZYDIS_MNEMONIC_CLI:
		vm.regs.rflags &= ~FLAG_INTERRUPTS;
		break;
	case ZYDIS_MNEMONIC_STI:
		shadow = !(vm.regs.rflags & FLAG_INTERRUPTS);
		vm.regs.rflags |= FLAG_INTERRUPTS;
		break;
	case ZYDIS_MNEMONIC_LGDT:
	case ZYDIS_MNEMONIC_LIDT:
		at = address_of(operand, instruction->head.length);
		table = (struct kvm_dtable){.limit = (uint16_t)memory_read(at, 2), .base = memory_read(at + 2, 8)};
		*(instruction->head.mnemonic == ZYDIS_MNEMONIC_LGDT ? &vm.sregs.gdt : &vm.sregs.idt) = table;
		break;
	case ZYDIS_MNEMONIC_LTR:
		load_segment(&vm.sregs.tr, (uint16_t)value_of(instruction, operand), 0);
		vm.sregs.tr.type |= 2; /* busy */
		break;
	case ZYDIS_MNEMONIC_MOV:
		reason = privileged_move(instruction);
		break;
	case ZYDIS_MNEMONIC_IRETQ:
		return_from_interrupt();
		return NEXT;
	case ZYDIS_MNEMONIC_RET:
		vm.regs.rip = pop();
		load_segment(&vm.sregs.cs, (uint16_t)pop(), 0);
		return NEXT;
	default:
		return UNKNOWN;
	}
	if (reason != UNKNOWN) {
		vm.regs.rip += instruction->head.length;
		vm.shadow = shadow;
	}
	return reason;
}

static bool may_interrupt(void)
{
	return (vm.regs.rflags & FLAG_INTERRUPTS) && !vm.shadow && vm.queued < 0;
}

/* Whether the next instruction would fault, so that it is done without. */
static bool is_privileged(const struct instruction *instruction)
{
	switch (instruction->head.mnemonic) {
	case ZYDIS_MNEMONIC_HLT:
	case ZYDIS_MNEMONIC_CLI:
	case ZYDIS_MNEMONIC_STI:
	case ZYDIS_MNEMONIC_IRETQ:
		return true;
	default:
		return false;
	}
}

/* After the guest has faulted. NEXT: it goes on. */
static int take(void)
{
	struct instruction instruction;
	if (vm.fault == FAULT_PAGE && (vm.error & FAULT_WRITE) && memory_is_protected(vm.address))
		return memory_unprotect(vm.address) ? UNKNOWN : NEXT;
	if (!decode(&instruction))
		return UNKNOWN;
	if (vm.fault == FAULT_PAGE)
		return device_access(&instruction);
	int reason = vm.fault == FAULT_PROTECTION ? privileged(&instruction) : UNKNOWN;
	while (reason == NEXT && ring() == 0 && !may_interrupt() && decode(&instruction) && is_privileged(&instruction))
		reason = privileged(&instruction);
	return reason;
}

static int run_until_exit(void)
{
	finish();
	if (vm.queued >= 0 && !vm.run->immediate_exit) {
		interrupt((unsigned)vm.queued, -1);
		vm.queued = -1;
	}
	for (;;) {
		if (vm.run->request_interrupt_window && may_interrupt())
			return KVM_EXIT_IRQ_WINDOW_OPEN;
		if (user_kvm_enter(&vm.regs, &vm.run->immediate_exit) == LEFT_KICKED) {
			errno = EINTR;
			return -1;
		}
		int reason = take();
		if (reason == UNKNOWN) {
			fprintf(stderr, "user_kvm: this guest needs a real KVM: fault %llu, error %llx, at %llx for %llx\n",
				(unsigned long long)vm.fault, (unsigned long long)vm.error,
				(unsigned long long)vm.regs.rip, (unsigned long long)vm.address);
			errno = ENOTSUP;
			return -1;
		}
		if (reason != NEXT)
			return reason;
	}
}

/* With what is queued, as KVM has it. */
static int get_sregs(struct kvm_sregs *sregs)
{
	*sregs = vm.sregs;
	if (vm.queued >= 0)
		sregs->interrupt_bitmap[vm.queued / 64] |= 1ull << vm.queued % 64;
	return 0;
}

static int set_sregs(const struct kvm_sregs *sregs)
{
	vm.sregs = *sregs;
	vm.queued = -1;
	for (int i = 0; i < 256; i++)
		if (sregs->interrupt_bitmap[i / 64] >> i % 64 & 1)
			vm.queued = i;
	memset(vm.sregs.interrupt_bitmap, 0, sizeof vm.sregs.interrupt_bitmap);
	return 0;
}

static int run(void)
{
	use_own_stack();
	int reason = run_until_exit();
	vm.run->exit_reason = reason < 0 ? KVM_EXIT_INTR : (uint32_t)reason;
	vm.run->if_flag = !!(vm.regs.rflags & FLAG_INTERRUPTS);
	vm.run->ready_for_interrupt_injection = may_interrupt();
	vm.run->s.regs.regs = vm.regs;
	get_sregs(&vm.run->s.regs.sregs);
	return reason < 0 ? -1 : 0;
}

/* ---- /dev/kvm ---- */

static int open_file(uint64_t size)
{
	int fd = memfd_create("user-kvm", MFD_CLOEXEC);
	return fd >= 0 && ftruncate(fd, (off_t)size) == 0 ? fd : -1;
}

static int create_vm(void)
{
	const struct kvm_userspace_memory_region none = {0};
	memset(&vm, 0, sizeof vm);
	vm.queued = -1;
	memory_place(&none);
	uint16_t control = 0x37f; /* x87's and SSE's, at reset */
	uint32_t mxcsr = 0x1f80;
	memcpy(vm.xsave.region, &control, sizeof control);
	memcpy(vm.xsave.region + 6, &mxcsr, sizeof mxcsr);
	const struct sigaction faults = {.sa_sigaction = take_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
	const int numbers[] = {SIGSEGV, SIGILL, SIGTRAP, SIGFPE};
	for (unsigned i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
		sigaction(numbers[i], &faults, NULL);
	return open_file(0);
}

static int create_vcpu(void)
{
	int fd = open_file(RUN_SIZE);
	void *map = fd < 0 ? MAP_FAILED : mmap(NULL, RUN_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return -1;
	vm.run = map;
	return fd;
}

static int supported_cpuid(struct kvm_cpuid2 *all)
{
	const uint32_t leaves[] = {1, 0x80000001u};
	for (all->nent = 0; all->nent < 2; all->nent++) {
		struct kvm_cpuid_entry2 *leaf = &all->entries[all->nent];
		leaf->function = leaves[all->nent];
		__cpuid(leaf->function, leaf->eax, leaf->ebx, leaf->ecx, leaf->edx);
	}
	return 0;
}

static int move_msrs(struct kvm_msrs *list, bool set)
{
	for (unsigned i = 0; i < list->nmsrs && i < VCPU_MSRS; i++) {
		if (set)
			vm.msrs[i] = list->entries[i].data;
		else
			list->entries[i].data = vm.msrs[i];
	}
	return (int)list->nmsrs;
}

static int translate(struct kvm_translation *translation)
{
	translation->physical_address = translation->linear_address;
	translation->valid = translation->linear_address < GUEST_END;
	return 0;
}

static int queue_interrupt(const struct kvm_interrupt *queued)
{
	vm.queued = (int)queued->irq;
	return 0;
}

static int copy(void *to, const void *from, size_t size)
{
	memcpy(to, from, size);
	return 0;
}

static int answer(unsigned long request, void *argument)
{
	switch (request) {
	case KVM_GET_API_VERSION:
		return KVM_API_VERSION;
	case KVM_CHECK_EXTENSION:
		return (uintptr_t)argument == KVM_CAP_SYNC_REGS ? KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS : 1;
	case KVM_GET_SUPPORTED_CPUID:
		return supported_cpuid(argument);
	case KVM_CREATE_VM:
		return create_vm();
	case KVM_CREATE_VCPU:
		return create_vcpu();
	case KVM_GET_VCPU_MMAP_SIZE:
		return RUN_SIZE;
	case KVM_SET_USER_MEMORY_REGION:
		return memory_place(argument);
	case KVM_GET_DIRTY_LOG:
		return memory_tell_changes(argument);
	case KVM_SET_TSS_ADDR:
	case KVM_ENABLE_CAP:
	case KVM_X86_SET_MSR_FILTER:
	case KVM_SET_CPUID2:
		return 0;
	case KVM_RUN:
		return run();
	case KVM_INTERRUPT:
		return queue_interrupt(argument);
	case KVM_TRANSLATE:
		return translate(argument);
	case KVM_GET_REGS:
		return copy(argument, &vm.regs, sizeof vm.regs);
	case KVM_SET_REGS:
		vm.unfinished = (struct unfinished){0};
		return copy(&vm.regs, argument, sizeof vm.regs);
	case KVM_GET_SREGS:
		return get_sregs(argument);
	case KVM_SET_SREGS:
		return set_sregs(argument);
	case KVM_GET_XSAVE:
		return copy(argument, &vm.xsave, sizeof vm.xsave);
	case KVM_SET_XSAVE:
		return copy(&vm.xsave, argument, sizeof vm.xsave);
	case KVM_GET_VCPU_EVENTS:
		return copy(argument, &vm.events, sizeof vm.events);
	case KVM_SET_VCPU_EVENTS:
		return copy(&vm.events, argument, sizeof vm.events);
	case KVM_GET_DEBUGREGS:
		return copy(argument, &vm.debug, sizeof vm.debug);
	case KVM_SET_DEBUGREGS:
		return copy(&vm.debug, argument, sizeof vm.debug);
	case KVM_GET_MSRS:
		return move_msrs(argument, false);
	case KVM_SET_MSRS:
		return move_msrs(argument, true);
	default:
		errno = ENOTTY;
		return -1;
	}
}

int ioctl(int fd, unsigned long request, ...)
{
	va_list arguments;
	va_start(arguments, request);
	void *argument = va_arg(arguments, void *);
	va_end(arguments);
	if (_IOC_TYPE(request) == KVMIO)
		return answer(request, argument);
	return (int)syscall(SYS_ioctl, fd, request, argument);
}

int open(const char *path, int flags, ...)
{
	va_list arguments;
	va_start(arguments, flags);
	mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(arguments, mode_t) : 0;
	va_end(arguments);
	if (strcmp(path, "/dev/kvm") == 0)
		return open_file(0);
	return openat(AT_FDCWD, path, flags, mode);
}
