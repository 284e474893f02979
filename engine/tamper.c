#include "engine/tamper.h"

#ifdef CRASH_POINTS
#include <stdio.h>
#include <stdlib.h>

void tamper_after_entry(struct machine *m, uint64_t entries)
{
	const char *wish = getenv("DOPPEL_TAMPER");
	unsigned long long after, address;
	if (!wish)
		return;
	if (sscanf(wish, "register:%llu", &after) == 1 && entries >= after) {
		m->vcpu.run->s.regs.sregs.cr2 |= 1;
		m->vcpu.run->kvm_dirty_regs |= KVM_SYNC_X86_SREGS;
	}
	/* Long mode without PAE: no processor has that, and KVM says so. */
	if (sscanf(wish, "refused:%llu", &after) == 1 && entries == after) {
		m->vcpu.run->s.regs.sregs.cr4 &= ~0x20ull;
		m->vcpu.run->kvm_dirty_regs |= KVM_SYNC_X86_SREGS;
	}
	if (sscanf(wish, "memory:%llu:%lli", &after, (long long *)&address) == 2 &&
		entries == after) {
		uint8_t *byte = memory_write_ptr(&m->memory, gpa_of(address), 1);
		if (byte)
			*byte ^= 1;
	}
}
#endif
