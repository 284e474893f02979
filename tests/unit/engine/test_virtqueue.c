#include "engine/virtqueue.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

/* Guest memory with so much of nothing on both sides that an address gone wrong faults. */
#define MEMORY_SIZE 65536u
#define GUARD (1ull << 30)

enum { NEXT = 1, WRITE = 2, INDIRECT = 4 };
enum { DESC = 0x1000, DRIVER = 0x2000, DEVICE = 0x3000, BUFFERS = 0x8000 };

static struct guest_memory memory;
static struct virtqueue queue;
static struct virtqueue_chains chains;

static int set_up(void **state)
{
	(void)state;
	uint8_t *all = mmap(NULL, MEMORY_SIZE + 2 * GUARD, PROT_NONE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	assert_ptr_not_equal(all, MAP_FAILED);
	assert_int_equal(mprotect(all + GUARD, MEMORY_SIZE, PROT_READ | PROT_WRITE), 0);
	memory = (struct guest_memory){.base = all + GUARD, .size = MEMORY_SIZE, .fd = -1};
	queue = (struct virtqueue){.desc = DESC, .driver = DRIVER, .device = DEVICE, .size = 8};
	assert_int_equal(virtqueue_start(&queue, &memory), 0);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	return munmap(memory.base - GUARD, MEMORY_SIZE + 2 * GUARD);
}

static void store(uint64_t at, uint64_t value, unsigned size)
{
	memcpy(memory.base + at, &value, size);
}

static uint64_t load(uint64_t at, unsigned size)
{
	uint64_t value = 0;
	memcpy(&value, memory.base + at, size);
	return value;
}

static void describe(
	unsigned index, uint64_t address, uint32_t length, unsigned flags, unsigned next)
{
	uint64_t at = queue.desc + 16 * index;
	store(at, address, 8);
	store(at + 8, length, 4);
	store(at + 12, flags, 2);
	store(at + 14, next, 2);
}

static void offer(unsigned head)
{
	uint16_t index = (uint16_t)load(queue.driver + 2, 2);
	store(queue.driver + 4 + 2ull * (index % queue.size), head, 2);
	store(queue.driver + 2, index + 1u, 2);
}

static int look(bool writable)
{
	return virtqueue_look(&queue, &memory, writable, VIRTQUEUE_MAX, UINT64_MAX, &chains);
}

static void chains_are_found_in_the_order_offered(void **state)
{
	(void)state;
	assert_int_equal(look(false), 0);
	assert_int_equal(chains.count, 0);
	describe(3, BUFFERS, 100, NEXT, 5);
	describe(5, BUFFERS + 200, 50, 0, 0xffff);
	describe(0, BUFFERS + 300, 7, 0, 0);
	offer(3);
	offer(0);
	struct virtqueue before = queue;
	assert_int_equal(look(false), 0);
	assert_int_equal(chains.count, 2);
	assert_int_equal(chains.segments, 3);
	assert_int_equal(chains.bytes, 157);
	assert_int_equal(chains.chain[0].head, 3);
	assert_int_equal(chains.chain[0].bytes, 150);
	assert_int_equal(chains.chain[1].head, 0);
	assert_ptr_equal(chains.segment[1].at, memory.base + BUFFERS + 200);
	assert_memory_equal(&before, &queue, sizeof queue);
}

static void a_look_ends_when_it_has_enough(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 5; i++) {
		describe(i, BUFFERS + 100 * i, 100, WRITE, 0);
		offer(i);
	}
	assert_int_equal(virtqueue_look(&queue, &memory, true, 2, UINT64_MAX, &chains), 0);
	assert_int_equal(chains.count, 2);
	assert_int_equal(virtqueue_look(&queue, &memory, true, 256, 201, &chains), 0);
	assert_int_equal(chains.count, 3);
	assert_int_equal(virtqueue_look(&queue, &memory, true, 256, 200, &chains), 0);
	assert_int_equal(chains.count, 2);
}

