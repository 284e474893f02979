/*
 * A machine with a tiny guest, for the tests of what runs machines: nothing around it but holds,
 * which a stand-in for the dataplane empties on the vCPU's own thread, and a log that lies in plain
 * memory.
 *
 * The guests are below, in assembly. `busy` does a bit of everything in each of its rounds: a port
 * access, a read of the clock and one across a page's end, a byte to its console, now and then a
 * string of them, some computing, a halt until its timer ticks; it takes keys and frames by
 * interrupt. What it prints does not depend on when, so that whoever goes on with it must print
 * what is missing, no more and no less.
 */
#pragma once

#include "tests/unit/broken.h"

#include "engine/boot.h"
#include "engine/live.h"
#include "engine/machine.h"
#include "engine/replay.h"
#include "tests/unit/engine/kvm.h"
#include "tests/unit/engine/ring_3.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

#define MEMORY (1u << 20)
#define ENTRY 0x10000u
#define IDT 0x9000u
#define IDT_POINTER 0x9800u
#define STACK_TOP "0x20000"
#define GUEST_LAST_TIME 0x30000u
#define GUEST_LETTER 0x30010u
#define GUEST_ROUNDS 0x30018u
#define GUEST_TICKS 0x30020u
#define GUEST_KEYS 0x30024u
#define GUEST_FRAMES 0x30028u
#define RX_DESC 0x40000u
#define RX_DRIVER 0x41000u
#define RX_DEVICE 0x42000u
#define RX_BUFFERS 0x50000u
#define RX_COUNT 64u

/* In the code of a guest that tiny_ticking loads: back to `label` until it has seen its ticks; and its end. */
#define UNTIL_TICKED(label)                                                                        \
	"	movl 0x30020, %eax\n"                                                                    \
	"	cmpl 0x30018, %eax\n"                                                                    \
	"	jb " label "\n"
#define SWITCH_OFF                                                                                 \
	"	xorl %eax, %eax\n"                                                                       \
	"	movw $0x604, %dx\n"                                                                      \
	"	outl %eax, %dx\n"

#define SESSION 1u
#define SECRET 0x123456789abcdef0ull
#define LOG_BYTES (8u << 20)
#define HANG_S 300

