#include "tests/unit/broken.h"

#include "engine/role.h"

#include <stdbool.h>

/* The diagram in engine/role.h, arrow by arrow; every role may also halt. */
static const struct arrow {
	enum role from, to;
} arrows[] = {
	{ROLE_SOLO, ROLE_CLONING},
	{ROLE_CLONING, ROLE_SOLO},
	{ROLE_CLONING, ROLE_PRIMARY},
	{ROLE_PRIMARY, ROLE_SOLO},
	{ROLE_STANDBY, ROLE_RECEIVING},
	{ROLE_RECEIVING, ROLE_STANDBY},
	{ROLE_RECEIVING, ROLE_BACKUP},
	{ROLE_BACKUP, ROLE_LIVE},
	{ROLE_BACKUP, ROLE_STANDBY},
	{ROLE_LIVE, ROLE_SOLO},
};

static bool drawn(enum role from, enum role to)
{
	for (unsigned i = 0; i < sizeof arrows / sizeof arrows[0]; i++) {
		if (arrows[i].from == from && arrows[i].to == to)
			return true;
	}
	return from != ROLE_HALTED && to == ROLE_HALTED;
}

static void change(void *argument)
{
	struct arrow *arrow = argument;
	role_change(&arrow->from, arrow->to);
}

static void a_role_changes_as_the_diagram_says_and_in_no_other_way(void **state)
{
	(void)state;
	for (enum role from = 0; from < ROLES; from++) {
		for (enum role to = 0; to < ROLES; to++) {
			struct arrow arrow = {from, to};
			if (!drawn(from, to)) {
				expect_broken("A1", change, &arrow);
				continue;
			}
			change(&arrow);
			assert_int_equal(arrow.from, to);
		}
	}
}

static void nobody_gets_from_backup_to_solo_without_asking_the_arbiter(void **state)
{
	(void)state;
	struct arrow arrow = {ROLE_BACKUP, ROLE_SOLO};
	expect_broken("A1", change, &arrow);
	arrow = (struct arrow){ROLE_STANDBY, ROLE_LIVE};
	expect_broken("A1", change, &arrow);
	arrow = (struct arrow){ROLE_HALTED, ROLE_SOLO};
	expect_broken("A1", change, &arrow);
}

static void every_role_has_a_name_of_its_own(void **state)
{
	(void)state;
	for (enum role a = 0; a < ROLES; a++) {
		assert_non_null(role_name(a));
		for (enum role b = 0; b < a; b++)
			assert_string_not_equal(role_name(a), role_name(b));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_role_changes_as_the_diagram_says_and_in_no_other_way),
		cmocka_unit_test(nobody_gets_from_backup_to_solo_without_asking_the_arbiter),
		cmocka_unit_test(every_role_has_a_name_of_its_own),
	};
	return !!cmocka_run_group_tests(tests, NULL, NULL);
}
