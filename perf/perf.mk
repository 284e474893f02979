# The harness that reproduces the paper's table. Part of the top Makefile.

$(BUILD)/perf/traffic $(BUILD)/perf/forward $(BUILD)/perf/wake: $(BUILD)/perf/%: $(BUILD)/perf/%.o $(call archives,dataplane)
	$(call say,LD,$@)
	$(Q)$(CC) $(SAN) -pthread -o $@ $^ $(call libraries,dataplane)

# The guest's program is built for this side, too.
$(BUILD)/perf/stream_host: $(BUILD)/perf/stream_host.o $(BUILD)/tests/guests/stream.o $(call archives,dataplane)
	$(call say,LD,$@)
	$(Q)$(CC) $(SAN) -pthread -o $@ $^ $(call libraries,dataplane)
$(BUILD)/perf/stream_host.o $(BUILD)/tests/guests/stream.o: ALL_CFLAGS += -DNET_ROOM=65584

TESTS += tests/unit/perf/test_link
$(BUILD)/tests/unit/perf/%: $(BUILD)/tests/unit/perf/%.o
	$(call say,LD,$@)
	$(Q)$(CC) $(SAN) -pthread -o $@ $^ -lcmocka

.PHONY: perf perf-quick perf-programs
perf-quick: export ROUNDS ?= 1
perf-quick: export QUICK := 1
perf perf-quick: perf-programs
	$(Q)BUILD=$(BUILD) perf/perf.sh

perf-programs:
	$(prepare) $(foreach program,traffic forward stream_host wake epochs checkpoints,$(BUILD)/perf/$(program))
	$(Q)./packages.sh install jq gnuplot-nox dpdk-dev

# The peers: the doppel program, with functions put before the engine's.
WRAP_epochs := live_source session_committed host_set_commit replay_extend
WRAP_checkpoints := live_source session_committed host_set_commit replay_extend log_writer_append log_writer_append_parts virtqueue_copy_in virtqueue_ask_notify \
	machine_wait machine_digest replay_begin resync_forget resync_send
$(BUILD)/perf/epochs $(BUILD)/perf/checkpoints: $(BUILD)/perf/%: $(BUILD)/perf/%.o $(BUILD)/perf/peer.o $(call objects,$(MAIN)) $(call archives,engine)
	$(call say,LD,$@)
	$(Q)$(CC) $(SAN) -pthread $(addprefix -Wl$(comma)--wrap=,$(WRAP_$*)) -o $@ $^ $(call libraries,engine)
