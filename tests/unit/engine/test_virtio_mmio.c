/* The registers, tried on the device that has the most to say: the network card. */
#include "tests/unit/engine/virtio_guest.h"

static void the_registers_say_what_it_is(void **state)
{
	(void)state;
	assert_int_equal(get(0x00), 0x74726976);
	assert_int_equal(get(0x04), 2);
	assert_int_equal(get(0x08), 1);
	assert_int_equal(get(0x0c), 0x4c504f44);
	put(DEVICE_FEATURES_SELECT, 0);
	assert_int_equal(
		get(DEVICE_FEATURES), MAC | MERGEABLE | LINK_STATUS | EVENT_IDX | OFFLOADS);
	put(DEVICE_FEATURES_SELECT, 1);
	assert_int_equal(get(DEVICE_FEATURES), 1);
	put(DEVICE_FEATURES_SELECT, 2);
	assert_int_equal(get(DEVICE_FEATURES), 0);
	assert_int_equal(get(QUEUE_SIZE_MAX), 256);
	put(QUEUE_SELECT, 2);
	assert_int_equal(get(QUEUE_SIZE_MAX), 0);
	assert_int_equal(get(QUEUE_READY), 0);
	assert_int_equal(get(0xb0), UINT32_MAX);
	assert_int_equal(get(0xfc), 0);
}

static void only_whole_registers_can_be_accessed(void **state)
{
	(void)state;
	static const unsigned sizes[] = {1, 2, 8};
	for (size_t i = 0; i < 3; i++) {
		assert_int_equal(get_sized(MAGIC, sizes[i]), 0);
		put_sized(STATUS, sizes[i], 1);
		assert_int_equal(get(STATUS), 0);
	}
	assert_int_equal(get(MAGIC + 2), 0);
	put(STATUS + 1, 1);
	put(CONFIG, 0);
	put(0xffffffff, 1);
	assert_int_equal(get(STATUS), 0);
	assert_int_equal(get(0x200), 0);
}

static void the_configuration_can_be_read_in_any_size(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 6; i++)
		assert_int_equal(get_sized(CONFIG + i, 1), mac[i]);
	assert_int_equal(get_sized(CONFIG + 6, 2), 1);
	assert_int_equal(get(CONFIG), 0x12005452);
	assert_int_equal(get(CONFIG + 4), 0x00015634);
	assert_true(get_sized(CONFIG, 8) == 0x0001563412005452);
	assert_int_equal(get_sized(CONFIG + 6, 8), 1);
	assert_int_equal(get_sized(CONFIG + 8, 8), 0);
	assert_int_equal(get_sized(CONFIG + 0xff, 8), 0);
}

static void features_not_offered_are_refused(void **state)
{
	(void)state;
	static const uint64_t wrong[] = {0, MAC, VERSION_1 | 1ull << 2, VERSION_1 | 1ull << 28,
		VERSION_1 | 1ull << 33, VERSION_1 | 1ull << 63, UINT64_MAX};
	for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
		put(STATUS, 0);
		put(STATUS, 3);
		put_features(wrong[i]);
		put(STATUS, 0xb);
		assert_int_equal(get(STATUS), 3);
		put(STATUS, READY); /* nor can it go on without */
		assert_int_equal(get(STATUS), 3);
	}
	put_features(VERSION_1 | MAC);
	put(STATUS, 0xb);
	assert_int_equal(get(STATUS), 0xb);
	put_features(UINT64_MAX); /* too late */
	assert_true(g->mmio.features == (VERSION_1 | MAC));
}

static void queues_that_do_not_exist_are_ignored(void **state)
{
	(void)state;
	static const uint32_t selections[] = {2, 3, 0x7fffffff, UINT32_MAX};
	start(0);
	for (size_t i = 0; i < sizeof selections / sizeof *selections; i++) {
		struct virtio_net before = g->net;
		put(QUEUE_SELECT, selections[i]);
		put(QUEUE_SIZE, 8);
		put_address(QUEUE_DESC, 0x1000);
		put(QUEUE_READY, 1);
		put(QUEUE_READY, 0);
		before.mmio.queue_select = selections[i];
		assert_memory_equal(&before, &g->net, sizeof before);
	}
	assert_int_equal(get(STATUS), READY);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(the_registers_say_what_it_is),
		TEST(only_whole_registers_can_be_accessed),
		TEST(the_configuration_can_be_read_in_any_size),
		TEST(features_not_offered_are_refused),
		TEST(queues_that_do_not_exist_are_ignored),
	};
	return !!cmocka_run_group_tests(tests, NULL, NULL);
}