/* clang-format off */
__asm__(".pushsection .rodata\n"
	".globl busy_begin, busy_timer, busy_keys, busy_net, busy_end\n"
	"busy_begin:\n"
	"	movl $" STACK_TOP ", %esp\n"
	"	lidt 0x9800\n"
	"	xorl %ebx, %ebx\n"
	"	sti\n"
	"1:	outb %al, $0x80\n"
	"	movl $0xd0001000, %edi\n"
	"	movq (%rdi), %rax\n"
	"	cmpq 0x30000, %rax\n"
	"	jb 9f\n"
	"	movq %rax, 0x30000\n"
	"	movq -4(%rdi), %rax\n" /* across a page's end: two exits, the second reads the clock */
	"	movb 0x30010, %al\n"
	"	movw $0x3f8, %dx\n"
	"	outb %al, %dx\n"
	"	incb %al\n"
	"	cmpb $'z' + 1, %al\n"
	"	jne 2f\n"
	"	movb $'a', %al\n"
	"2:	movb %al, 0x30010\n"
	"	testl $3, %ebx\n"
	"	jnz 3f\n"
	"	leaq 7f(%rip), %rsi\n"
	"	movl $3, %ecx\n"
	"	rep outsb\n"
	"3:	movl $100, %ecx\n"
	"4:	decl %ecx\n"
	"	jnz 4b\n"
	"	testl $7, %ebx\n"
	"	jnz 5f\n"
	"	hlt\n"
	"5:	incl %ebx\n"
	"	cmpl 0x30018, %ebx\n"
	"	jb 1b\n"
	"	xorl %eax, %eax\n"
	"6:	movw $0x604, %dx\n"
	"	outl %eax, %dx\n"
	"	jmp 6b\n"
	"7:	.ascii \"-+-\"\n"
	"9:	movl $99, %eax\n" /* the time went back */
	"	jmp 6b\n"
	"busy_timer:\n"
	"	pushq %rax\n"
	"	incl 0x30020\n"
	"	movb $0x20, %al\n"
	"	outb %al, $0x20\n"
	"	popq %rax\n"
	"	iretq\n"
	"busy_keys:\n"
	"	pushq %rax\n"
	"	pushq %rdx\n"
	"1:	movw $0x3f8, %dx\n"
	"	inb %dx, %al\n"
	"	movzbl %al, %eax\n"
	"	addl %eax, 0x30024\n"
	"	movw $0x3fd, %dx\n"
	"	inb %dx, %al\n"
	"	testb $1, %al\n"
	"	jnz 1b\n"
	"	movb $0x20, %al\n"
	"	outb %al, $0x20\n"
	"	popq %rdx\n"
	"	popq %rax\n"
	"	iretq\n"
	"busy_net:\n"
	"	pushq %rax\n"
	"	pushq %rdi\n"
	"	movl $0xd0000000, %edi\n"
	"	movl 0x60(%rdi), %eax\n"
	"	movl %eax, 0x64(%rdi)\n"
	"	incl 0x30028\n"
	"	movb $0x20, %al\n"
	"	outb %al, $0x20\n"
	"	popq %rdi\n"
	"	popq %rax\n"
	"	iretq\n"
	"busy_end:\n"

	/* Leaves once, then computes for ever. */
	".globl computing_begin, computing_end\n"
	"computing_begin:\n"
	"	outb %al, $0x80\n"
	"1:	incq %rax\n"
	"	jmp 1b\n"
	"computing_end:\n"

	/* Computes a little and leaves, for ever. */
	".globl leaving_begin, leaving_end\n"
	"leaving_begin:\n"
	"1:	outb %al, $0x80\n"
	"	movl $20, %ecx\n"
	"2:	decl %ecx\n"
	"	jnz 2b\n"
	"	jmp 1b\n"
	"leaving_end:\n"

	/* Halts for ever with interrupts off. */
	".globl dead_begin, dead_end\n"
	"dead_begin:\n"
	"	cli\n"
	"	hlt\n"
	"dead_end:\n"

	/* Asks for a restart, and would go on. */
	".globl restarting_begin, restarting_end\n"
	"restarting_begin:\n"
	"	movb $6, %al\n"
	"	movw $0xcf9, %dx\n"
	"	outb %al, %dx\n"
	"1:	jmp 1b\n"
	"restarting_end:\n"

	/* An exception without a table for exceptions: a triple fault. */
	".globl faulting_begin, faulting_end\n"
	"faulting_begin:\n"
	"	ud2\n"
	"faulting_end:\n"
	".popsection\n");
/* clang-format on */

extern const uint8_t busy_begin[], busy_timer[], busy_keys[], busy_net[], busy_end[];
extern const uint8_t computing_begin[], computing_end[], leaving_begin[], leaving_end[];
extern const uint8_t dead_begin[], dead_end[], faulting_begin[], faulting_end[];
extern const uint8_t restarting_begin[], restarting_end[];

struct tiny {
	struct machine machine;
	struct live live;
	struct replay replay;

	/* The log as the sink has got it, LSN by LSN. */
	struct log_writer *writer;
	uint8_t *log;
	_Atomic uint64_t consumed; /* what the sink says; UINT64_MAX: no limit */
	_Atomic uint64_t written;
	_Atomic bool sink_fails;

	/* What has left the console, as text; frames are counted. */
	char text[65536];
	size_t length;
	size_t frames;
	_Atomic uint64_t acked; /* for SESSION: UINT64_MAX: what was flushed */

	_Atomic bool drained, over;
};

/* Of a group of tests. */
static inline int tiny_set_up(void **state)
{
	(void)state;
	alarm(HANG_S);
	return 0;
}

static inline uint64_t tiny_acked(void *context, uint32_t session)
{
	struct tiny *t = context;
	uint64_t acked = atomic_load(&t->acked);
	if (session != SESSION)
		return 0;
	return acked == UINT64_MAX ? atomic_load(&t->live.flushed) : acked;
}

static inline unsigned tiny_print(void *context, const struct hold_output *outputs, unsigned count)
{
	struct tiny *t = context;
	for (unsigned i = 0; i < count && t->length + outputs[i].length < sizeof t->text; i++) {
		memcpy(t->text + t->length, outputs[i].bytes, outputs[i].length);
		t->length += outputs[i].length;
	}
	return count;
}

static inline unsigned tiny_send(void *context, const struct hold_output *outputs, unsigned count)
{
	struct tiny *t = context;
	(void)outputs;
	t->frames += count;
	return count;
}

static inline void tiny_release(void *context)
{
	struct tiny *t = context;
	hold_release(t->machine.hold[OUTPUT_CONSOLE], tiny_acked, tiny_print, t);
	hold_release(t->machine.hold[OUTPUT_NET], tiny_acked, tiny_send, t);
}

