#include "engine/acpi.h"

#include "engine/board.h"

#include <errno.h>
#include <string.h>

#define TIMER_HZ 3579545u
#define NS_PER_S 1000000000u

/* ---- tables ---- */

/* Where each table is, from the RSDP. */
enum { AT_RSDP = 0, AT_FACS = 0x40, AT_XSDT = 0x80, AT_FADT = 0x100, AT_DSDT = 0x200 };

struct table {
	char signature[4];
	uint32_t length;
	uint8_t revision, checksum;
	char oem[6], oem_table[8];
	uint32_t oem_revision;
	char creator[4];
	uint32_t creator_revision;
} __attribute__((packed));
_Static_assert(sizeof(struct table) == 36, "ACPI's layout");

/* Where a register is. */
struct address {
	uint8_t space, bits, offset, access;
	uint64_t at;
} __attribute__((packed));

struct rsdp {
	char signature[8];
	uint8_t checksum; /* of the first 20 bytes */
	char oem[6];
	uint8_t revision;
	uint32_t rsdt, length;
	uint64_t xsdt;
	uint8_t extended_checksum, reserved[3];
} __attribute__((packed));
_Static_assert(sizeof(struct rsdp) == 36, "ACPI's layout");

struct xsdt {
	struct table head;
	uint64_t fadt;
} __attribute__((packed));

struct facs {
	char signature[4];
	uint32_t length, hardware, waking, lock, flags;
	uint64_t x_waking;
	uint8_t version, reserved[31];
} __attribute__((packed));
_Static_assert(sizeof(struct facs) == 64, "ACPI's layout");

struct fadt {
	struct table head;
	uint32_t facs, dsdt;
	uint8_t reserved_0, profile;
	uint16_t sci;
	uint32_t smi_command;
	uint8_t acpi_enable, acpi_disable, s4bios, pstate;
	uint32_t pm1a_event, pm1b_event, pm1a_control, pm1b_control, pm2_control, timer, gpe0, gpe1;
	uint8_t pm1_event_length, pm1_control_length, pm2_control_length, timer_length;
	uint8_t gpe0_length, gpe1_length, gpe1_base, cst;
	uint16_t c2_latency, c3_latency, flush_size, flush_stride;
	uint8_t duty_offset, duty_width, day_alarm, month_alarm, century;
	uint16_t boot;
	uint8_t reserved_1;
	uint32_t flags;
	struct address reset;
	uint8_t reset_value, reserved_2[3];
	uint64_t x_facs, x_dsdt;
	struct address x_pm1a_event, x_pm1b_event, x_pm1a_control, x_pm1b_control, x_pm2_control,
		x_timer, x_gpe0, x_gpe1;
} __attribute__((packed));
_Static_assert(sizeof(struct fadt) == 244, "ACPI's layout, revision 3");

enum { BOOT_LEGACY_DEVICES = 0x01, BOOT_NO_VGA = 0x04, BOOT_NO_MSI = 0x08 };
enum {
	FLAG_WBINVD = 1u << 0,
	FLAG_C1 = 1u << 2,
	FLAG_NO_POWER_BUTTON = 1u << 4, /* both: not as fixed hardware */
	FLAG_NO_SLEEP_BUTTON = 1u << 5,
	FLAG_NO_FIXED_RTC_WAKE = 1u << 6,
	FLAG_TIMER_32_BITS = 1u << 8,
	FLAG_RESET = 1u << 10,
};
enum { NO_C2 = 101, NO_C3 = 1001 }; /* latencies that say so */

#define SLEEP_TYPE_5 5

/* Name (\_S5, Package (4) {5, 5, 0, 0}): the values for the two PM1 control blocks, of which there is one. */
static const uint8_t definitions[] = {
	0x08,                           /* NameOp */
	0x5c, '_', 'S', '5', '_',       /* \_S5_ */
	0x12, 0x08, 0x04,               /* PackageOp, its length, four elements */
	0x0a, SLEEP_TYPE_5,             /* BytePrefix */
	0x0a, SLEEP_TYPE_5, 0x00, 0x00, /* ZeroOp */
};

/*
 * Device (VIOn) {Name (_HID, "LNRO0005") Name (_UID, n) Name (_CRS, ResourceTemplate () {Memory32Fixed
 * (ReadWrite, address, size) Interrupt (ResourceConsumer, Level, ActiveHigh, Exclusive) {line}})}: what
 * Linux knows a virtio-mmio device by. A length counts its own byte and all that follows of its object.
 */
