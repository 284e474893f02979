/*
 * A 16550A UART: what the guest sends is an output, what it receives is a CONSOLE_RX input.
 *
 * It has no speed: a byte leaves with the write that sends it, and the receive FIFO fills from the
 * line whenever there is room, so the guest never loses input that uart_room allowed. The interrupt
 * line does not depend on OUT2. Modem status is constant (CTS, DSR and DCD), except in loopback.
 */
#pragma once

#include "engine/device.h"

#define UART_FIFO 16
#define UART_RX_QUEUE 4096 /* the line: bytes on their way into the FIFO */

struct uart {
	uint8_t ier, fcr, lcr, mcr, scr, dll, dlm;
	uint8_t thr_empty_pending; /* a THRE interrupt has not been read away yet */
	uint8_t rx_overrun;
	uint8_t msr_delta; /* MSR bits 0 to 3 */
	uint8_t pad[2];
	uint32_t rx_head, rx_count;
	uint8_t rx[UART_RX_QUEUE];
};
_Static_assert(sizeof(struct uart) == 20 + UART_RX_QUEUE, "saved as it is");

void uart_reset(struct uart *uart);
uint8_t uart_read(struct uart *uart, struct device_env *env, unsigned reg); /* 0 to 7 */
void uart_write(struct uart *uart, struct device_env *env, unsigned reg, uint8_t value);
/* Bytes that uart_receive would take now; none in loopback, when the line is cut. */
size_t uart_room(const struct uart *uart);
/* Bytes beyond uart_room are lost, the same everywhere, and the guest sees an overrun. */
void uart_receive(struct uart *uart, struct device_env *env, const uint8_t *bytes, size_t count);