static inline int tiny_sink_write(
	void *context, uint64_t lsn, const struct iovec *pieces, int count)
{
	struct tiny *t = context;
	if (atomic_load(&t->sink_fails))
		return -ECONNRESET;
	for (int i = 0; i < count; i++) {
		if (lsn + pieces[i].iov_len > LOG_BYTES) {
			print_error("the log of a tiny guest is full\n");
			abort();
		}
		memcpy(t->log + lsn, pieces[i].iov_base, pieces[i].iov_len);
		lsn += pieces[i].iov_len;
	}
	atomic_store(&t->written, lsn);
	return 0;
}

static inline uint64_t tiny_sink_written(void *context)
{
	struct tiny *t = context;
	return atomic_load(&t->written);
}

static inline uint64_t tiny_sink_consumed(void *context, uint64_t head)
{
	struct tiny *t = context;
	uint64_t consumed = atomic_load(&t->consumed);
	return consumed == UINT64_MAX || consumed <= head ? consumed : head;
}

static const struct log_sink tiny_sink = {
	.write = tiny_sink_write,
	.written = tiny_sink_written,
	.consumed = tiny_sink_consumed,
};

static inline void tiny_put64(struct tiny *t, uint64_t address, uint64_t value)
{
	write64(t->machine.memory.base, address, value);
}

static inline uint32_t tiny_get32(const struct tiny *t, uint64_t address)
{
	uint32_t value;
	memcpy(&value, t->machine.memory.base + address, sizeof value);
	return value;
}

static inline uint64_t tiny_get64(const struct tiny *t, uint64_t address)
{
	uint64_t value;
	memcpy(&value, t->machine.memory.base + address, sizeof value);
	return value;
}

static inline void tiny_over(void *context)
{
	struct tiny *t = context;
	atomic_store(&t->over, true);
}

static inline void tiny_drained(void *context)
{
	struct tiny *t = context;
	atomic_store(&t->drained, true);
}

static inline struct tiny *tiny_new(void)
{
	static const uint8_t mac[6] = {2, 0, 0, 0, 0, 1};
	struct tiny *t = calloc(1, sizeof *t);
	assert_non_null(t);
	t->log = calloc(1, LOG_BYTES);
	assert_non_null(t->log);
	if (machine_create(&t->machine, MEMORY, mac) != 0)
		print_error("%s\n", fail_message());
	assert_int_equal(t->machine.memory.size, MEMORY);
	t->machine.live = &t->live;
	t->machine.source = &live_source;
	for (unsigned i = 0; i < OUTPUT_DEVICES; i++)
		assert_int_equal(hold_create(&t->machine.hold[i], 1u << 20), 0);
	t->live.outputs_wait = tiny_release;
	t->live.context = t;
	t->consumed = UINT64_MAX;
	t->acked = UINT64_MAX;
	live_set_time(&t->live, 0, now_ns());
	return t;
}

static inline void tiny_free(struct tiny *t)
{
	machine_join(&t->machine);
	machine_destroy(&t->machine);
	for (unsigned i = 0; i < OUTPUT_DEVICES; i++)
		hold_destroy(t->machine.hold[i]);
	log_writer_destroy(t->writer);
	free(t->log);
	free(t);
}

/* Long mode, as engine/boot.h promises it to a kernel. */
static inline void tiny_load(struct tiny *t, const uint8_t *begin, const uint8_t *end)
{
	tiny_put64(t, BOOT_PAGE_TABLES, (BOOT_PAGE_TABLES + 0x1000) | 3);
	for (uint64_t i = 0; i < 4; i++)
		tiny_put64(t, BOOT_PAGE_TABLES + 0x1000 + 8 * i,
			(BOOT_PAGE_TABLES + 0x2000 + 0x1000 * i) | 3);
	for (uint64_t i = 0; i < 4 * 512; i++)
		tiny_put64(t, BOOT_PAGE_TABLES + 0x2000 + 8 * i, i << 21 | 0x83);
	tiny_put64(t, BOOT_GDT + BOOT_CODE_SELECTOR, 0x00af9b000000ffff);
	tiny_put64(t, BOOT_GDT + BOOT_DATA_SELECTOR, 0x00cf93000000ffff);
	memcpy(t->machine.memory.base + ENTRY, begin, (size_t)(end - begin));
	assert_int_equal(vcpu_boot(&t->machine.vcpu, ENTRY, MEMORY), 0);
}

