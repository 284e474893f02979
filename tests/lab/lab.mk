# The lab: two machines in QEMU. Part of the top Makefile.
#
#   make lab                         all scenarios
#   make lab SCENARIO=kvm            one of them: tests/lab/scenarios/kvm.sh
#   make lab SHELL=1                 no scenario: a prompt, and a shell on each machine
#   make lab SCENARIO=kvm SHELL=1    a prompt behind the scenario
#   make soak N=50                   the scenario servers with that many failovers, about 20 s each where the README's were

# SHELL is make's own word for what runs its commands, and the command line overrides the makefile.
ifeq ($(SHELL),1)
override SHELL := /bin/sh
LAB_SHELL := 1
endif
scenario = $(SCENARIO:%=tests/lab/scenarios/%.sh)

all: $(BUILD)/tests/lab/crowd $(BUILD)/tests/lab/guest/attack

$(BUILD)/tests/lab/%: $(BUILD)/tests/lab/%.o
	$(call say,LD,$@)
	$(Q)$(CC) $(SAN) -o $@ $^

# For a guest that has nothing else.
$(BUILD)/tests/lab/guest/attack: tests/lab/guest/attack.c
	$(call say,LD,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) -std=c17 -D_GNU_SOURCE $(WARNINGS) -O2 -static -o $@ $<

.PHONY: lab soak
soak:
	$(prepare)
	$(Q)BUILD=$(BUILD) FAILOVERS=$(or $(N),50) tests/lab/scenarios/servers.sh

lab:
	$(prepare)
ifdef LAB_SHELL
	$(Q)BUILD=$(BUILD) LAB_SHELL=1 $(or $(scenario),tests/lab/prompt.sh)
else
	$(Q)BUILD=$(BUILD) TEST_SECONDS=1500 tests/run_integration.sh $(or $(scenario),tests/lab/scenarios/*.sh)
endif
