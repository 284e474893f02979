/*
 * A guest's work in ring 3. Where KVM is software, ring 0 is emulated, two million instructions a second, and
 * ring 3 runs at the processor's own speed; so a guest that is to be fast sets itself up in ring 0 and stays
 * in ring 3 from then on. There it has all of memory, the devices' registers too, no ports, and interrupts
 * are off but while it sleeps.
 */
#pragma once

/* Goes on in `program`, in ring 3, with a stack of its own. Of the interrupts it takes only the network device's,
 * which wakes it. */
_Noreturn void ring_3_run(void (*program)(void));

/* Sleeps until the network device's interrupt, and ends that. From ring 3. */
void ring_3_sleep(void);