static void returned_chains_are_in_the_used_ring(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 3; i++) {
		describe(i + 4, BUFFERS + 100 * i, 100, WRITE, 0);
		offer(i + 4);
	}
	assert_int_equal(look(true), 0);
	virtqueue_return(&queue, &memory, &chains, 130);
	assert_int_equal(load(DEVICE + 2, 2), 3);
	assert_int_equal(load(DEVICE + 4, 4), 4);
	assert_int_equal(load(DEVICE + 8, 4), 100);
	assert_int_equal(load(DEVICE + 12, 4), 5);
	assert_int_equal(load(DEVICE + 16, 4), 30);
	assert_int_equal(load(DEVICE + 20, 4), 6);
	assert_int_equal(load(DEVICE + 24, 4), 0);
	assert_int_equal(look(true), 0);
	assert_int_equal(chains.count, 0);
}

static void indices_wrap(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 70000; i++) {
		describe(i % 8, BUFFERS + i % 1000, 10, 0, 0);
		offer(i % 8);
		assert_int_equal(look(false), 0);
		assert_int_equal(chains.count, 1);
		assert_int_equal(chains.chain[0].head, i % 8);
		virtqueue_return(&queue, &memory, &chains, 0);
		assert_int_equal(load(DEVICE + 2, 2), (uint16_t)(i + 1));
	}
}

static void copies_go_across_ranges(void **state)
{
	(void)state;
	describe(0, BUFFERS, 3, WRITE | NEXT, 1);
	describe(1, BUFFERS + 0x100, 0, WRITE | NEXT, 2);
	describe(2, BUFFERS + 0x200, 4, WRITE, 0);
	describe(3, BUFFERS + 0x300, 5, WRITE, 0);
	offer(0);
	offer(3);
	assert_int_equal(look(true), 0);
	assert_int_equal(chains.bytes, 12);
	virtqueue_copy_in(&chains, 0, "abcdefghijkl", 12);
	assert_memory_equal(memory.base + BUFFERS, "abc\0", 4);
	assert_memory_equal(memory.base + BUFFERS + 0x100, "\0", 1);
	assert_memory_equal(memory.base + BUFFERS + 0x200, "defg\0", 5);
	assert_memory_equal(memory.base + BUFFERS + 0x300, "hijkl\0", 6);
	char out[12] = "";
	virtqueue_copy_out(&chains, 2, out, 7);
	assert_string_equal(out, "cdefghi");
	virtqueue_copy_out(&chains, 3, out, 4);
	assert_memory_equal(out, "defg", 4);
	virtqueue_copy_out(&chains, 12, out, 0);
}

static void a_copy_beyond_the_chains_stops_the_process(void **state)
{
	(void)state;
	describe(0, BUFFERS, 8, 0, 0);
	offer(0);
	assert_int_equal(look(false), 0);
	for (unsigned i = 0; i < 2; i++) {
		pid_t child = fork();
		assert_true(child >= 0);
		if (!child) {
			char out[16];
			/* The handlers of cmocka would turn the abort into a failed test. */
			signal(SIGABRT, SIG_DFL);
			dup2(open("/dev/null", O_WRONLY), STDERR_FILENO);
			virtqueue_copy_out(&chains, i ? UINT64_MAX : 0, out, i ? 1 : 9);
			_exit(0);
		}
		int status;
		assert_int_equal(waitpid(child, &status, 0), child);
		assert_true(WIFSIGNALED(status));
		assert_int_equal(WTERMSIG(status), SIGABRT);
	}
}

static void loops_are_errors(void **state)
{
	(void)state;
	describe(0, BUFFERS, 10, NEXT, 0);
	offer(0);
	assert_int_equal(look(false), -EINVAL);
	for (unsigned i = 0; i < 8; i++)
		describe(i, BUFFERS, 10, NEXT, (i + 1) % 8);
	assert_int_equal(look(false), -EINVAL);
	describe(7, BUFFERS, 10, 0, 0); /* all eight in one chain is the longest there can be */
	assert_int_equal(look(false), 0);
	assert_int_equal(chains.segments, 8);
	offer(7); /* offered twice */
	assert_int_equal(look(false), -EINVAL);
}

