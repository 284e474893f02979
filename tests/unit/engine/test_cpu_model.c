/* The CPU that guests see offers nothing whose result differs between two runs (D4). Skipped where
 * there is no KVM, since it says what it supports. */
#include "engine/cpu_model.h"
#include "tests/unit/engine/kvm.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h> /* last: its macro fail() hides base/fail.h's function */

static struct cpu_model model;
static int kvm = -1;

static int set_up(void **state)
{
	(void)state;
	kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	return kvm < 0 ? 0 : cpu_model_build(&model, kvm);
}

static int tear_down(void **state)
{
	(void)state;
	if (kvm >= 0)
		close(kvm);
	return 0;
}

/* What a guest reads: zeros where the model has nothing. */
static struct kvm_cpuid_entry2 leaf(uint32_t function)
{
	for (unsigned i = 0; i < model.cpuid.head.nent; i++) {
		if (model.cpuid.leaf[i].function == function)
			return model.cpuid.leaf[i];
	}
	return (struct kvm_cpuid_entry2){.function = function};
}

struct bit {
	const char *what;
	uint32_t function;
	enum { EAX, EBX, ECX, EDX } in;
	unsigned number;
};

static bool offered(const struct bit *bit)
{
	struct kvm_cpuid_entry2 found = leaf(bit->function);
	const uint32_t words[] = {found.eax, found.ebx, found.ecx, found.edx};
	return words[bit->in] >> bit->number & 1;
}

static void nothing_is_offered_that_differs_between_two_runs(void **state)
{
	(void)state;
	NEED_KVM();
	const struct bit hidden[] = {
		{"TSC", 1, EDX, 4},
		{"machine checks", 1, EDX, 7},
		{"APIC", 1, EDX, 9},
		{"MTRR", 1, EDX, 12},
		{"thermal interrupts", 1, EDX, 22},
		{"DTES64", 1, ECX, 2},
		{"MONITOR", 1, ECX, 3},
		{"VMX", 1, ECX, 5},
		{"FMA", 1, ECX, 12},
		{"perfmon capabilities", 1, ECX, 15},
		{"PCID", 1, ECX, 17},
		{"x2APIC", 1, ECX, 21},
		{"MOVBE", 1, ECX, 22},
		{"TSC deadline", 1, ECX, 24},
		{"XSAVE", 1, ECX, 26},
		{"OSXSAVE", 1, ECX, 27},
		{"AVX", 1, ECX, 28},
		{"F16C", 1, ECX, 29},
		{"RDRAND", 1, ECX, 30},
		{"hypervisor", 1, ECX, 31},
		{"TSC adjust", 7, EBX, 1},
		{"HLE", 7, EBX, 4},
		{"AVX2", 7, EBX, 5},
		{"RTM", 7, EBX, 11},
		{"AVX-512", 7, EBX, 16},
		{"RDSEED", 7, EBX, 18},
		{"RDPID", 7, ECX, 22},
		{"WAITPKG", 7, ECX, 5},
		{"RTM always aborts", 7, EDX, 11},
		{"RDTSCP", 0x80000001, EDX, 27},
		{"SVM", 0x80000001, ECX, 2},
		{"IBS", 0x80000001, ECX, 10},
		{"XOP", 0x80000001, ECX, 11},
		{"FMA4", 0x80000001, ECX, 16},
		{"performance counters", 0x80000001, ECX, 23},
		{"MONITORX", 0x80000001, ECX, 29},
		{"invariant TSC", 0x80000007, EDX, 8},
		{"RDPRU", 0x80000008, EBX, 4},
	};
	for (unsigned i = 0; i < sizeof hidden / sizeof hidden[0]; i++) {
		if (offered(&hidden[i]))
			fail_msg("%s is offered", hidden[i].what);
	}
}

