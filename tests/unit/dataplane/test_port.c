#include "dataplane/port.h"
#include "tests/unit/dataplane/child.h"
#include "tests/unit/dataplane/tcp_frame.h"

static struct port *port;

static void open_port(const char *device)
{
	port_block_signals();
	REQUIRE(port_open(&port, device) == 0);
}

/* Standard error of the child from here on; what it has said, at the end. */
static FILE *listen_to_stderr(void)
{
	FILE *file = tmpfile();
	REQUIRE(file);
	REQUIRE(dup2(fileno(file), STDERR_FILENO) >= 0);
	return file;
}

static void start_quietly(void)
{
	need_dpdk();
	cpu_set_t before, after;
	sigset_t mask_before, mask_after;
	port_block_signals();
	int saved = dup(STDERR_FILENO);
	FILE *said = listen_to_stderr();
	REQUIRE(setenv("RUNTIME_DIRECTORY", "/nowhere", 1) == 0);
	REQUIRE(sched_getaffinity(0, sizeof before, &before) == 0);
	REQUIRE(sigprocmask(SIG_SETMASK, NULL, &mask_before) == 0);
	int result = port_open(&port, "net_null0");
	long length = lseek(fileno(said), 0, SEEK_END);
	REQUIRE(dup2(saved, STDERR_FILENO) >= 0);
	REQUIRE(result == 0);
	REQUIRE(length == 0);
	REQUIRE(sched_getaffinity(0, sizeof after, &after) == 0);
	REQUIRE(CPU_EQUAL(&before, &after));
	REQUIRE(sigprocmask(SIG_SETMASK, NULL, &mask_after) == 0);
	for (int number = 1; number < SIGRTMAX; number++)
		REQUIRE(sigismember(&mask_before, number) == sigismember(&mask_after, number));
	REQUIRE(strcmp(getenv("RUNTIME_DIRECTORY"), "/nowhere") == 0);
	REQUIRE(access("/nowhere", F_OK) != 0);
	REQUIRE(port_mtu(port) == 1500);
	struct port *second;
	REQUIRE(port_open(&second, "net_null1") == -EALREADY);
	port_close(port);
}

static void a_normal_start_prints_nothing_and_leaves_the_process_as_it_was(void **state)
{
	(void)state;
	run_in_child(start_quietly);
}

struct bad {
	const char *device;
	int error;
	const char *says;
};

static struct bad bad;

static void open_bad(void)
{
	need_dpdk();
	if (strstr(bad.device, "net_tap") || strstr(bad.device, "net_af"))
		own_network();
	port_block_signals();
	int saved = dup(STDERR_FILENO);
	FILE *said = listen_to_stderr();
	int result = port_open(&port, bad.device);
	long length = lseek(fileno(said), 0, SEEK_END);
	REQUIRE(dup2(saved, STDERR_FILENO) >= 0);
	REQUIRE(result == bad.error);
	REQUIRE(length == 0);
	REQUIRE(strstr(fail_message(), bad.says));
	REQUIRE(strstr(fail_message(), bad.device));
	REQUIRE(!strchr(fail_message(), '\n'));
}

static void a_device_that_cannot_be_is_refused_with_one_line_that_says_why(void **state)
{
	(void)state;
	static const struct bad all[] = {
		{"net_foo", -ENODEV, "no such driver"},
		{"", -ENODEV, "no such driver"},
		{"crypto_null0", -ENODEV, "not a network device"},
		{"net_af_packet0,iface=nowhere", -ENODEV, "No such device"},
		{"net_tap0,iface=lo", -ENODEV, "another kind"},
	};
	for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
		bad = all[i];
		run_in_child(open_bad);
	}
}

static void open_without_rights(void)
{
	need_dpdk();
	own_network();
	REQUIRE(setresuid(65534, 65534, 65534) == 0);
	port_block_signals();
	REQUIRE(port_open(&port, "net_tap0,iface=dop0") == -EPERM);
	REQUIRE(strstr(fail_message(), "CAP_NET_ADMIN"));
}

static void a_tap_without_the_rights_for_it_is_refused(void **state)
{
	(void)state;
	run_in_child(open_without_rights);
}