struct virtio_definition {
	uint8_t device[3];
	char name[4];
	uint8_t hid[15], uid[6], number, crs[9], memory[4];
	uint32_t address, size;
	uint8_t interrupt[5];
	uint32_t line;
	uint8_t end[2];
} __attribute__((packed));
_Static_assert(sizeof(struct virtio_definition) == 61, "the length in it");

/* Scope (\_SB) with the devices; its length takes two bytes, the low four bits first. */
struct virtio_definitions {
	uint8_t scope[8];
	struct virtio_definition device[BOARD_VIRTIO];
} __attribute__((packed));
#define SCOPE_LENGTH (sizeof(struct virtio_definitions) - 1)

static void define_virtio(struct virtio_definitions *all)
{
	static const struct virtio_definition template = {
		.device = {0x5b, 0x82, sizeof template - 2},
		.name = {'V', 'I', 'O', '0'},
		.hid = {0x08, '_', 'H', 'I', 'D', 0x0d, 'L', 'N', 'R', 'O', '0', '0', '0', '5', 0},
		.uid = {0x08, '_', 'U', 'I', 'D', 0x0a},
		.crs = {0x08, '_', 'C', 'R', 'S', 0x11, 26, 0x0a, 23}, /* a buffer of 23 bytes */
		.memory = {0x86, 9, 0, 1},
		.interrupt = {0x89, 6, 0, 1, 1},
		.end = {0x79, 0},
	};
	static const uint8_t scope[8] = {
		0x10, 0x40 | (SCOPE_LENGTH & 0xf), SCOPE_LENGTH >> 4, 0x5c, '_', 'S', 'B', '_'};
	memcpy(all->scope, scope, sizeof scope);
	for (unsigned i = 0; i < BOARD_VIRTIO; i++) {
		struct virtio_definition *device = &all->device[i];
		*device = template;
		device->name[3] = (char)('0' + i);
		device->number = (uint8_t)i;
		device->address = (uint32_t)board_virtio[i].address;
		device->size = board_virtio[i].size;
		device->line = board_virtio[i].line;
	}
}

static uint8_t sum(const void *bytes, size_t length)
{
	uint8_t total = 0;
	for (size_t i = 0; i < length; i++)
		total = (uint8_t)(total + ((const uint8_t *)bytes)[i]);
	return total;
}

static struct table head_of(const char *signature, uint8_t revision, size_t length)
{
	struct table head = {
		.length = (uint32_t)length,
		.revision = revision,
		.oem_revision = 1,
		.creator_revision = 1,
	};
	memcpy(head.signature, signature, sizeof head.signature);
	memcpy(head.oem, "DOPPEL", sizeof head.oem);
	memcpy(head.oem_table, "BOARD   ", sizeof head.oem_table);
	memcpy(head.creator, "DOPL", sizeof head.creator);
	return head;
}

/* Writes a table whose bytes then add up to zero. */
static void place(uint8_t *at, const void *table, size_t length)
{
	memcpy(at, table, length);
	at[offsetof(struct table, checksum)] = (uint8_t)-sum(at, length);
}

static struct address port(uint16_t at, uint8_t bits)
{
	/* Space 1 is I/O ports; access is 1 for bytes, 2 for words, 3 for double words. */
	return (struct address){.space = 1,
		.bits = bits,
		.access = bits == 8    ? 1
			  : bits == 16 ? 2
				       : 3,
		.at = at};
}

static struct fadt make_fadt(uint64_t at)
{
	return (struct fadt){
		.head = head_of("FACP", 3, sizeof(struct fadt)),
		.facs = (uint32_t)(at + AT_FACS),
		.dsdt = (uint32_t)(at + AT_DSDT),
		.sci = IRQ_ACPI,
		.pm1a_event = PORT_ACPI_EVENT,
		.pm1a_control = PORT_ACPI_CONTROL,
		.timer = PORT_ACPI_TIMER,
		.pm1_event_length = 4,
		.pm1_control_length = 2,
		.timer_length = 4,
		.c2_latency = NO_C2,
		.c3_latency = NO_C3,
		.century = 0x32, /* of the CMOS */
		.boot = BOOT_LEGACY_DEVICES | BOOT_NO_VGA | BOOT_NO_MSI,
		.flags = FLAG_WBINVD | FLAG_C1 | FLAG_NO_POWER_BUTTON | FLAG_NO_SLEEP_BUTTON |
			 FLAG_NO_FIXED_RTC_WAKE | FLAG_TIMER_32_BITS | FLAG_RESET,
		.reset = port(PORT_RESET, 8),
		.reset_value = 6,
		.x_facs = at + AT_FACS,
		.x_dsdt = at + AT_DSDT,
		.x_pm1a_event = port(PORT_ACPI_EVENT, 32),
		.x_pm1a_control = port(PORT_ACPI_CONTROL, 16),
		.x_timer = port(PORT_ACPI_TIMER, 32),
	};
}

