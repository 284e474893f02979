/*
 * What a program of a guest, or its root, can do that a guest's history must not depend on: for the scenario
 * `hostile`, in its guest. Linked statically, so that nothing of the system's own is run beside it.
 *
 *   attack rdtsc S          reads the time-stamp counter for S seconds, whatever CPUID says
 *   attack rdrand S         the same with random numbers, which all have their part in what is said then
 *   attack ports S          reads and writes ports at random for S seconds
 *   attack strings S [PORT] reads strings from ports that the board has and has not, or from this one
 *   attack pages MIB S      changes all of so much memory again and again without leaving
 *   attack kexec KERNEL INITRD
 *                           begins again with this kernel, under the present command line
 */
#include <fcntl.h>
#include <linux/reboot.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static sigjmp_buf refused;

/* Time is looked at by a system call: the vDSO would do without, and this one is here to leave the guest. */
static double now(void)
{
	struct timespec time;
	syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void on_refusal(int signal)
{
	siglongjmp(refused, signal);
}

static uint64_t rdtsc(void)
{
	uint32_t low, high;
	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
	return (uint64_t)high << 32 | low;
}

/* Both of them; the carry flag says whether there was one. */
static uint64_t rdrand(void)
{
	uint64_t random = 0, seed = 0;
	uint8_t has;
	__asm__ volatile("rdrand %0; setc %1" : "=r"(random), "=qm"(has)::"cc");
	__asm__ volatile("rdseed %0; setc %1" : "=r"(seed), "=qm"(has)::"cc");
	return random ^ seed << 1;
}

static int read_counter(double seconds)
{
	uint64_t times = 0, back = 0, before = 0;
	for (double end = now() + seconds; now() < end;)
		for (unsigned i = 0; i < 1000; i++) {
			uint64_t tsc = rdtsc();
			times++;
			back += tsc < before;
			before = tsc;
		}
	printf("attack: rdtsc %llu times, back %llu times, at last %llu\n",
		(unsigned long long)times, (unsigned long long)back, (unsigned long long)before);
	return 0;
}

static int draw_numbers(double seconds)
{
	static uint64_t kept[4096];
	uint64_t times = 0, odd = 0;
	for (double end = now() + seconds; now() < end;)
		for (unsigned i = 0; i < 1000; i++) {
			uint64_t number = rdrand();
			kept[times++ % 4096] = number;
			odd += number & 1u;
		}
	printf("attack: rdrand %llu times, odd %llu times, at last %llx\n",
		(unsigned long long)times, (unsigned long long)odd,
		(unsigned long long)kept[(times - 1) % 4096]);
	return 0;
}

/* Next of a row that is the same each time. */
static uint32_t next(uint32_t *state)
{
	*state = *state * 1664525u + 1013904223u;
	return *state >> 8;
}

static int use_ports(double seconds)
{
	uint32_t state = 1, sum = 0;
	unsigned long long times = 0;
	for (double end = now() + seconds; now() < end; times++) {
		/* To read is allowed everywhere, but for what the serial line's driver waits for. */
		uint16_t port = (uint16_t)next(&state);
		if (port < 0x3f8 || port > 0x3ff)
			sum += next(&state) & 1u ? inb(port) : inl(port & 0xfffcu);
		outl(next(&state), (uint16_t)(0x8000u | (next(&state) & 0x7ff8u)));
	}
	printf("attack: ports %llu times, sum %u\n", times, sum);
	return 0;
}

static int read_strings(double seconds, uint16_t only)
{
	static const uint16_t ports[] = {0x61, 0x80, 0xe0, 0x3fd, 0x604, 0x628, 0xfff0};
	static uint8_t bytes[8192];
	uint32_t state = 1, sum = 0;
	unsigned long long times = 0;
	for (double end = now() + seconds; now() < end; times++) {
		uint16_t port = only ? only : ports[next(&state) % (sizeof ports / sizeof *ports)];
		unsigned count = 1 + next(&state) % 64;
		/* From an odd place, so that an element crosses into another page. */
		if (next(&state) & 1u)
			insl(port, bytes + 4093, count);
		else
			insw(port, bytes + 4093, count);
		for (unsigned i = 0; i < 2 * count; i++)
			sum += bytes[4093 + i];
	}
	printf("attack: strings %llu times, sum %u\n", times, sum);
	return 0;
}

static int change_pages(size_t mib, double seconds)
{
	size_t length = mib << 20;
	volatile uint64_t *memory = malloc(length);
	unsigned long long rounds = 0;
	if (!memory) {
		perror("malloc");
		return 1;
	}
	for (double end = now() + seconds; now() < end; rounds++)
		for (size_t at = 0; at < length / 8; at += 512)
			memory[at] += at + rounds;
	printf("attack: pages %llu rounds\n", rounds);
	return 0;
}

static int begin_again(const char *kernel_path, const char *initrd_path)
{
	char line[2048];
	int kernel = open(kernel_path, O_RDONLY), initrd = open(initrd_path, O_RDONLY);
	int command = open("/proc/cmdline", O_RDONLY);
	ssize_t length = read(command, line, sizeof line);
	if (kernel < 0 || initrd < 0 || length <= 0) {
		perror("attack: kexec");
		return 1;
	}
	line[length - 1] = '\0'; /* the line feed; the terminator is counted */
	if (syscall(SYS_kexec_file_load, kernel, initrd, (size_t)length, line, 0) < 0) {
		perror("attack: kexec_file_load");
		return 1;
	}
	printf("attack: kexec\n");
	fflush(stdout);
	syscall(SYS_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_KEXEC, NULL);
	perror("attack: reboot");
	return 1;
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	const char *first = argc > 2 ? argv[2] : "5", *second = argc > 3 ? argv[3] : "5";
	signal(SIGILL, on_refusal);
	signal(SIGSEGV, on_refusal);
	/* A processor that refuses such an instruction has nothing to be afraid of. */
	int signal = sigsetjmp(refused, 1);
	if (signal) {
		printf("attack: %s is refused by signal %d\n", what, signal);
		return 0;
	}
	if (strcmp(what, "rdtsc") == 0)
		return read_counter(atof(first));
	if (strcmp(what, "rdrand") == 0)
		return draw_numbers(atof(first));
	if ((strcmp(what, "ports") == 0 || strcmp(what, "strings") == 0) && iopl(3) < 0) {
		perror("iopl");
		return 1;
	}
	if (strcmp(what, "ports") == 0)
		return use_ports(atof(first));
	if (strcmp(what, "strings") == 0)
		return read_strings(atof(first), argc > 3 ? (uint16_t)strtoul(second, NULL, 0) : 0);
	if (strcmp(what, "pages") == 0)
		return change_pages((size_t)atoi(first), atof(second));
	if (strcmp(what, "kexec") == 0 && argc == 4)
		return begin_again(first, second);
	fprintf(stderr, "attack: no %s\n", what);
	return 2;
}
