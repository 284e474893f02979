# Doppel. `make help` lists the targets. BUILD=dir builds elsewhere; SANITIZE=address,undefined or
# SANITIZE=thread builds with sanitizers, CRASH_POINTS=1 with the points at which the tests kill a
# process, each in a folder of its own; V=1 shows the commands.

comma := ,
BUILD ?= build$(if $(CRASH_POINTS),-crash)$(if $(SANITIZE),-$(subst $(comma),-,$(SANITIZE)))
Q := $(if $(filter 1,$(V)),,@)
say = $(if $(filter 1,$(V)),,@echo "  $(1)" $(2))

CC := gcc
CFLAGS ?= -O2 -g
WARNINGS := -Wall -Wextra -Wshadow -Wmissing-prototypes -Wconversion -Wstrict-prototypes -Wundef -Werror
SAN := $(if $(SANITIZE),-fsanitize=$(SANITIZE) -fno-omit-frame-pointer -fno-sanitize-recover=all)
ALL_CFLAGS = -std=c17 -D_GNU_SOURCE $(if $(CRASH_POINTS),-DCRASH_POINTS) -I. $(WARNINGS) $(CFLAGS) $(SAN) -msse4.2 -pthread -MMD -MP

# Only dataplane/port.c knows DPDK, whose headers warn under our flags and force their own in.
DPDK_CFLAGS = $(patsubst -I%,-isystem %,$(shell pkg-config --cflags libdpdk))
LIBS_base :=
LIBS_transport = -lisal -lxxhash -lpmem -lrdmacm -libverbs
LIBS_dataplane = $(shell pkg-config --libs libdpdk)
LIBS_engine = $(shell pkg-config --libs libevent_core libevent_pthreads jansson libsodium libarchive) -lZydis

# Lower folders first; each may use those before it, and transport and dataplane not one another.
FOLDERS := base transport dataplane engine
NEEDS_base := base
NEEDS_transport := transport base
NEEDS_dataplane := dataplane base
NEEDS_engine := engine dataplane transport base