static void descriptors_that_do_not_exist_are_errors(void **state)
{
	(void)state;
	offer(8);
	assert_int_equal(look(false), -EINVAL);
	store(DRIVER + 4, 0xffff, 2);
	assert_int_equal(look(false), -EINVAL);
	store(DRIVER + 4, 0, 2);
	describe(0, BUFFERS, 10, NEXT, 8);
	assert_int_equal(look(false), -EINVAL);
	describe(0, BUFFERS, 10, NEXT, 0xffff);
	assert_int_equal(look(false), -EINVAL);
}

static void ranges_outside_memory_are_errors(void **state)
{
	(void)state;
	static const struct {
		uint64_t address;
		uint32_t length;
		int result;
	} cases[] = {
		{MEMORY_SIZE - 1, 1, 0},
		{MEMORY_SIZE - 1, 2, -EINVAL},
		{MEMORY_SIZE, 0, 0},
		{MEMORY_SIZE, 1, -EINVAL},
		{MEMORY_SIZE + 1, 0, -EINVAL},
		{0, MEMORY_SIZE, 0},
		{0, MEMORY_SIZE + 1, -EINVAL},
		{0, UINT32_MAX, -EINVAL},
		{1, UINT32_MAX, -EINVAL},
		{UINT64_MAX, 0, -EINVAL},
		{UINT64_MAX, 1, -EINVAL},
		{UINT64_MAX, UINT32_MAX, -EINVAL},
		{UINT64_MAX - 15, 16, -EINVAL},
		{UINT64_MAX - 15, 17, -EINVAL},
		{1ull << 32, 1, -EINVAL},
		{1ull << 63, 1, -EINVAL},
	};
	offer(0);
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		describe(0, cases[i].address, cases[i].length, 0, 0);
		assert_int_equal(look(false), cases[i].result);
	}
}

static void empty_descriptors_carry_nothing(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 8; i++)
		describe(i, BUFFERS, 0, i < 7 ? NEXT : 0, i + 1);
	offer(0);
	assert_int_equal(look(false), 0);
	assert_int_equal(chains.count, 1);
	assert_int_equal(chains.segments, 0);
	assert_int_equal(chains.bytes, 0);
	virtqueue_return(&queue, &memory, &chains, 0);
}

static void the_wrong_direction_is_an_error(void **state)
{
	(void)state;
	offer(0);
	describe(0, BUFFERS, 10, WRITE, 0);
	assert_int_equal(look(false), -EINVAL);
	assert_int_equal(look(true), 0);
	describe(0, BUFFERS, 10, WRITE | NEXT, 1);
	describe(1, BUFFERS, 10, 0, 0);
	assert_int_equal(look(true), -EINVAL);
	describe(0, BUFFERS, 0, 0, 0);
	assert_int_equal(look(true), -EINVAL);
}

static void an_indirect_table_is_an_error(void **state)
{
	(void)state;
	offer(0);
	describe(0, BUFFERS, 16, INDIRECT, 0);
	assert_int_equal(look(false), -EINVAL);
	describe(0, BUFFERS, 16, INDIRECT | WRITE, 0);
	assert_int_equal(look(true), -EINVAL);
}

static void an_index_that_jumps_is_an_error(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 8; i++) {
		describe(i, BUFFERS, 10, 0, 0);
		offer(i);
	}
	assert_int_equal(look(false), 0);
	assert_int_equal(chains.count, 8);
	store(DRIVER + 2, 9, 2);
	assert_int_equal(look(false), -EINVAL);
	store(DRIVER + 2, 0xffff, 2); /* backwards */
	assert_int_equal(look(false), -EINVAL);
}