static void open_one_in_use(void)
{
	need_dpdk();
	int ready[2], done[2];
	own_network();
	REQUIRE(pipe(ready) == 0 && pipe(done) == 0);
	pid_t other = fork();
	REQUIRE(other >= 0);
	char byte = 0;
	if (other == 0) {
		close(done[1]);
		open_port("net_tap0,iface=dop0");
		REQUIRE(write(ready[1], &byte, 1) == 1);
		(void)!read(done[0], &byte, 1); /* until our parent has seen enough, or is dead */
		port_close(port);
		_exit(0);
	}
	REQUIRE(read(ready[0], &byte, 1) == 1);
	port_block_signals();
	REQUIRE(port_open(&port, "net_tap0,iface=dop0") == -EBUSY);
	close(done[1]);
	int status;
	REQUIRE(waitpid(other, &status, 0) == other);
	REQUIRE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void a_tap_that_another_process_has_is_not_shared_with_it(void **state)
{
	(void)state;
	run_in_child(open_one_in_use);
}

#define BUFFER 2048u

static uint8_t frames[64][FRAME_HEADER + BUFFER]; /* all to be sent as they are */
static struct hold_output outputs[64];

static void prepare(unsigned i, uint32_t number, size_t length)
{
	memset(frames[i], 0, FRAME_HEADER);
	fill_frame(frames[i] + FRAME_HEADER, length < BUFFER ? length : BUFFER, number);
	outputs[i] = (struct hold_output){.bytes = frames[i], .length = FRAME_HEADER + length};
}

static bool is_received(const struct port_frame *frame, size_t length, uint32_t number)
{
	static const uint8_t whole[FRAME_HEADER];
	const uint8_t *bytes = frame->bytes;
	return memcmp(bytes, whole, sizeof whole) == 0 &&
	       is_frame(bytes + FRAME_HEADER, frame->length - FRAME_HEADER, length, number);
}

static unsigned receive_all(struct port_frame *received, unsigned capacity)
{
	unsigned n = 0, more;
	while (n < capacity && (more = port_receive(port, received + n, capacity - n, true)) > 0)
		n += more;
	return n;
}

static void send_and_receive(void)
{
	need_dpdk();
	struct port_frame received[64];
	open_port("net_ring0");
	for (uint32_t round = 0; round < 200; round++) {
		for (unsigned i = 0; i < 64; i++)
			prepare(i, round * 64 + i, 18 + (round * 64 + i) % 1497);
		REQUIRE(port_send(port, outputs, 64) == 64);
		memset(frames, 0, sizeof frames); /* what was sent was copied */
		REQUIRE(receive_all(received, 64) == 64);
		for (unsigned i = 0; i < 64; i++) {
			uint32_t number = round * 64 + i;
			REQUIRE(is_received(&received[i], 18 + number % 1497, number));
			port_frame_free(&received[i]);
		}
	}
	REQUIRE(port_dropped(port) == 0);
	port_close(port);
}

static void frames_come_back_in_order_and_unchanged(void **state)
{
	(void)state;
	run_in_child(send_and_receive);
}

static void send_impossible(void)
{
	need_dpdk();
	struct port_frame received[64];
	open_port("net_ring0");
	prepare(0, 0, 1515); /* too long */
	prepare(1, 1, 1514);
	prepare(2, 2, 13); /* not even a header */
	prepare(3, 3, 0);
	prepare(4, 4, 1518); /* as long as a frame with a tag may be */
	frames[4][24] = 0x81, frames[4][25] = 0x00;
	prepare(5, 5, 65600);
	prepare(6, 6, 18);
	prepare(7, 7, 1519);
	frames[7][24] = 0x81, frames[7][25] = 0x00;
	REQUIRE(port_send(port, outputs, 8) == 8);
	REQUIRE(port_dropped(port) == 5);
	REQUIRE(receive_all(received, 64) == 3);
	REQUIRE(is_received(&received[0], 1514, 1));
	REQUIRE(received[1].length == FRAME_HEADER + 1518);
	REQUIRE(is_received(&received[2], 18, 6));
	/* Nothing but such frames: taken all the same. */
	prepare(0, 0, 5);
	prepare(1, 1, 5000);
	REQUIRE(port_send(port, outputs, 2) == 2);
	REQUIRE(port_dropped(port) == 7);
	REQUIRE(port_send(port, outputs, 0) == 0);
}

static void a_frame_that_cannot_be_sent_is_dropped_and_counted_and_blocks_nothing(void **state)
{
	(void)state;
	run_in_child(send_impossible);
}

static void fill_device(void)
{
	need_dpdk();
	open_port("net_ring0");
	prepare(0, 0, 64);
	/* As long as nobody receives, it is full after some. */
	unsigned taken = 0, n;
	while ((n = port_send(port, outputs, 1)) == 1)
		REQUIRE(++taken < 100000);
	REQUIRE(taken > 100);
	REQUIRE(port_dropped(port) == 0);
	/* For a while it waits; then what cannot leave is lost, one by one, and counted. */
	uint64_t start = now_ns();
	unsigned refused = 1;
	while (port_send(port, outputs, 1) == 0)
		refused++;
	REQUIRE(now_ns() - start > 50000000u && refused > 1);
	REQUIRE(port_dropped(port) == 1);
	REQUIRE(port_send(port, outputs, 1) == 1);
	REQUIRE(port_dropped(port) == 2);
	/* And when it takes frames again, none is lost any more. */
	struct port_frame received[64];
	REQUIRE(port_receive(port, received, 64, true) > 0);
	REQUIRE(port_send(port, outputs, 1) == 1);
	REQUIRE(port_dropped(port) == 2);
}

static void a_device_that_takes_nothing_for_long_loses_frames_instead_of_blocking(void **state)
{
	(void)state;
	run_in_child(fill_device);
}

/* In the memory that a device may be told to read frames from. */
static bool is_in_pool(const struct port_frame *frame)
{
	void *base;
	size_t size;
	port_packets(port, &base, &size);
	const uint8_t *begin = base, *at = frame->bytes;
	return at >= begin && at + frame->length <= begin + size;
}

/* One of 64 KiB through a wire of 1,500: more pieces than a burst, or than there are buffers. */
static void send_large(void)
{
	need_dpdk();
	static uint8_t large[FRAME_HEADER + 65536], end[FRAME_HEADER + 60];
	static uint8_t stream[65536];
	struct port_frame received[64];
	open_port("net_ring0");
	for (unsigned v6 = 0; v6 < 2; v6++) {
		for (unsigned may_merge = 0; may_merge < 2; may_merge++) {
			const struct plan plan = {.v6 = v6, .flags = TCP_ACK, .payload = 65000};
			size_t length = make_large(large, &plan, 40);
			struct hold_output two[2] = {{.bytes = large, .length = length},
				{.bytes = end, .length = sizeof end}};
			uint32_t payload = 0, frames_seen = 0;
			unsigned taken = 0, calls = 0;
			bool ended = false;
			while (!ended) {
				if (taken < 2)
					taken += port_send(port, two + taken, 2 - taken);
				calls++;
				unsigned n = port_receive(port, received, 32, may_merge);
				for (unsigned i = 0; i < n; i++) {
					const uint8_t *frame =
						(const uint8_t *)received[i].bytes + FRAME_HEADER;
					uint32_t bytes = received[i].length - FRAME_HEADER;
					if (bytes == 60) {
						ended = true;
					} else {
						uint32_t data = bytes - (uint32_t)payload_at(&plan);
						REQUIRE(frame_get32(frame + tcp_at(&plan) + 4) ==
							payload);
						REQUIRE(payload + data <= sizeof stream);
						memcpy(stream + payload, frame + payload_at(&plan),
							data);
						payload += data;
						frames_seen++;
						REQUIRE(is_in_pool(&received[i]));
					}
					port_frame_free(&received[i]);
				}
				REQUIRE(n > 0 && calls < 10000);
			}
			REQUIRE(taken == 2 && payload == 65000);
			REQUIRE(memcmp(stream, large + FRAME_HEADER + payload_at(&plan), 65000) ==
				0);
			REQUIRE(may_merge ? frames_seen < 1625 / 8 : frames_seen == 1625);
		}
	}
	REQUIRE(port_dropped(port) == 0);
	port_close(port);
}

static void a_large_frame_is_cut_and_what_comes_back_is_merged(void **state)
{
	(void)state;
	run_in_child(send_large);
}

static void keep_everything(void)
{
	need_dpdk();
	static struct port_frame received[8192];
	open_port("net_null0"); /* brings frames without end */
	unsigned n = receive_all(received, 8192);
	REQUIRE(n > 3000 && n <= 4096);
	for (unsigned i = 0; i < n; i++)
		REQUIRE(is_in_pool(&received[i]));
	/* The guest reads nothing more, and can send all the same. */
	prepare(0, 0, 64);
	for (unsigned i = 0; i < 2000; i++)
		REQUIRE(port_send(port, outputs, 1) == 1);
	REQUIRE(port_dropped(port) == 0);
	for (unsigned i = 0; i < n; i++)
		port_frame_free(&received[i]);
	REQUIRE(receive_all(received, 8192) == n);
}

static void frames_that_are_kept_do_not_keep_others_from_being_sent(void **state)
{
	(void)state;
	run_in_child(keep_everything);
}

static unsigned receive_ours(struct port_frame *received, unsigned wanted)
{
	unsigned n = 0;
	while (n < wanted) {
		if (port_receive(port, &received[n], 1, true) == 0)
			usleep(1000); /* the alarm ends a test whose frames never come */
		else if (is_ours((const uint8_t *)received[n].bytes + FRAME_HEADER,
				 received[n].length - FRAME_HEADER))
			n++;
		else
			port_frame_free(&received[n]);
	}
	return n;
}

/* Both ways between the port and a raw socket on `interface`. */
static void talk(const char *interface)
{
	static const size_t lengths[] = {60, 61, 590, 1514};
	struct port_frame received[4];
	int raw = open_raw(interface);
	for (uint32_t i = 0; i < 40; i++) {
		raw_send(raw, i, lengths[i % 4]);
		receive_ours(received, 1);
		REQUIRE(is_received(&received[0], lengths[i % 4], i));
		REQUIRE(is_in_pool(&received[0]));
		port_frame_free(&received[0]);
		prepare(0, 1000 + i, lengths[i % 4]);
		REQUIRE(port_send(port, outputs, 1) == 1);
		raw_expect(raw, 1000 + i, lengths[i % 4]);
	}
	prepare(0, 1, 1515);
	prepare(1, 2, 10);
	prepare(2, 3, 60);
	REQUIRE(port_send(port, outputs, 3) == 3);
	raw_expect(raw, 3, 60);
	REQUIRE(port_dropped(port) == 2);
	close(raw);
}

static void use_tap(void)
{
	need_dpdk();
	need_file("/dev/net/tun");
	own_network();
	open_port("net_tap0,iface=dop0");
	/* The frames must be asked for by a signal; this thread is the one that takes it. */
	struct bell own = {0}, *bell = &own;
	REQUIRE(port_wakes(port, &bell));
	talk("dop0");
	REQUIRE(atomic_load(&own.rung) >= 40);
	/* A link that is down takes nothing; the frames are lost, and later ones pass. */
	set_up("dop0", false);
	prepare(0, 77, 60);
	uint64_t dropped = port_dropped(port);
	while (port_send(port, outputs, 1) == 0)
		usleep(1000);
	REQUIRE(port_dropped(port) == dropped + 1);
	set_up("dop0", true);
	int raw = open_raw("dop0");
	prepare(0, 78, 60);
	REQUIRE(port_send(port, outputs, 1) == 1);
	raw_expect(raw, 78, 60);
	REQUIRE(port_dropped(port) == dropped + 1);
	port_close(port);
	REQUIRE(if_nametoindex("dop0") == 0);
}

static void a_tap_carries_frames_both_ways_and_is_gone_afterwards(void **state)
{
	(void)state;
	run_in_child(use_tap);
}

static void use_prepared_tap(void)
{
	need_dpdk();
	need_file("/dev/net/tun");
	need_file("/sbin/ip");
	own_network();
	REQUIRE(system("/sbin/ip tuntap add mode tap multi_queue name dop0 && /sbin/ip link set "
		       "dop0 up") == 0);
	open_port("net_tap0,iface=dop0");
	struct bell own = {0}, *bell = &own;
	REQUIRE(port_wakes(port, &bell));
	talk("dop0");
	port_close(port);
	REQUIRE(if_nametoindex("dop0") != 0);
}

static void a_tap_made_before_is_used_and_stays(void **state)
{
	(void)state;
	run_in_child(use_prepared_tap);
}

static void use_veth(void)
{
	need_dpdk();
	need_file("/sbin/ip");
	own_network();
	REQUIRE(system("/sbin/ip link add va type veth peer name vb && /sbin/ip link set va up && "
		       "/sbin/ip link set vb up") == 0);
	open_port("net_af_packet0,iface=va");
	struct bell own = {0}, *bell = &own;
	REQUIRE(!port_wakes(port, &bell));
	talk("vb");
	port_close(port);
}

static void af_packet_carries_frames_both_ways(void **state)
{
	(void)state;
	run_in_child(use_veth);
}

static void use_small_veth(void)
{
	need_dpdk();
	need_file("/sbin/ip");
	own_network();
	REQUIRE(system("/sbin/ip link add va mtu 1300 type veth peer name vb mtu 1300 && "
		       "/sbin/ip link set va up && /sbin/ip link set vb up") == 0);
	open_port("net_af_packet0,iface=va");
	REQUIRE(port_mtu(port) == 1300);
	int raw = open_raw("vb");
	prepare(0, 1, 1315);
	prepare(1, 2, 1314);
	REQUIRE(port_send(port, outputs, 2) == 2);
	raw_expect(raw, 2, 1314);
	REQUIRE(port_dropped(port) == 1);
}

static void an_interface_with_a_smaller_mtu_sets_the_limit(void **state)
{
	(void)state;
	run_in_child(use_small_veth);
}

/* One of two processes joined by a memif socket: each sends 20 frames and gets the other's. */
static void memif_side(const char *role, uint32_t mine, uint32_t theirs, int ready, int go)
{
	struct port_frame received[1];
	char device[128], byte = 0;
	snprintf(device, sizeof device, "net_memif0,role=%s,socket=doppel-test-%d", role,
		(int)getppid());
	open_port(device);
	REQUIRE(write(ready, &byte, 1) == 1);
	for (uint32_t i = 0; i < 20; i++) {
		uint64_t dropped;
		prepare(0, mine + i, 60 + i);
		do { /* until the other is there, frames are lost */
			dropped = port_dropped(port);
			usleep(1000);
		} while (port_send(port, outputs, 1) == 0 || port_dropped(port) > dropped);
		receive_ours(received, 1);
		REQUIRE(is_received(&received[0], 60 + i, theirs + i));
		REQUIRE(is_in_pool(&received[0]));
		port_frame_free(&received[0]);
	}
	REQUIRE(write(ready, &byte, 1) == 1);
	(void)!read(go, &byte, 1); /* until our parent is satisfied, or dead */
	_exit(0);
}

static void use_memif(void)
{
	need_dpdk();
	int ready[2], go[2];
	REQUIRE(pipe(ready) == 0 && pipe(go) == 0);
	pid_t children[2] = {0};
	char byte;
	bool good = true;
	for (unsigned i = 0; i < 2; i++) {
		children[i] = fork();
		REQUIRE(children[i] >= 0);
		if (children[i] == 0) {
			alarm(CHILD_SECONDS - 5);
			close(go[1]);
			close(ready[0]);
			memif_side(i ? "client" : "server", i ? 1000 : 2000, i ? 2000 : 1000,
				ready[1], go[0]);
		}
		good = good &&
		       read(ready[0], &byte, 1) == 1; /* the server listens, the client has come */
		if (!good)
			break;
	}
	close(ready[1]);
	good = good && read(ready[0], &byte, 1) == 1 && read(ready[0], &byte, 1) == 1;
	/* One whose peer goes first may crash; both are done, and neither is to say goodbye. */
	kill(children[0], SIGKILL);
	if (children[1] > 0)
		kill(children[1], SIGKILL);
	REQUIRE(good);
}

static void memif_carries_frames_both_ways(void **state)
{
	(void)state;
	run_in_child(use_memif);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_normal_start_prints_nothing_and_leaves_the_process_as_it_was),
		cmocka_unit_test(a_device_that_cannot_be_is_refused_with_one_line_that_says_why),
		cmocka_unit_test(a_tap_without_the_rights_for_it_is_refused),
		cmocka_unit_test(a_tap_that_another_process_has_is_not_shared_with_it),
		cmocka_unit_test(frames_come_back_in_order_and_unchanged),
		cmocka_unit_test(
			a_frame_that_cannot_be_sent_is_dropped_and_counted_and_blocks_nothing),
		cmocka_unit_test(
			a_device_that_takes_nothing_for_long_loses_frames_instead_of_blocking),
		cmocka_unit_test(a_large_frame_is_cut_and_what_comes_back_is_merged),
		cmocka_unit_test(frames_that_are_kept_do_not_keep_others_from_being_sent),
		cmocka_unit_test(a_tap_carries_frames_both_ways_and_is_gone_afterwards),
		cmocka_unit_test(a_tap_made_before_is_used_and_stays),
		cmocka_unit_test(af_packet_carries_frames_both_ways),
		cmocka_unit_test(an_interface_with_a_smaller_mtu_sets_the_limit),
		cmocka_unit_test(memif_carries_frames_both_ways),
	};
	return !!cmocka_run_group_tests(tests, NULL, NULL);
}
