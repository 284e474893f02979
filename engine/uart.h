/* A 16550A UART: what the guest sends is an output, what it receives is a CONSOLE_RX input. */
#pragma once

#include "engine/device.h"

#define UART_FIFO 16
#define UART_RX_QUEUE 4096 /* the line: bytes on their way into the FIFO */

struct uart {
	uint8_t ier, fcr, lcr, mcr, scr, dll, dlm;
	uint8_t thr_empty_pending; /* a THRE interrupt has not been read away yet */
	uint8_t rx_overrun, pad[3];
	uint32_t rx_head, rx_count;
	uint8_t rx[UART_RX_QUEUE];
};

void uart_reset(struct uart *uart);
uint8_t uart_read(struct uart *uart, struct device_env *env, unsigned reg); /* 0 to 7 */
void uart_write(struct uart *uart, struct device_env *env, unsigned reg, uint8_t value);
/* Bytes that uart_receive would take now. */
size_t uart_room(const struct uart *uart);
void uart_receive(struct uart *uart, struct device_env *env, const uint8_t *bytes, size_t count);