int acpi_build(struct guest_memory *memory, gpa at)
{
	uint8_t *base = memory_write_ptr(memory, at, ACPI_TABLES_SIZE);
	if (!base || at.at % 64 != 0 || at.at > UINT32_MAX - ACPI_TABLES_SIZE)
		return fail(
			EINVAL, "the ACPI tables cannot be at %#llx", (unsigned long long)at.at);
	memset(base, 0, ACPI_TABLES_SIZE);

	struct rsdp rsdp = {.revision = 2, .length = sizeof rsdp, .xsdt = at.at + AT_XSDT};
	memcpy(rsdp.signature, "RSD PTR ", sizeof rsdp.signature);
	memcpy(rsdp.oem, "DOPPEL", sizeof rsdp.oem);
	rsdp.checksum = (uint8_t)-sum(&rsdp, 20);
	rsdp.extended_checksum = (uint8_t)-sum(&rsdp, sizeof rsdp);
	memcpy(base + AT_RSDP, &rsdp, sizeof rsdp);

	struct facs facs = {.length = sizeof facs, .version = 1};
	memcpy(facs.signature, "FACS", sizeof facs.signature);
	memcpy(base + AT_FACS, &facs, sizeof facs);

	struct xsdt xsdt = {.head = head_of("XSDT", 1, sizeof xsdt), .fadt = at.at + AT_FADT};
	place(base + AT_XSDT, &xsdt, sizeof xsdt);
	struct fadt fadt = make_fadt(at.at);
	place(base + AT_FADT, &fadt, sizeof fadt);

	struct {
		struct table head;
		uint8_t definitions[sizeof definitions];
		struct virtio_definitions virtio;
	} __attribute__((packed)) dsdt = {.head = head_of("DSDT", 2, sizeof dsdt)};
	memcpy(dsdt.definitions, definitions, sizeof definitions);
	define_virtio(&dsdt.virtio);
	_Static_assert(
		AT_DSDT + sizeof dsdt <= ACPI_TABLES_SIZE && AT_FADT + sizeof fadt <= AT_DSDT,
		"the tables do not overlap");
	place(base + AT_DSDT, &dsdt, sizeof dsdt);
	return 0;
}

/* ---- ports ---- */

enum { REG_ENABLE = 2, REG_CONTROL = PORT_ACPI_CONTROL - PORT_ACPI_EVENT };
enum {
	CONTROL_SCI = 0x0001, /* always in ACPI mode */
	CONTROL_TYPE = 0x1c00,
	CONTROL_TYPE_SHIFT = 10,
	CONTROL_SLEEP = 0x2000, /* reads as zero */
	CONTROL_KEPT = 0x0002 | CONTROL_TYPE,
};

void acpi_reset(struct acpi *acpi)
{
	memset(acpi, 0, sizeof *acpi);
}

uint8_t acpi_read(const struct acpi *acpi, unsigned reg)
{
	uint16_t value = 0;
	switch (reg & ~1u) {
	case REG_ENABLE:
		value = acpi->enable;
		break;
	case REG_CONTROL:
		value = (acpi->control & CONTROL_KEPT) | CONTROL_SCI;
		break;
	default: /* the status: nothing has happened */
		break;
	}
	return (uint8_t)(reg & 1 ? value >> 8 : value);
}

static uint16_t with_byte(uint16_t word, unsigned high, uint8_t value)
{
	return (uint16_t)(high ? (word & 0x00ff) | value << 8 : (word & 0xff00) | value);
}

void acpi_write(struct acpi *acpi, unsigned reg, uint8_t value)
{
	uint16_t control;
	switch (reg & ~1u) {
	case REG_ENABLE:
		acpi->enable = with_byte(acpi->enable, reg & 1, value);
		break;
	case REG_CONTROL:
		control = with_byte(acpi->control & CONTROL_KEPT, reg & 1, value);
		acpi->control = control & CONTROL_KEPT;
		if ((control & CONTROL_SLEEP) &&
			(control & CONTROL_TYPE) >> CONTROL_TYPE_SHIFT == SLEEP_TYPE_5)
			acpi->switched_off = 1;
		break;
	default: /* to clear what is not set */
		break;
	}
}

uint32_t acpi_timer(struct device_env *env)
{
	return (uint32_t)((unsigned __int128)env->clock(env) * TIMER_HZ / NS_PER_S);
}
