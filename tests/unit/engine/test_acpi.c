#include "engine/board.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#undef fail /* ours is in base/fail.h */

#include "tests/unit/engine/device_world.h"

#define AT 0xe0000u

static struct guest_memory memory;

static int set_up(void **state)
{
	(void)state;
	return memory_create(&memory, GUEST_MEMORY_MIN);
}

static int tear_down(void **state)
{
	(void)state;
	memory_destroy(&memory);
	return 0;
}

static uint64_t number(uint64_t at, unsigned size)
{
	uint64_t value = 0;
	const void *from = memory_read_ptr(&memory, gpa_of(at), size);
	assert_non_null(from);
	memcpy(&value, from, size);
	return value;
}

static uint8_t sum(uint64_t at, uint64_t length)
{
	unsigned total = 0;
	for (uint64_t i = 0; i < length; i++)
		total += (unsigned)number(at + i, 1);
	return (uint8_t)total;
}

/* Checks a table's head. Returns its length. */
static uint64_t table(uint64_t at, const char *signature)
{
	assert_memory_equal(memory_read_ptr(&memory, gpa_of(at), 4), signature, 4);
	uint64_t length = number(at + 4, 4);
	assert_in_range(length, 36, ACPI_TABLES_SIZE);
	assert_true(at >= AT && at + length <= AT + ACPI_TABLES_SIZE);
	assert_int_equal(sum(at, length), 0);
	return length;
}

/* As a guest walks them. */
static void the_tables_lead_to_one_another_and_add_up(void **state)
{
	(void)state;
	assert_int_equal(acpi_build(&memory, gpa_of(AT)), 0);
	assert_memory_equal(memory_read_ptr(&memory, gpa_of(AT), 8), "RSD PTR ", 8);
	assert_int_equal(sum(AT, 20), 0);
	assert_int_equal(sum(AT, 36), 0);
	assert_int_equal(number(AT + 15, 1), 2);
	uint64_t xsdt = number(AT + 24, 8);
	assert_int_equal(table(xsdt, "XSDT"), 44);
	uint64_t fadt = number(xsdt + 36, 8);
	assert_int_equal(table(fadt, "FACP"), 244);
	uint64_t facs = number(fadt + 132, 8), dsdt = number(fadt + 140, 8);
	assert_int_equal(number(fadt + 36, 4), facs);
	assert_int_equal(number(fadt + 40, 4), dsdt);
	assert_int_equal(facs % 64, 0);
	assert_memory_equal(memory_read_ptr(&memory, gpa_of(facs), 4), "FACS", 4);
	assert_int_equal(number(facs + 4, 4), 64);
	assert_int_equal(number(facs + 32, 1), 1);
	/* Its program: the values for \_S5, as one package, and the virtio devices. */
	assert_int_equal(table(dsdt, "DSDT"), 36 + 15 + 8 + 61 * BOARD_VIRTIO);
	static const uint8_t s5[] = {
		0x08, '\\', '_', 'S', '5', '_', 0x12, 8, 4, 0x0a, 5, 0x0a, 5, 0, 0};
	assert_memory_equal(memory_read_ptr(&memory, gpa_of(dsdt + 36), 15), s5, 15);
}

/* Byte by byte what a compiler makes of their description; only places and lines differ. */
static void the_virtio_devices_are_described_where_they_are(void **state)
{
	(void)state;
	static const char scope[] = "\x10\x4e\x0b\x5c_SB_";
	static const char begin[] = "\x5b\x82\x3bVIO", id[] = "\x08_HID\x0dLNRO0005\0\x08_UID\x0a",
			  places[] = "\x08_CRS\x11\x1a\x0a\x17\x86\x09\0\1",
			  lines[] = "\x89\6\0\1\1";
	assert_int_equal(acpi_build(&memory, gpa_of(AT)), 0);
	uint64_t at = number(number(number(AT + 24, 8) + 36, 8) + 140, 8) + 36 + 15;
	assert_memory_equal(memory_read_ptr(&memory, gpa_of(at), 8), scope, 8);
	at += 8;
	for (unsigned i = 0; i < BOARD_VIRTIO; i++, at += 61) {
		assert_memory_equal(memory_read_ptr(&memory, gpa_of(at), 6), begin, 6);
		assert_int_equal(number(at + 6, 1), '0' + i);
		assert_memory_equal(memory_read_ptr(&memory, gpa_of(at + 7), 21), id, 21);
		assert_int_equal(number(at + 28, 1), i);
		assert_memory_equal(memory_read_ptr(&memory, gpa_of(at + 29), 13), places, 13);
		assert_int_equal(number(at + 42, 4), board_virtio[i].address);
		assert_int_equal(number(at + 46, 4), board_virtio[i].size);
		assert_memory_equal(memory_read_ptr(&memory, gpa_of(at + 50), 5), lines, 5);
		assert_int_equal(number(at + 55, 4), board_virtio[i].line);
		assert_int_equal(number(at + 59, 2), 0x79);
	}
}