/* `handler` is of the guest that tiny_load has taken from `begin`. */
static inline void tiny_gate(
	struct tiny *t, uint8_t vector, const uint8_t *begin, const uint8_t *handler)
{
	uint64_t address = ENTRY + (uint64_t)(handler - begin);
	tiny_put64(t, IDT + 16u * vector,
		(address & 0xffff) | (uint64_t)BOOT_CODE_SELECTOR << 16 | 0x8e00ull << 32 |
			(address & 0xffff0000) << 32);
	tiny_put64(t, IDT + 16u * vector + 8, 0);
}

static inline void tiny_net_register(struct tiny *t, uint32_t offset, uint32_t value)
{
	virtio_mmio_write(
		&t->machine.board.net.mmio, &virtio_net_kind, &t->machine.env, offset, 4, value);
}

/* The driver's work for the receive queue: many buffers, none of which is offered again. */
static inline void tiny_offer_buffers(struct tiny *t)
{
	uint8_t *memory = t->machine.memory.base;
	for (uint32_t i = 0; i < RX_COUNT; i++) {
		tiny_put64(t, RX_DESC + 16 * i, RX_BUFFERS + 2048 * i);
		tiny_put64(t, RX_DESC + 16 * i + 8, 2048ull | 2ull << 32);
		uint16_t index = (uint16_t)i;
		memcpy(memory + RX_DRIVER + 4 + 2 * i, &index, 2);
	}
	uint16_t offered = RX_COUNT;
	memcpy(memory + RX_DRIVER + 2, &offered, 2);
	tiny_net_register(t, 0x70, 3);
	tiny_net_register(t, 0x24, 1);
	tiny_net_register(t, 0x20, 1); /* VIRTIO_F_VERSION_1 */
	tiny_net_register(t, 0x70, 8 | 3);
	tiny_net_register(t, 0x38, RX_COUNT);
	tiny_net_register(t, 0x80, RX_DESC);
	tiny_net_register(t, 0x90, RX_DRIVER);
	tiny_net_register(t, 0xa0, RX_DEVICE);
	tiny_net_register(t, 0x44, 1);
	tiny_net_register(t, 0x70, 0xf);
}

/* `busy`, with its interrupts, timer, serial line and card set up as it would do it. */
static inline struct tiny *tiny_busy(uint32_t rounds)
{
	struct tiny *t = tiny_new();
	struct machine *m = &t->machine;
	tiny_load(t, busy_begin, busy_end);
	tiny_gate(t, 0x20, busy_begin, busy_timer);
	tiny_gate(t, 0x24, busy_begin, busy_keys);
	tiny_gate(t, 0x25, busy_begin, busy_net);
	tiny_put64(t, IDT_POINTER, 0x7ffull | (uint64_t)IDT << 16);
	tiny_put64(t, GUEST_LETTER, 'a');
	memcpy(m->memory.base + GUEST_ROUNDS, &rounds, sizeof rounds);
	static const uint8_t pic[][2] = {{0x20, 0x11}, {0x21, 0x20}, {0x21, 4}, {0x21, 1},
		{0x21, 0xce}, {0xa0, 0x11}, {0xa1, 0x28}, {0xa1, 2}, {0xa1, 1}, {0xa1, 0xff}};
	for (unsigned i = 0; i < sizeof pic / sizeof pic[0]; i++)
		pic_write(&m->board.pic, pic[i][0], pic[i][1]);
	pit_write(&m->board.pit, &m->env, 0x43, 0x34);
	/* 4,773: 4 ms, so that a guest on a busy machine does not spend all its time with its
	 * timer. */
	pit_write(&m->board.pit, &m->env, 0x40, 0xa5);
	pit_write(&m->board.pit, &m->env, 0x40, 0x12);
	uart_write(&m->board.uart, &m->env, 1, 1);
	tiny_offer_buffers(t);
	return t;
}

/* A guest that wants so many ticks, of which its handler at `timer` counts each, and has its interrupts ended by its
 * PIC. */