static void a_wrong_size_is_an_error(void **state)
{
	(void)state;
	static const uint16_t wrong[] = {0, 3, 255, 257, 512, 32768, 65535};
	struct virtqueue good = queue;
	for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
		queue.size = wrong[i];
		queue.ready = 0;
		assert_int_equal(virtqueue_start(&queue, &memory), -EINVAL);
		assert_int_equal(queue.ready, 0);
		/* Nor is one believed that came with a loaded state. */
		assert_int_equal(look(false), -EINVAL);
	}
	for (uint16_t size = 1; size <= VIRTQUEUE_MAX; size = (uint16_t)(size * 2)) {
		queue = good;
		queue.size = size;
		assert_int_equal(virtqueue_start(&queue, &memory), 0);
	}
}

static void a_ring_outside_memory_is_an_error(void **state)
{
	(void)state;
	struct virtqueue good = queue;
	static const struct {
		size_t member;
		uint64_t length;
	} rings[] = {
		{offsetof(struct virtqueue, desc), 16 * 8},
		{offsetof(struct virtqueue, driver), 6 + 2 * 8},
		{offsetof(struct virtqueue, device), 6 + 8 * 8},
	};
	for (size_t i = 0; i < 3; i++) {
		uint64_t end = MEMORY_SIZE - rings[i].length;
		const uint64_t wrong[] = {end + 1, MEMORY_SIZE - 1, MEMORY_SIZE, UINT64_MAX,
			UINT64_MAX - rings[i].length, UINT64_MAX - rings[i].length + 2, 1ull << 40};
		for (size_t j = 0; j < sizeof wrong / sizeof *wrong; j++) {
			queue = good;
			memcpy((uint8_t *)&queue + rings[i].member, &wrong[j], 8);
			assert_int_equal(virtqueue_start(&queue, &memory), -EINVAL);
			assert_int_equal(look(false), -EINVAL);
		}
		queue = good;
		memcpy((uint8_t *)&queue + rings[i].member, &end, 8);
		assert_int_equal(virtqueue_start(&queue, &memory), 0);
		assert_int_equal(look(false), 0);
		virtqueue_ask_notify(&queue, &memory);
	}
}

static void rings_need_no_alignment(void **state)
{
	(void)state;
	queue.desc = DESC + 3;
	queue.driver = DRIVER + 1;
	queue.device = DEVICE + 7;
	assert_int_equal(virtqueue_start(&queue, &memory), 0);
	describe(7, BUFFERS + 5, 100, 0, 0);
	offer(7);
	assert_int_equal(look(false), 0);
	assert_int_equal(chains.bytes, 100);
	virtqueue_return(&queue, &memory, &chains, 0);
	assert_int_equal(load(DEVICE + 7 + 4, 4), 7);
}

static void the_guest_s_flag_keeps_interrupts_away(void **state)
{
	(void)state;
	queue.used = 1;
	assert_int_equal(virtqueue_wants_interrupt(&queue, &memory, 0), 1);
	assert_int_equal(virtqueue_wants_interrupt(&queue, &memory, 1), 0);
	store(DRIVER, 1, 2);
	assert_int_equal(virtqueue_wants_interrupt(&queue, &memory, 0), 0);
	store(DEVICE, 1, 2);
	virtqueue_ask_notify(&queue, &memory);
	assert_int_equal(load(DEVICE, 2), 0);
}