static void an_address_is(uint64_t at, unsigned bits, unsigned access, uint64_t port)
{
	assert_int_equal(number(at, 1), 1); /* I/O space */
	assert_int_equal(number(at + 1, 1), bits);
	assert_int_equal(number(at + 3, 1), access);
	assert_int_equal(number(at + 4, 8), port);
}

static void the_fadt_describes_this_board(void **state)
{
	(void)state;
	assert_int_equal(acpi_build(&memory, gpa_of(AT)), 0);
	uint64_t fadt = AT + 0x100;
	assert_int_equal(number(fadt + 46, 2), IRQ_ACPI);
	assert_int_equal(number(fadt + 48, 4), 0); /* no SMI: always in ACPI mode */
	assert_int_equal(number(fadt + 56, 4), PORT_ACPI_EVENT);
	assert_int_equal(number(fadt + 64, 4), PORT_ACPI_CONTROL);
	assert_int_equal(number(fadt + 76, 4), PORT_ACPI_TIMER);
	assert_int_equal(
		number(fadt + 88, 4), 0x04000204); /* lengths: event, control, none, timer */
	assert_int_equal(number(fadt + 92, 2), 0); /* no general-purpose events */
	assert_int_equal(number(fadt + 108, 1), 0x32);
	assert_int_equal(
		number(fadt + 109, 2), 0x000d); /* ISA devices; no VGA, no MSI; a CMOS clock */
	assert_int_equal(number(fadt + 112, 4), 0x575);
	an_address_is(fadt + 116, 8, 1, PORT_RESET);
	assert_int_equal(number(fadt + 128, 1), 6);
	an_address_is(fadt + 148, 32, 3, PORT_ACPI_EVENT);
	an_address_is(fadt + 172, 16, 2, PORT_ACPI_CONTROL);
	an_address_is(fadt + 208, 32, 3, PORT_ACPI_TIMER);
	assert_int_equal(number(fadt + 160, 8), 0); /* no second block */
	assert_int_equal(number(fadt + 220, 8), 0);
}

static void tables_that_do_not_fit_are_refused(void **state)
{
	(void)state;
	assert_int_equal(acpi_build(&memory, gpa_of(memory.size)), -EINVAL);
	assert_int_equal(acpi_build(&memory, gpa_of(memory.size - ACPI_TABLES_SIZE + 64)), -EINVAL);
	assert_int_equal(acpi_build(&memory, gpa_of(AT + 4)), -EINVAL);
	assert_int_equal(acpi_build(&memory, gpa_of(UINT64_MAX - 63)), -EINVAL);
	assert_int_equal(acpi_build(&memory, gpa_of(memory.size - ACPI_TABLES_SIZE)), 0);
	assert_int_equal(sum(0, memory.size - ACPI_TABLES_SIZE), 0);
}

static uint16_t word(const struct acpi *acpi, unsigned reg)
{
	return (uint16_t)(acpi_read(acpi, reg) | acpi_read(acpi, reg + 1) << 8);
}

static void put_word(struct acpi *acpi, unsigned reg, uint16_t value)
{
	acpi_write(acpi, reg, (uint8_t)value);
	acpi_write(acpi, reg + 1, (uint8_t)(value >> 8));
}