static inline struct tiny *tiny_ticking(
	const uint8_t *begin, const uint8_t *timer, const uint8_t *end, uint32_t rounds)
{
	struct tiny *t = tiny_new();
	struct machine *m = &t->machine;
	tiny_load(t, begin, end);
	tiny_gate(t, 0x20, begin, timer);
	tiny_put64(t, IDT_POINTER, 0x7ffull | (uint64_t)IDT << 16);
	memcpy(m->memory.base + GUEST_ROUNDS, &rounds, sizeof rounds);
	/* ICW4: ends its interrupts by itself. */
	static const uint8_t pic[][2] = {
		{0x20, 0x11}, {0x21, 0x20}, {0x21, 4}, {0x21, 3}, {0x21, 0xfe}, {0xa1, 0xff}};
	for (unsigned i = 0; i < sizeof pic / sizeof pic[0]; i++)
		pic_write(&m->board.pic, pic[i][0], pic[i][1]);
	pit_write(&m->board.pit, &m->env, 0x43, 0x34);
	pit_write(&m->board.pit, &m->env, 0x40, 0xa5);
	pit_write(&m->board.pit, &m->env, 0x40, 0x12); /* 4 ms */
	return t;
}

/* And what it needs to have a program in ring 3, whose kernel finds its GDT at IDT_POINTER + 0x10. */
static inline void tiny_ring_3(struct tiny *t)
{
	make_ring_3(t->machine.memory.base, IDT_POINTER + 0x10, 0x33000, 0x20000);
}

/* What `busy` prints in so many rounds. */
static inline size_t busy_text(uint32_t rounds, char *text, size_t size)
{
	size_t n = 0;
	for (uint32_t i = 0; i < rounds && n + 5 < size; i++) {
		text[n++] = (char)('a' + i % 26);
		if (i % 4 == 0) {
			memcpy(text + n, "-+-", 3);
			n += 3;
		}
	}
	text[n] = '\0';
	return n;
}

static inline void assert_printed(const struct tiny *t, uint32_t rounds)
{
	static char wanted[65536], found[65536];
	busy_text(rounds, wanted, sizeof wanted);
	memcpy(found, t->text, t->length);
	found[t->length] = '\0';
	assert_string_equal(found, wanted);
}

static inline void assert_powered_off(const struct tiny *t)
{
	if (t->machine.verdict != MACHINE_ENDED)
		print_error("%s\n", t->machine.message);
	assert_int_equal(t->machine.verdict, MACHINE_ENDED);
	assert_int_equal(t->machine.end_reason, LOG_END_POWER);
	assert_int_equal(t->machine.end_value, 0);
}

/* The same machine once more: before the start of both, or while `from` is paused. */
static inline void tiny_copy(struct tiny *to, struct tiny *from)
{
	size_t size = machine_state_size();
	void *state = malloc(size);
	assert_int_equal(machine_save(&from->machine, state), 0);
	memcpy(to->machine.memory.base, from->machine.memory.base, MEMORY);
	assert_int_equal(machine_load(&to->machine, state, size), 0);
	to->live.newest_ns = from->live.newest_ns;
	free(state);
}

static inline struct tiny *tiny_twin(struct tiny *t)
{
	struct tiny *twin = tiny_new();
	tiny_copy(twin, t);
	return twin;
}

/* From now on everything is logged, into t->log. Before the start, or paused. */
static inline void tiny_record(struct tiny *t, size_t ring)
{
	assert_int_equal(log_writer_create(&t->writer, &tiny_sink, t, ring, SECRET, 0), 0);
	live_begin_log(&t->machine, t->writer, SESSION);
}

/* What has been handed over so far. */
static inline struct log_reader tiny_reader(const struct tiny *t)
{
	struct log_reader reader;
	log_reader_file(&reader, t->log, atomic_load(&t->written), SECRET, 0);
	return reader;
}

/* Follows a log in `log`, which is `size` bytes long in the end, of which nothing is received yet.
 */
static inline void tiny_follow(struct tiny *t, const uint8_t *log, uint64_t size)
{
	log_reader_file(&t->replay.reader, log, size, SECRET, 0);
	t->replay.session = SESSION;
	t->replay.time_ns = t->live.newest_ns;
	t->replay.drained_now = tiny_drained;
	t->replay.context = t;
	t->acked = 0;
	replay_begin(&t->machine, &t->replay);
}

static inline void tiny_start(struct tiny *t)
{
	assert_int_equal(machine_start(&t->machine, tiny_over, t), 0);
}

static inline void tiny_join(struct tiny *t)
{
	machine_join(&t->machine);
	assert_true(atomic_load(&t->over));
	tiny_release(t);
}

static inline void tiny_await(const _Atomic bool *what)
{
	while (!atomic_load(what))
		usleep(100);
}

