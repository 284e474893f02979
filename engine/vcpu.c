#include "engine/vcpu.h"

#include "engine/boot.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define SYNC_REGS (KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS)

static _Thread_local struct vcpu *kick_target;

static void take_kick(int signal)
{
	(void)signal;
	if (!kick_target)
		return;
	/* The flag makes a KVM_RUN that has not begun yet return at once: no kick falls between the
	 * look at `kicked` and the system call. */
	atomic_store_explicit(&kick_target->kicked, true, memory_order_seq_cst);
	kick_target->run->immediate_exit = 1;
}

int vcpu_bind(struct vcpu *vcpu)
{
	sigset_t kick;
	sigemptyset(&kick);
	sigaddset(&kick, VCPU_KICK_SIGNAL);
	kick_target = vcpu;
	pthread_sigmask(SIG_UNBLOCK, &kick, NULL);
	struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = VCPU_KICK_SIGNAL};
	event._sigev_un._tid = gettid();
	if (timer_create(CLOCK_MONOTONIC, &event, &vcpu->timer) < 0)
		return fail(errno, "cannot make a timer for the vCPU: %s", strerror(errno));
	vcpu->has_timer = true;
	return 0;
}

void vcpu_unbind(struct vcpu *vcpu)
{
	if (vcpu->has_timer)
		timer_delete(vcpu->timer);
	vcpu->has_timer = false;
	kick_target = NULL;
}

void vcpu_alarm(struct vcpu *vcpu, uint64_t at_ns)
{
	const struct itimerspec at = {.it_value = {.tv_sec = (time_t)(at_ns / 1000000000u),
					      .tv_nsec = (long)(at_ns % 1000000000u)}};
	if (vcpu->has_timer)
		timer_settime(vcpu->timer, TIMER_ABSTIME, &at, NULL);
}

uint64_t vcpu_ran_ns(void)
{
	struct timespec ran;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ran);
	return (uint64_t)ran.tv_sec * 1000000000u + (uint64_t)ran.tv_nsec;
}

static int require(int kvm_fd, int capability, const char *name, int bits)
{
	int have = ioctl(kvm_fd, KVM_CHECK_EXTENSION, capability);
	if (have > 0 && (have & bits) == bits)
		return 0;
	return fail(ENOTSUP,
		"this kernel's KVM lacks %s, which Doppel needs; use Linux 6.1 or newer", name);
}

static int open_kvm(struct vcpu *vcpu)
{
	vcpu->kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (vcpu->kvm_fd < 0) {
		if (errno == ENOENT)
			return fail(EIO, "there is no /dev/kvm: load kvm-intel or kvm-amd, or "
					 "enable virtualisation in the firmware");
		if (errno == EACCES || errno == EPERM)
			return fail(EACCES,
				"no permission to use /dev/kvm: run as root or join the group kvm");
		return fail(EIO, "cannot open /dev/kvm: %s", strerror(errno));
	}
	if (ioctl(vcpu->kvm_fd, KVM_GET_API_VERSION, 0) != KVM_API_VERSION)
		return fail(ENOTSUP,
			"/dev/kvm is not KVM with API version %d: use Linux 6.1 or newer",
			KVM_API_VERSION);
	int error = require(vcpu->kvm_fd, KVM_CAP_IMMEDIATE_EXIT, "immediate_exit", 1);
	if (!error)
		error = require(vcpu->kvm_fd, KVM_CAP_SYNC_REGS, "registers in kvm_run", SYNC_REGS);
	if (!error)
		error = require(vcpu->kvm_fd, KVM_CAP_X86_USER_SPACE_MSR, "MSR exits", 1);
	if (!error)
		error = require(vcpu->kvm_fd, KVM_CAP_X86_MSR_FILTER, "MSR filters", 1);
	return error;
}

/* Denies every MSR but the model's; a denied access comes to us, and we answer it with #GP. */
static int filter_msrs(struct vcpu *vcpu)
{
	struct kvm_enable_cap cap = {.cap = KVM_CAP_X86_USER_SPACE_MSR,
		.args = {KVM_MSR_EXIT_REASON_FILTER | KVM_MSR_EXIT_REASON_UNKNOWN |
			 KVM_MSR_EXIT_REASON_INVAL}};
	if (ioctl(vcpu->vm_fd, KVM_ENABLE_CAP, &cap) < 0)
		return fail(EIO, "cannot enable MSR exits: %s", strerror(errno));
	uint8_t low[0x300 / 8] = {0}, high[0x110 / 8] = {0};
	for (unsigned i = 0; i < cpu_model_msr_count; i++) {
		uint32_t msr = cpu_model_msrs[i];
		uint8_t *map = msr < 0xc0000000u ? low : high;
		uint32_t bit = msr & 0xffffu;
		map[bit / 8] = (uint8_t)(map[bit / 8] | 1u << (bit % 8));
	}
	struct kvm_msr_filter filter = {.flags = KVM_MSR_FILTER_DEFAULT_DENY};
	filter.ranges[0] =
		(struct kvm_msr_filter_range){.flags = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE,
			.base = 0,
			.nmsrs = 0x300,
			.bitmap = low};
	filter.ranges[1] =
		(struct kvm_msr_filter_range){.flags = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE,
			.base = 0xc0000000u,
			.nmsrs = 0x110,
			.bitmap = high};
	if (ioctl(vcpu->vm_fd, KVM_X86_SET_MSR_FILTER, &filter) < 0)
		return fail(EIO, "cannot filter MSRs: %s", strerror(errno));
	return 0;
}