static void events_can_be_enabled_and_never_happen(void **state)
{
	(void)state;
	struct acpi acpi;
	acpi_reset(&acpi);
	assert_int_equal(word(&acpi, 2), 0);
	put_word(&acpi, 2, 0x0521);
	put_word(&acpi, 0, 0xffff); /* to clear the status */
	assert_int_equal(word(&acpi, 2), 0x0521);
	assert_int_equal(word(&acpi, 0), 0);
}

static void the_machine_is_always_in_acpi_mode(void **state)
{
	(void)state;
	struct acpi acpi;
	acpi_reset(&acpi);
	assert_int_equal(word(&acpi, 4), 1);
	put_word(&acpi, 4, 0);
	assert_int_equal(word(&acpi, 4), 1);
	put_word(&acpi, 4, 0xdfff); /* of reserved bits and commands none stays */
	assert_int_equal(word(&acpi, 4), 0x1c03);
	assert_false(acpi.switched_off);
}

/* As ACPICA does it: the type alone first, then with the enable bit. */
static void sleep_type_5_switches_off(void **state)
{
	(void)state;
	struct acpi acpi;
	acpi_reset(&acpi);
	for (unsigned type = 0; type < 8; type++) {
		put_word(&acpi, 4, (uint16_t)(type << 10 | 1));
		assert_false(acpi.switched_off);
		if (type == 5)
			continue;
		put_word(&acpi, 4, (uint16_t)(type << 10 | 1 << 13 | 1));
		assert_false(acpi.switched_off);
		assert_int_equal(word(&acpi, 4), type << 10 | 1); /* SLP_EN reads as zero */
	}
	put_word(&acpi, 4, 5 << 10 | 1 << 13 | 1);
	assert_true(acpi.switched_off);
}

static void the_timer_counts_the_guests_time(void **state)
{
	(void)state;
	static const struct {
		uint64_t ns;
		uint32_t ticks;
	} cases[] = {{0, 0}, {279, 0}, {280, 1}, {1000000000, 3579545},
		{UINT64_C(3600000000000), 1460112u}, {UINT64_MAX, 3047538368u}};
	struct world w = world_with(IRQ_ACPI);
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		w.now = cases[i].ns;
		assert_int_equal(acpi_timer(&w.env), cases[i].ticks);
		assert_int_equal(w.asked, i + 1);
	}
}

/* Also under the sanitizers: no bytes loaded and no write leads anywhere but into the struct. */
static void equal_inputs_leave_equal_bytes(void **state)
{
	(void)state;
	unsigned seed = 1;
	for (unsigned round = 0; round < 400; round++) {
		struct acpi a, b;
		memset(&a, 0, sizeof a);
		memset(&b, 0xff, sizeof b);
		acpi_reset(&a);
		acpi_reset(&b);
		for (size_t i = 0; round % 2 && i < sizeof a; i++)
			((uint8_t *)&a)[i] = ((uint8_t *)&b)[i] = (uint8_t)rand_r(&seed);
		for (unsigned step = 0; step < 200; step++) {
			unsigned reg = (unsigned)rand_r(&seed) % 7;
			uint8_t value = (uint8_t)rand_r(&seed);
			acpi_write(&a, reg, value);
			acpi_write(&b, reg, value);
			assert_int_equal(acpi_read(&a, reg), acpi_read(&b, reg));
		}
		assert_memory_equal(&a, &b, sizeof a);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			the_tables_lead_to_one_another_and_add_up, set_up, tear_down),
		cmocka_unit_test_setup_teardown(
			the_virtio_devices_are_described_where_they_are, set_up, tear_down),
		cmocka_unit_test_setup_teardown(the_fadt_describes_this_board, set_up, tear_down),
		cmocka_unit_test_setup_teardown(
			tables_that_do_not_fit_are_refused, set_up, tear_down),
		cmocka_unit_test(events_can_be_enabled_and_never_happen),
		cmocka_unit_test(the_machine_is_always_in_acpi_mode),
		cmocka_unit_test(sleep_type_5_switches_off),
		cmocka_unit_test(the_timer_counts_the_guests_time),
		cmocka_unit_test(equal_inputs_leave_equal_bytes),
	};
	return !!cmocka_run_group_tests(tests, NULL, NULL);
}
