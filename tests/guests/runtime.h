/*
 * What the test guests share: a freestanding C program alone on one CPU in ring 0, without a C
 * library. start.S enters it, runtime.c runs the interrupts and the chips behind them, text.c reads
 * and writes text. There is one thread; on_interrupt() cuts into it wherever interrupts are on.
 */
#pragma once

#include "tests/guests/board.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The frame that start.S leaves: what was interrupted, and by what. */
struct registers {
	uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax;
	uint64_t vector, error;
	uint64_t rip, cs, rflags, rsp, ss;
};
_Static_assert(sizeof(struct registers) % 16 == 0, "start.S calls with this on an aligned stack");

/* The guest provides these two. guest_main's result is the machine's exit code. */
int guest_main(uint64_t memory_size, const char *command_line);
void on_interrupt(unsigned line, const struct registers *interrupted);

/* Vectors below are the CPU's exceptions. */
#define VECTOR_LINES 32

/* Another entry for a vector than the one that leads to on_interrupt(). */
void interrupt_gate(unsigned vector, void (*entry)(void));

/* Ends the machine with that exit code. */
_Noreturn void power_off(uint32_t code);

/*
 * Sets up both PICs and opens the given lines (a bit each). Line 5 is level-triggered, the others
 * are edge-triggered. With auto_eoi the PIC regards an interrupt as over once it is delivered,
 * which saves a port access each time; otherwise on_interrupt() must call pic_end().
 */
void pic_start(uint16_t lines, bool auto_eoi);
void pic_end(unsigned line);

/* Channel 0 interrupts every `divisor` / PIT_HZ seconds; 2 to 65,535. */
void pit_start(uint16_t divisor);

void uart_start(void);
void uart_write(const char *bytes, size_t length);

/* One line to the UART, "\n" added. */
void print(const char *line);

void *memcpy(void *restrict to, const void *restrict from, size_t length);
void *memset(void *to, int byte, size_t length);
int memcmp(const void *one, const void *other, size_t length);