static void whole_leaves_are_empty(void **state)
{
	(void)state;
	NEED_KVM();
	/* MONITOR, structured features, PMU, topology, XSAVE, RDT, SGX, PT, TSC frequency, KVM, IBS
	 */
	const uint32_t empty[] = {5, 7, 0xa, 0xb, 0xd, 0xf, 0x10, 0x12, 0x14, 0x15, 0x16, 0x19,
		0x1f, 0x40000000, 0x40000001, 0x40000010, 0x8000001b, 0x80000022};
	for (unsigned i = 0; i < sizeof empty / sizeof empty[0]; i++) {
		struct kvm_cpuid_entry2 found = leaf(empty[i]);
		if (found.eax || found.ebx || found.ecx || found.edx)
			fail_msg("leaf %#x is not empty", empty[i]);
	}
}

static void no_leaf_lies_outside_what_the_model_says_it_has(void **state)
{
	(void)state;
	NEED_KVM();
	assert_in_range(model.cpuid.head.nent, 4, CPU_MODEL_LEAVES);
	for (unsigned i = 0; i < model.cpuid.head.nent; i++) {
		uint32_t function = model.cpuid.leaf[i].function;
		assert_true(function <= leaf(0).eax ||
			    (function >= 0x80000000u && function <= leaf(0x80000000u).eax));
	}
	/* What lies above the highest basic leaf reads as that leaf on some processors. */
	assert_int_equal(leaf(0).eax, 7);
}

static void what_a_64_bit_kernel_needs_is_there(void **state)
{
	(void)state;
	NEED_KVM();
	const struct bit needed[] = {{"FPU", 1, EDX, 0}, {"PAE", 1, EDX, 6}, {"PAT", 1, EDX, 16},
		{"SSE2", 1, EDX, 26}, {"SYSCALL", 0x80000001, EDX, 11}, {"NX", 0x80000001, EDX, 20},
		{"long mode", 0x80000001, EDX, 29}};
	for (unsigned i = 0; i < sizeof needed / sizeof needed[0]; i++) {
		if (!offered(&needed[i]))
			fail_msg("%s is missing", needed[i].what);
	}
}

static void the_same_host_gives_the_same_model(void **state)
{
	(void)state;
	NEED_KVM();
	struct cpu_model again;
	memset(&again, 0xa5, sizeof again);
	assert_int_equal(cpu_model_build(&again, kvm), 0);
	assert_true(again.digest == model.digest);
	assert_memory_equal(&again.cpuid, &model.cpuid, sizeof model.cpuid);
	assert_string_equal(again.name, model.name);
	assert_int_not_equal(model.digest, 0);
}

static void no_msr_is_allowed_that_tells_time_or_counts(void **state)
{
	(void)state;
	/* TSC, TSC_ADJUST, TSC_DEADLINE, TSC_AUX, APIC_BASE, MPERF, APERF, PMC0, PERF_GLOBAL_CTRL,
	 * x2APIC, KVM's clocks, AMD's counters */
	const uint32_t denied[] = {0x10, 0x3b, 0x6e0, 0xc0000103, 0x1b, 0xe7, 0xe8, 0xc1, 0x38f,
		0x800, 0x11, 0x12, 0x4b564d00, 0x4b564d01, 0xc0010004, 0xc0010200, 0xc00000e7,
		0xc00000e8};
	for (unsigned i = 0; i < cpu_model_msr_count; i++) {
		for (unsigned j = 0; j < sizeof denied / sizeof denied[0]; j++)
			assert_int_not_equal(cpu_model_msrs[i], denied[j]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_is_offered_that_differs_between_two_runs),
		cmocka_unit_test(whole_leaves_are_empty),
		cmocka_unit_test(no_leaf_lies_outside_what_the_model_says_it_has),
		cmocka_unit_test(what_a_64_bit_kernel_needs_is_there),
		cmocka_unit_test(the_same_host_gives_the_same_model),
		cmocka_unit_test(no_msr_is_allowed_that_tells_time_or_counts),
	};
	return !!cmocka_run_group_tests(tests, set_up, tear_down);
}
