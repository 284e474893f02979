# The test guests: $(BUILD)/guests/ledger.elf, hammer.elf and stream.elf. Part of the top Makefile; alone, from the
# top folder: make -f tests/guests/guests.mk BUILD=/somewhere guests

BUILD ?= build
ifeq ($(origin say),undefined)
Q := $(if $(filter 1,$(V)),,@)
say = $(if $(filter 1,$(V)),,@echo "  $(1)" $(2))
CC := gcc
WARNINGS := -Wall -Wextra -Wshadow -Wmissing-prototypes -Wconversion -Wstrict-prototypes -Wundef -Werror
endif

# Neither a C library nor SSE state; no red zone, since interrupts use the stack that they find. Where
# guests are emulated they pay for each instruction: optimising all files together saves a fifth.
GUEST_CFLAGS := -std=c17 -ffreestanding -mgeneral-regs-only -mno-red-zone -fno-pic -fno-stack-protector \
	-fno-asynchronous-unwind-tables -fcf-protection=none -O3 -flto -g -I. $(WARNINGS)
GUEST_LDFLAGS := -nostdlib -static -no-pie -Wl,-T,tests/guests/guest.ld -Wl,--build-id=none -Wl,-z,noexecstack

guest_objects = $(patsubst %,$(BUILD)/guests/%.o,$(1))
GUEST_RUNTIME := start runtime text memory

.PHONY: guests
guests: $(foreach guest,ledger hammer stream,$(BUILD)/guests/$(guest).elf)

$(BUILD)/guests/ledger.elf: $(call guest_objects,$(GUEST_RUNTIME) net ip book ledger)
$(BUILD)/guests/hammer.elf: $(call guest_objects,$(GUEST_RUNTIME) operations hammer)
$(BUILD)/guests/stream.elf: $(call guest_objects,$(GUEST_RUNTIME) ring_3 gates large/net large/stream)

$(BUILD)/guests/memory.o: GUEST_CFLAGS += -fno-lto

$(BUILD)/guests/%.elf: tests/guests/guest.ld
	$(call say,LD,$@)
	$(Q)$(CC) $(GUEST_CFLAGS) $(GUEST_LDFLAGS) -o $@ $(filter %.o,$^)

# With room for frames of 64 KiB.
$(BUILD)/guests/large/%.o: tests/guests/%.c | $(PACKAGES_READY)
	$(call say,CC,$<)
	@mkdir -p $(@D)
	$(Q)$(CC) $(GUEST_CFLAGS) -DNET_ROOM=65584 -MMD -MP -c -o $@ $<

$(BUILD)/guests/%.o: tests/guests/%.c | $(PACKAGES_READY)
	$(call say,CC,$<)
	@mkdir -p $(@D)
	$(Q)$(CC) $(GUEST_CFLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/guests/%.o: tests/guests/%.S | $(PACKAGES_READY)
	$(call say,AS,$<)
	@mkdir -p $(@D)
	$(Q)$(CC) $(GUEST_CFLAGS) -MMD -MP -c -o $@ $<

-include $(wildcard $(BUILD)/guests/*.d $(BUILD)/guests/large/*.d)