int vcpu_create(struct vcpu *vcpu, const struct guest_memory *memory)
{
	*vcpu = (struct vcpu){.kvm_fd = -1, .vm_fd = -1, .fd = -1};
	/* Before there is a thread to kick: without a handler the first kick would end the process. */
	struct sigaction action = {.sa_handler = take_kick};
	sigaction(VCPU_KICK_SIGNAL, &action, NULL);
	/* A bit for each page, in whole words. */
	vcpu->changed = calloc(vcpu_words(memory->size), sizeof *vcpu->changed);
	if (!vcpu->changed)
		return fail(ENOMEM, "no memory for the list of changed pages");
	int error = open_kvm(vcpu);
	if (!error)
		error = cpu_model_build(&vcpu->model, vcpu->kvm_fd);
	if (error)
		goto undo;
	const char *step = "make a machine";
	vcpu->vm_fd = ioctl(vcpu->kvm_fd, KVM_CREATE_VM, 0);
	if (vcpu->vm_fd < 0)
		goto kvm_failed;
	step = "give the guest its memory";
	vcpu->region = (struct kvm_userspace_memory_region){
		.memory_size = memory->size, .userspace_addr = (uint64_t)(uintptr_t)memory->base};
	if (ioctl(vcpu->vm_fd, KVM_SET_USER_MEMORY_REGION, &vcpu->region) < 0)
		goto kvm_failed;
	step = "place the task state";
	if (ioctl(vcpu->vm_fd, KVM_SET_TSS_ADDR, 0xfffbd000ul) < 0)
		goto kvm_failed;
	error = filter_msrs(vcpu);
	if (error)
		goto undo;
	step = "make a vCPU";
	vcpu->fd = ioctl(vcpu->vm_fd, KVM_CREATE_VCPU, 0);
	if (vcpu->fd < 0)
		goto kvm_failed;
	step = "map the vCPU";
	vcpu->run_size = (size_t)ioctl(vcpu->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	void *map = mmap(NULL, vcpu->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
	if (map == MAP_FAILED)
		goto kvm_failed;
	vcpu->run = map;
	vcpu->run->kvm_valid_regs = SYNC_REGS;
	step = "set the CPU model";
	if (ioctl(vcpu->fd, KVM_SET_CPUID2, &vcpu->model.cpuid) < 0)
		goto kvm_failed;
	return 0;

kvm_failed:
	error = fail(EIO, "KVM cannot %s: %s", step, strerror(errno));
undo:
	vcpu_destroy(vcpu);
	return error;
}

void vcpu_destroy(struct vcpu *vcpu)
{
	if (vcpu->run)
		munmap(vcpu->run, vcpu->run_size);
	vcpu->run = NULL;
	free(vcpu->changed);
	vcpu->changed = NULL;
	int *fds[] = {&vcpu->fd, &vcpu->vm_fd, &vcpu->kvm_fd};
	for (unsigned i = 0; i < 3; i++) {
		if (*fds[i] >= 0)
			close(*fds[i]);
		*fds[i] = -1;
	}
}

int vcpu_boot(struct vcpu *vcpu, uint64_t entry, uint64_t memory_size)
{
	struct vcpu_state state;
	int error = vcpu_save(vcpu, &state);
	if (error)
		return error;
	struct kvm_segment code = {.limit = 0xffffffff,
		.selector = BOOT_CODE_SELECTOR,
		.type = 11,
		.present = 1,
		.s = 1,
		.l = 1,
		.g = 1};
	struct kvm_segment data = {.limit = 0xffffffff,
		.selector = BOOT_DATA_SELECTOR,
		.type = 3,
		.present = 1,
		.s = 1,
		.db = 1,
		.g = 1};
	state.sregs.cs = code;
	state.sregs.ds = state.sregs.es = state.sregs.fs = state.sregs.gs = state.sregs.ss = data;
	state.sregs.gdt = (struct kvm_dtable){.base = BOOT_GDT, .limit = 0x1f};
	state.sregs.cr0 = 0x80050033; /* PG, AM, WP, NE, ET, MP, PE */
	state.sregs.cr3 = BOOT_PAGE_TABLES;
	state.sregs.cr4 = 0x620;  /* PAE, OSFXSR, OSXMMEXCPT */
	state.sregs.efer = 0x500; /* LME, LMA */
	state.regs = (struct kvm_regs){
		.rip = entry, .rflags = 2, .rdi = memory_size, .rsi = BOOT_PARAMS};
	return vcpu_load(vcpu, &state);
}

static int enter(struct vcpu *vcpu)
{
	if (ioctl(vcpu->fd, KVM_RUN, 0) == 0)
		return (int)vcpu->run->exit_reason;
	if (errno == EINTR || errno == EAGAIN)
		return -EINTR;
	return fail(EIO, "KVM cannot run the guest: %s", strerror(errno));
}

int vcpu_run(struct vcpu *vcpu)
{
	vcpu->run->immediate_exit = 0;
	/* The flag is cleared before the look at `kicked`: a kick before it is seen here, one after it
	 * sets the flag again through the signal. */
	atomic_signal_fence(memory_order_seq_cst);
	int reason = -EINTR;
	if (!atomic_exchange_explicit(&vcpu->kicked, false, memory_order_seq_cst))
		reason = enter(vcpu);
	/* Whoever has kicked so far gets what it wants with this return. */
	if (reason == -EINTR)
		atomic_store_explicit(&vcpu->kicked, false, memory_order_seq_cst);
	vcpu->run->request_interrupt_window = 0;
	return reason;
}

int vcpu_finish(struct vcpu *vcpu)
{
	/* A kick that arrives here leaves `kicked` set for the next vcpu_run. */
	vcpu->run->immediate_exit = 1;
	return enter(vcpu);
}

int vcpu_inject(struct vcpu *vcpu, uint8_t vector)
{
	struct kvm_interrupt interrupt = {.irq = vector};
	if (ioctl(vcpu->fd, KVM_INTERRUPT, &interrupt) < 0)
		return fail(EIO, "KVM does not take interrupt %u: %s", vector, strerror(errno));
	/* A second KVM_INTERRUPT before this one is delivered would silently replace it. */
	vcpu->run->ready_for_interrupt_injection = 0;
	return 0;
}

void vcpu_kick(struct vcpu *vcpu, pthread_t thread)
{
	atomic_store_explicit(&vcpu->kicked, true, memory_order_seq_cst);
	pthread_kill(thread, VCPU_KICK_SIGNAL);
}

struct msr_list {
	struct kvm_msrs head;
	struct kvm_msr_entry entry[VCPU_MSRS];
};

/* The model's MSRs but EFER, which KVM moves with the special registers. */
static void list_msrs(struct msr_list *list, const uint64_t values[VCPU_MSRS])
{
	*list = (struct msr_list){.head.nmsrs = 0};
	for (unsigned i = 0; i < cpu_model_msr_count; i++) {
		unsigned n = list->head.nmsrs;
		if (cpu_model_msrs[i] == MSR_EFER)
			continue;
		list->entry[n] = (struct kvm_msr_entry){
			.index = cpu_model_msrs[i], .data = values ? values[n] : 0};
		list->head.nmsrs++;
	}
}

/* KVM_GET_FPU knows no MXCSR, and KVM_SET_FPU sets registers that the processor takes for unused. */
static int save_fpu(const struct vcpu *vcpu, uint8_t fpu[VCPU_FPU])
{
	struct kvm_xsave area;
	if (ioctl(vcpu->fd, KVM_GET_XSAVE, &area) < 0)
		return -1;
	memcpy(fpu, area.region, VCPU_FPU);
	return 0;
}

static int load_fpu(const struct vcpu *vcpu, const uint8_t fpu[VCPU_FPU])
{
	struct kvm_xsave area = {0};
	memcpy(area.region, fpu, VCPU_FPU);
	area.region[128] = 3; /* XSTATE_BV: x87 and SSE are in use, and nothing else is */
	return ioctl(vcpu->fd, KVM_SET_XSAVE, &area);
}

int vcpu_save(struct vcpu *vcpu, struct vcpu_state *state)
{
	memset(state, 0, sizeof *state);
	struct msr_list msrs;
	list_msrs(&msrs, NULL);
	if (ioctl(vcpu->fd, KVM_GET_REGS, &state->regs) < 0 ||
		ioctl(vcpu->fd, KVM_GET_SREGS, &state->sregs) < 0 ||
		save_fpu(vcpu, state->fpu) < 0 ||
		ioctl(vcpu->fd, KVM_GET_VCPU_EVENTS, &state->events) < 0 ||
		ioctl(vcpu->fd, KVM_GET_DEBUGREGS, &state->debug) < 0)
		return fail(EIO, "KVM does not give the vCPU's state: %s", strerror(errno));
	if (ioctl(vcpu->fd, KVM_GET_MSRS, &msrs) != (int)msrs.head.nmsrs)
		return fail(EIO, "KVM does not give the vCPU's MSRs");
	for (unsigned i = 0; i < msrs.head.nmsrs; i++)
		state->msrs[i] = msrs.entry[i].data;
	state->if_flag = vcpu->run->if_flag;
	state->ready = vcpu->run->ready_for_interrupt_injection;
	return 0;
}

int vcpu_load(struct vcpu *vcpu, const struct vcpu_state *state)
{
	struct msr_list msrs;
	list_msrs(&msrs, state->msrs);
	if (ioctl(vcpu->fd, KVM_SET_SREGS, &state->sregs) < 0 ||
		ioctl(vcpu->fd, KVM_SET_REGS, &state->regs) < 0 || load_fpu(vcpu, state->fpu) < 0 ||
		ioctl(vcpu->fd, KVM_SET_VCPU_EVENTS, &state->events) < 0 ||
		ioctl(vcpu->fd, KVM_SET_DEBUGREGS, &state->debug) < 0)
		return fail(EIO, "KVM does not take the vCPU's state: %s", strerror(errno));
	if (ioctl(vcpu->fd, KVM_SET_MSRS, &msrs) != (int)msrs.head.nmsrs)
		return fail(EIO, "KVM does not take the vCPU's MSRs");
	/* What the last exit would have left for digests, which are to tell what KVM has taken, and for
	 * injection. */
	if (ioctl(vcpu->fd, KVM_GET_REGS, &vcpu->run->s.regs.regs) < 0 ||
		ioctl(vcpu->fd, KVM_GET_SREGS, &vcpu->run->s.regs.sregs) < 0)
		return fail(EIO, "KVM does not give the vCPU's registers: %s", strerror(errno));
	vcpu->run->if_flag = state->if_flag;
	vcpu->run->ready_for_interrupt_injection = state->ready;
	/* Without an in-kernel APIC each KVM_RUN sets CR8 from here. */
	vcpu->run->cr8 = state->sregs.cr8;
	return 0;
}

static int set_region(struct vcpu *vcpu, const struct kvm_userspace_memory_region *region)
{
	if (ioctl(vcpu->vm_fd, KVM_SET_USER_MEMORY_REGION, region) < 0)
		return fail(EIO, "KVM does not take the guest's memory again: %s", strerror(errno));
	return 0;
}

int vcpu_track(struct vcpu *vcpu, bool on)
{
	vcpu->region.flags = on ? KVM_MEM_LOG_DIRTY_PAGES : 0;
	return set_region(vcpu, &vcpu->region);
}

int vcpu_changes(struct vcpu *vcpu)
{
	struct kvm_dirty_log log = {.dirty_bitmap = vcpu->changed};
	if (ioctl(vcpu->vm_fd, KVM_GET_DIRTY_LOG, &log) < 0)
		return fail(EIO, "KVM does not tell which pages the guest has changed: %s",
			strerror(errno));
	return 0;
}

int vcpu_set_cr4(struct vcpu *vcpu, uint64_t cr4)
{
	/* Not by SYNC_REGS: KVM leaves an interrupt in run->s.regs.sregs once it was there when KVM_RUN was
	 * interrupted, and would deliver it again. */
	struct kvm_sregs sregs;
	if (ioctl(vcpu->fd, KVM_GET_SREGS, &sregs) == 0) {
		sregs.cr4 = cr4;
		vcpu->run->s.regs.sregs.cr4 = cr4;
		if (ioctl(vcpu->fd, KVM_SET_SREGS, &sregs) == 0)
			return 0;
	}
	return fail(EIO, "KVM does not take a CR4 of %#llx: %s", (unsigned long long)cr4,
		strerror(errno));
}

bool vcpu_translate(const struct vcpu *vcpu, uint64_t linear, gpa *physical)
{
	struct kvm_translation translation = {.linear_address = linear};
	if (ioctl(vcpu->fd, KVM_TRANSLATE, &translation) < 0 || !translation.valid)
		return false;
	*physical = gpa_of(translation.physical_address);
	return true;
}

int vcpu_forget(struct vcpu *vcpu)
{
	/* Both shadow page tables and the processors' translations go with the memory slot. */
	struct kvm_userspace_memory_region none = vcpu->region;
	none.memory_size = 0;
	int error = set_region(vcpu, &none);
	return error ? error : set_region(vcpu, &vcpu->region);
}