static inline void tiny_do_stop(struct machine *m, void *argument)
{
	(void)argument;
	live_stop(m);
}

static inline void tiny_do_end(struct machine *m, void *argument)
{
	(void)argument;
	machine_end(m, MACHINE_STOPPED, NULL);
}

static inline void tiny_end(struct tiny *t)
{
	machine_call(&t->machine, MACHINE_ANYWHERE, tiny_do_end, NULL);
	tiny_join(t);
}

static inline void tiny_key(struct tiny *t, uint8_t key)
{
	byte_queue_put(&t->live.keys, &key, 1);
	bell_ring(&t->machine.bell);
}

/* A frame, its header in front, whose bytes must stay: they are the test's own. */
static inline void tiny_frame(struct tiny *t, const void *bytes, uint32_t length)
{
	const struct port_frame frame = {.bytes = bytes, .length = length};
	assert_true(frame_queue_put(&t->live.frames, &frame));
	bell_ring(&t->machine.bell);
}

static const uint8_t tiny_frame_bytes[72] = {
	[12] = 2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5, 1, 2, 3};

/* Starts it with a key and a frame waiting, and lets more come at odd moments until it ends. */
static inline void tiny_run_disturbed(struct tiny *t)
{
	tiny_key(t, 'K');
	tiny_frame(t, tiny_frame_bytes, sizeof tiny_frame_bytes);
	tiny_start(t);
	for (unsigned i = 0; !atomic_load(&t->over); i++) {
		if (i % 3 == 0 && i < 90)
			tiny_key(t, (uint8_t)('A' + i % 26));
		if (i % 7 == 0 && i / 7 < RX_COUNT)
			tiny_frame(t, tiny_frame_bytes, sizeof tiny_frame_bytes - i % 7);
		usleep(300 + i * 37 % 500);
	}
	tiny_join(t);
}

static inline void tiny_assert_same(const struct tiny *t, const struct tiny *other)
{
	for (uint64_t at = 0; at < MEMORY; at += 4096) {
		if (memcmp(t->machine.memory.base + at, other->machine.memory.base + at, 4096) != 0)
			print_error("page %#llx differs\n", (unsigned long long)at);
	}
	assert_memory_equal(t->machine.memory.base, other->machine.memory.base, MEMORY);
	assert_int_equal(t->machine.exits, other->machine.exits);
	assert_int_equal(digest_word(&t->machine.digest), digest_word(&other->machine.digest));
}

/* It does what the log says that it follows, up to `size`, where that ends, and to its own end. */
static inline void tiny_replay(struct tiny *t, uint64_t size)
{
	replay_extend(&t->machine, size);
	replay_end_log(&t->machine);
	tiny_start(t);
	tiny_join(t);
}

/* The twin does what `t` has logged to its end, and is the same then. Ends both. */
static inline void tiny_assert_replays(struct tiny *t, struct tiny *twin)
{
	uint64_t size = atomic_load(&t->written);
	tiny_follow(twin, t->log, size);
	tiny_replay(twin, size);
	assert_powered_off(twin);
	tiny_assert_same(t, twin);
	tiny_free(t);
	tiny_free(twin);
}

struct tiny_protection {
	struct tiny *t, *twin;
	size_t ring;
};

static inline void tiny_do_protect(struct machine *m, void *argument)
{
	struct tiny_protection *protection = argument;
	(void)m;
	tiny_copy(protection->twin, protection->t);
	tiny_record(protection->t, protection->ring);
}

/* In the middle of its life: the twin is what `t` is, and all that `t` does from then on is logged. */
static inline void tiny_protect(struct tiny *t, struct tiny *twin, size_t ring)
{
	struct tiny_protection protection = {.t = t, .twin = twin, .ring = ring};
	machine_call(&t->machine, MACHINE_PAUSED, tiny_do_protect, &protection);
}

static inline void tiny_do_nothing(struct machine *m, void *argument)
{
	position *exits = argument;
	*exits = m->exits;
}

/* Where the machine is, asked on its own thread. */
static inline position tiny_position(struct tiny *t)
{
	position exits = 0;
	machine_call(&t->machine, MACHINE_ANYWHERE, tiny_do_nothing, &exits);
	return exits;
}

static inline bool tiny_walk(struct log_reader *reader, struct log_entry *entry)
{
	if (log_reader_peek(reader, entry) != LOG_VALID)
		return false;
	log_reader_take(reader, entry);
	return true;
}
