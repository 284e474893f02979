#include "engine/uart.h"

#include <string.h>

enum {
	REG_DATA, /* with DLAB: divisor, low */
	REG_IER,  /* with DLAB: divisor, high */
	REG_IIR_FCR,
	REG_LCR,
	REG_MCR,
	REG_LSR,
	REG_MSR,
	REG_SCRATCH,
};
enum { IER_RX = 0x01, IER_THR_EMPTY = 0x02, IER_LINE = 0x04, IER_MODEM = 0x08, IER_BITS = 0x0f };
enum {
	IIR_MODEM = 0x00,
	IIR_NONE = 0x01,
	IIR_THR_EMPTY = 0x02,
	IIR_RX = 0x04,
	IIR_LINE = 0x06,
	IIR_RX_TIMEOUT = 0x0c,
	IIR_FIFO = 0xc0,
};
enum { FCR_ENABLE = 0x01, FCR_CLEAR_RX = 0x02, FCR_TRIGGER_SHIFT = 6, FCR_KEPT = 0xc9 };
enum { LCR_DLAB = 0x80 };
enum {
	MCR_BITS = 0x1f,
	MCR_LOOPBACK = 0x10,
	MCR_DTR = 0x01,
	MCR_RTS = 0x02,
	MCR_OUT1 = 0x04,
	MCR_OUT2 = 0x08
};
enum { LSR_DATA = 0x01, LSR_OVERRUN = 0x02, LSR_THR_EMPTY = 0x20, LSR_IDLE = 0x40 };
enum { MSR_CTS = 0x10, MSR_DSR = 0x20, MSR_RING = 0x40, MSR_DCD = 0x80, MSR_RING_ENDED = 0x04 };

static uint32_t queued(const struct uart *uart)
{
	return uart->rx_count < UART_RX_QUEUE ? uart->rx_count : UART_RX_QUEUE;
}

static uint32_t trigger_level(const struct uart *uart)
{
	static const uint8_t levels[4] = {1, 4, 8, 14};
	return uart->fcr & FCR_ENABLE ? levels[uart->fcr >> FCR_TRIGGER_SHIFT] : 1;
}

static uint8_t modem_lines(const struct uart *uart)
{
	if (!(uart->mcr & MCR_LOOPBACK))
		return MSR_CTS | MSR_DSR | MSR_DCD;
	return (uint8_t)((uart->mcr & MCR_RTS ? MSR_CTS : 0) | (uart->mcr & MCR_DTR ? MSR_DSR : 0) |
			 (uart->mcr & MCR_OUT1 ? MSR_RING : 0) |
			 (uart->mcr & MCR_OUT2 ? MSR_DCD : 0));
}

/* The reason of highest priority, as IIR shows it. */
static uint8_t reason(const struct uart *uart)
{
	if ((uart->ier & IER_LINE) && uart->rx_overrun)
		return IIR_LINE;
	/* No byte is ever on its way: fewer bytes than the trigger have timed out at once. */
	if ((uart->ier & IER_RX) && queued(uart))
		return queued(uart) >= trigger_level(uart) ? IIR_RX : IIR_RX_TIMEOUT;
	if ((uart->ier & IER_THR_EMPTY) && uart->thr_empty_pending)
		return IIR_THR_EMPTY;
	if ((uart->ier & IER_MODEM) && uart->msr_delta)
		return IIR_MODEM;
	return IIR_NONE;
}

static void update_line(struct uart *uart, struct device_env *env)
{
	env->irq(env, IRQ_UART, reason(uart) != IIR_NONE);
}

static void push(struct uart *uart, uint8_t byte)
{
	uint32_t count = queued(uart);
	if (count == UART_RX_QUEUE) {
		uart->rx_overrun = 1;
		return;
	}
	uart->rx[(uart->rx_head % UART_RX_QUEUE + count) % UART_RX_QUEUE] = byte;
	uart->rx_count = count + 1;
}

static void drop(struct uart *uart, uint32_t count)
{
	uart->rx_head = (uart->rx_head % UART_RX_QUEUE + count) % UART_RX_QUEUE;
	uart->rx_count = queued(uart) - count;
}

static uint8_t pop(struct uart *uart)
{
	if (!queued(uart))
		return 0;
	uint8_t byte = uart->rx[uart->rx_head % UART_RX_QUEUE];
	drop(uart, 1);
	return byte;
}