MAIN := engine/main.c
sources = $(filter-out $(MAIN),$(wildcard $(1)/*.c))
objects = $(patsubst %.c,$(BUILD)/%.o,$(1))
archives = $(foreach f,$(NEEDS_$(1)),$(BUILD)/lib$(f).a)
libraries = $(foreach f,$(NEEDS_$(1)),$(LIBS_$(f)))

TESTS := $(foreach f,$(FOLDERS),$(patsubst %.c,%,$(wildcard tests/unit/$(f)/test_*.c)))

.PHONY: all demo unit check check-full bench bench-transport bench-linux bench-network clean help guests
all: $(BUILD)/doppel $(BUILD)/tests/client/client $(BUILD)/tests/user_kvm.so $(BUILD)/tests/lab/wire guests

help:
	@echo "make            $(BUILD)/doppel, the test guests and the test client"
	@echo "make demo       installs what is missing, and shows a guest outliving its host twice"
	@echo "make check      installs what is missing, and runs the tests, in under ten minutes"
	@echo "make check-full everything: the tests, the unit tests under each sanitizer, the harness, the whole lab"
	@echo "make unit       the unit tests alone, in seconds"
	@echo "make lab        two machines in QEMU with soft-RoCE; see tests/lab/lab.mk"
	@echo "make soak       in the lab: a stock guest and its servers outlive N=50 of their hosts"
	@echo "make bench      reports latency, log and pause"
	@echo "make bench-transport  the log's speed beside memcpy, and in the lab beside perftest"
	@echo "make bench-linux  in the lab: a stock guest and its servers, alone and protected; ROUNDS=3"
	@echo "make bench-network  in the lab: VMware FT's network table over soft-RoCE, iperf3 in a stock guest; ROUNDS=5"
	@echo "make perf       VMware FT's network table on this code; perf-quick in a minute: see perf/README.md"
	@echo "make clean      removes the build folders"
	@echo "BUILD=dir, SANITIZE=address,undefined or thread, CRASH_POINTS=1, V=1: see the Makefile's top"

$(BUILD)/doppel: $(call objects,$(MAIN)) $(call archives,engine)
	$(call say,LD,$@)
	$(Q)$(CC) $(SAN) -pthread -o $@ $^ $(call libraries,engine)

define folder_rules
$(BUILD)/lib$(1).a: $(call objects,$(call sources,$(1)))
	$$(call say,AR,$$@)
	$$(Q)rm -f $$@ && ar rcs $$@ $$^

$(BUILD)/tests/unit/$(1)/%: $(BUILD)/tests/unit/$(1)/%.o $(call archives,$(1))
	$$(call say,LD,$$@)
	$$(Q)$$(CC) $$(SAN) -pthread -o $$@ $$^ $$(call libraries,$(1)) -lcmocka
endef
$(foreach f,$(FOLDERS),$(eval $(call folder_rules,$(f))))

$(BUILD)/dataplane/port.o: ALL_CFLAGS += $(DPDK_CFLAGS)
PACKAGES_READY := $(BUILD)/packages
$(BUILD)/%.o: %.c | $(PACKAGES_READY)
	$(call say,CC,$<)
	@mkdir -p $(@D)
	$(Q)$(CC) $(ALL_CFLAGS) -c -o $@ $<

# What the build needs of Debian's packages: installed for what runs something, only named otherwise.
INSTALL := name
$(PACKAGES_READY): packages.sh
	@mkdir -p $(@D)
	$(Q)./packages.sh $(INSTALL)
	@touch $@

# Before something is run: what is missing is installed, and every processor builds.
prepare = $(Q)$(MAKE) --no-print-directory -j$(shell nproc) INSTALL=install all

include tests/guests/guests.mk
include tests/lab/lab.mk
include perf/perf.mk

USER_KVM := $(call objects,$(wildcard tests/user_kvm/*.c))
$(USER_KVM): SAN :=
$(USER_KVM): ALL_CFLAGS += -fPIC
$(BUILD)/tests/user_kvm.so: $(USER_KVM)
	$(call say,LD,$@)
	$(Q)$(CC) -shared -o $@ $^ -lZydis

$(BUILD)/tests/client/client: $(call objects,$(wildcard tests/client/*.c))
	$(call say,LD,$@)
	$(Q)$(CC) $(SAN) -pthread -o $@ $^ -lm

demo:
	$(prepare)
	$(Q)tests/demo.sh $(BUILD)

unit: $(addprefix $(BUILD)/,$(TESTS))
	$(Q)tests/run_unit.sh $^

# The unit tests, then the integration tests, which need a second build with crash points.
check:
	$(prepare)
	$(Q)BUILD=$(BUILD) tests/check.sh tests

# Everything: the above, then the unit tests under the sanitizers, the harness, and all of the lab.
check-full:
	$(prepare)
	$(Q)BUILD=$(BUILD) tests/check.sh tests sanitizers perf lab

bench:
	$(prepare)
	$(Q)BUILD=$(BUILD) tests/bench.sh

$(BUILD)/tests/bench/bench_transport: $(BUILD)/tests/bench_transport.o $(call archives,transport)
	$(call say,LD,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(SAN) -pthread -o $@ $^ $(call libraries,transport)

bench-transport:
	$(prepare) $(BUILD)/tests/bench/bench_transport
	$(Q)BUILD=$(BUILD) tests/bench_transport.sh

bench-linux:
	$(prepare)
	$(Q)BUILD=$(BUILD) tests/lab/bench_linux.sh

bench-network:
	$(prepare)
	$(Q)./packages.sh install jq
	$(Q)BUILD=$(BUILD) tests/lab/bench_network.sh

clean:
	$(Q)rm -rf build build-*

.SECONDARY:
-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
