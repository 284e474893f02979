#include "base/thread.h"
#include "tests/unit/broken.h"

#include <sched.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NICE 19 /* which anybody may ask for, whatever he has */

struct asked {
	uint64_t before, after; /* ns of the slice; 0 where the kernel knows no such thing */
	int policy, nice;
};

static uint64_t slice(void)
{
	struct {
		uint32_t size, policy;
		uint64_t flags;
		int32_t nice;
		uint32_t priority;
		uint64_t runtime, deadline, period;
	} attributes = {0};
	assert_int_equal(syscall(SYS_sched_getattr, 0, &attributes, sizeof attributes, 0), 0);
	return attributes.runtime;
}

static void *ask(void *argument)
{
	struct asked *asked = argument;
	pid_t self = (pid_t)syscall(SYS_gettid);
	(void)setpriority(PRIO_PROCESS, (id_t)self, NICE);
	asked->before = slice();
	thread_is_prompt();
	asked->after = slice();
	asked->policy = sched_getscheduler(self);
	asked->nice = getpriority(PRIO_PROCESS, (id_t)self);
	return NULL;
}

static void a_prompt_thread_has_short_slices_and_no_other_share(void **state)
{
	(void)state;
	struct asked asked = {0};
	pthread_t thread;
	assert_int_equal(thread_start(&thread, "asks", ask, &asked), 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_int_equal(asked.policy, SCHED_OTHER);
	assert_int_equal(asked.nice, NICE);
	if (asked.before == 0)
		skip(); /* a kernel without slices */
	assert_true(asked.after < asked.before);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_prompt_thread_has_short_slices_and_no_other_share),
	};
	return !!cmocka_run_group_tests(tests, NULL, NULL);
}