void uart_reset(struct uart *uart)
{
	memset(uart, 0, sizeof *uart);
	uart->dll = 1; /* 115,200 */
}

static void transmit(struct uart *uart, struct device_env *env, uint8_t byte)
{
	/* The interrupt falls and rises with each byte: an edge-triggered controller sees every
	 * one. */
	uart->thr_empty_pending = 0;
	update_line(uart, env);
	if (uart->mcr & MCR_LOOPBACK)
		push(uart, byte);
	else
		env->output(env, OUTPUT_CONSOLE, &byte, 1);
	uart->thr_empty_pending = 1;
}

static void write_fcr(struct uart *uart, uint8_t value)
{
	bool toggled = (uart->fcr ^ value) & FCR_ENABLE;
	if (toggled || (value & (FCR_ENABLE | FCR_CLEAR_RX)) == (FCR_ENABLE | FCR_CLEAR_RX)) {
		uint32_t count = queued(uart), in_fifo = uart->fcr & FCR_ENABLE ? UART_FIFO : 1;
		drop(uart, count < in_fifo ? count : in_fifo);
	}
	uart->fcr = value & FCR_ENABLE ? value & FCR_KEPT : 0;
}

static void write_mcr(struct uart *uart, uint8_t value)
{
	uint8_t before = modem_lines(uart);
	uart->mcr = value & MCR_BITS;
	uint8_t changed = (before ^ modem_lines(uart)) >> 4;
	/* Of RING only the end counts. */
	if (!(before & MSR_RING))
		changed &= (uint8_t)~MSR_RING_ENDED;
	uart->msr_delta |= changed;
}

uint8_t uart_read(struct uart *uart, struct device_env *env, unsigned reg)
{
	uint8_t value = 0;
	switch (reg & 7u) {
	case REG_DATA:
		value = uart->lcr & LCR_DLAB ? uart->dll : pop(uart);
		break;
	case REG_IER:
		value = uart->lcr & LCR_DLAB ? uart->dlm : uart->ier;
		break;
	case REG_IIR_FCR:
		value = reason(uart);
		if (value == IIR_THR_EMPTY)
			uart->thr_empty_pending = 0;
		value |= uart->fcr & FCR_ENABLE ? IIR_FIFO : 0;
		break;
	case REG_LCR:
		value = uart->lcr;
		break;
	case REG_MCR:
		value = uart->mcr;
		break;
	case REG_LSR:
		value = (uint8_t)(LSR_THR_EMPTY | LSR_IDLE | (queued(uart) ? LSR_DATA : 0) |
				  (uart->rx_overrun ? LSR_OVERRUN : 0));
		uart->rx_overrun = 0;
		break;
	case REG_MSR:
		value = modem_lines(uart) | uart->msr_delta;
		uart->msr_delta = 0;
		break;
	default:
		value = uart->scr;
	}
	update_line(uart, env);
	return value;
}

void uart_write(struct uart *uart, struct device_env *env, unsigned reg, uint8_t value)
{
	switch (reg & 7u) {
	case REG_DATA:
		if (uart->lcr & LCR_DLAB)
			uart->dll = value;
		else
			transmit(uart, env, value);
		break;
	case REG_IER:
		if (uart->lcr & LCR_DLAB) {
			uart->dlm = value;
			break;
		}
		/* Asking for THRE while the register is empty, which it always is, is a reason by
		 * itself. */
		if ((uart->ier ^ value) & IER_THR_EMPTY)
			uart->thr_empty_pending = !!(value & IER_THR_EMPTY);
		uart->ier = value & IER_BITS;
		break;
	case REG_IIR_FCR:
		write_fcr(uart, value);
		break;
	case REG_LCR:
		uart->lcr = value;
		break;
	case REG_MCR:
		write_mcr(uart, value);
		break;
	case REG_SCRATCH:
		uart->scr = value;
		break;
	default: /* LSR and MSR: for a factory's tests only */
		break;
	}
	update_line(uart, env);
}

size_t uart_room(const struct uart *uart)
{
	return uart->mcr & MCR_LOOPBACK ? 0 : UART_RX_QUEUE - queued(uart);
}

void uart_receive(struct uart *uart, struct device_env *env, const uint8_t *bytes, size_t count)
{
	size_t taken = uart_room(uart);
	if (count > taken)
		uart->rx_overrun = 1;
	else
		taken = count;
	for (size_t i = 0; i < taken; i++)
		push(uart, bytes[i]);
	update_line(uart, env);
}