static void used_event_says_when_to_interrupt(void **state)
{
	(void)state;
	static const struct {
		uint16_t before, after, event;
		bool wanted;
	} cases[] = {
		{0, 1, 0, 1},
		{0, 1, 1, 0},
		{0, 1, 65535, 0},
		{5, 8, 4, 0},
		{5, 8, 5, 1},
		{5, 8, 7, 1},
		{5, 8, 8, 0},
		{65534, 2, 65535, 1},
		{65534, 2, 0, 1},
		{65534, 2, 2, 0},
		{65535, 0, 65535, 1},
		{7, 7, 7, 0},
		{7, 7, 6, 0},
	};
	queue.event_idx = 1;
	store(DRIVER, 1, 2); /* the flag has no say now */
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		queue.used = cases[i].after;
		store(DRIVER + 4 + 2 * 8, cases[i].event, 2);
		assert_int_equal(virtqueue_wants_interrupt(&queue, &memory, cases[i].before),
			cases[i].wanted);
	}
	queue.last_avail = 0x1234;
	virtqueue_ask_notify(&queue, &memory);
	assert_int_equal(load(DEVICE + 4 + 8 * 8, 2), 0x1234);
	assert_int_equal(load(DEVICE, 2), 0);
}

static unsigned seed;

static unsigned below(unsigned limit)
{
	return (unsigned)rand_r(&seed) % limit;
}

/* Rings that are mostly right, which lie anywhere and on one another. */
static void draw_rings(void)
{
	queue.size = (uint16_t)(1u << below(9));
	queue.desc = below(MEMORY_SIZE);
	queue.driver = below(MEMORY_SIZE);
	queue.device = below(MEMORY_SIZE);
	if (virtqueue_start(&queue, &memory))
		return;
	queue.last_avail = (uint16_t)below(65536);
	for (unsigned i = 0; i < queue.size; i++) {
		describe(i, below(MEMORY_SIZE), below(1000),
			below(100) ? below(4) & WRITE : below(8), below(queue.size));
		store(queue.driver + 4 + 2 * i, below(100) ? below(queue.size) : below(65536), 2);
	}
	for (unsigned i = 0; i < queue.size; i += 3)
		store(queue.desc + 16 * i + 12, load(queue.desc + 16 * i + 12, 2) | NEXT, 2);
	store(queue.driver + 2, queue.last_avail + below(queue.size / 4 + 2), 2);
}

/* Whatever is loaded and whatever memory holds: an error or ranges that lie inside. */
static void any_state_and_any_memory_are_survived(void **state)
{
	(void)state;
	unsigned found = 0;
	seed = 1;
	for (unsigned round = 0; round < 20000; round++) {
		if (round % 4)
			draw_rings();
		else
			for (size_t i = 0; i < sizeof queue; i++)
				((uint8_t *)&queue)[i] = (uint8_t)below(256);
		if (look(below(2)))
			continue;
		for (uint32_t i = 0; i < chains.segments; i++) {
			assert_true(chains.segment[i].at >= memory.base);
			assert_true(chains.segment[i].length <=
				    (uint64_t)(memory.base + MEMORY_SIZE - chains.segment[i].at));
		}
		found += chains.count;
		virtqueue_return(&queue, &memory, &chains, 100);
		virtqueue_ask_notify(&queue, &memory);
		virtqueue_wants_interrupt(&queue, &memory, 0);
	}
	assert_true(found > 1000);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(chains_are_found_in_the_order_offered),
		TEST(a_look_ends_when_it_has_enough),
		TEST(returned_chains_are_in_the_used_ring),
		TEST(indices_wrap),
		TEST(copies_go_across_ranges),
		TEST(a_copy_beyond_the_chains_stops_the_process),
		TEST(loops_are_errors),
		TEST(descriptors_that_do_not_exist_are_errors),
		TEST(ranges_outside_memory_are_errors),
		TEST(empty_descriptors_carry_nothing),
		TEST(the_wrong_direction_is_an_error),
		TEST(an_indirect_table_is_an_error),
		TEST(an_index_that_jumps_is_an_error),
		TEST(a_wrong_size_is_an_error),
		TEST(a_ring_outside_memory_is_an_error),
		TEST(rings_need_no_alignment),
		TEST(the_guest_s_flag_keeps_interrupts_away),
		TEST(used_event_says_when_to_interrupt),
		TEST(any_state_and_any_memory_are_survived),
	};
	return !!cmocka_run_group_tests(tests, NULL, NULL);
}
