#include "engine/rdtsc.h"

#include <Zydis/Zydis.h>

#define IN_EAX_IMM8 0xe5u

unsigned rdtsc_replace(uint8_t *code, size_t length)
{
	ZydisDecoder decoder;
	ZydisDecodedInstruction instruction;
	unsigned count = 0;
	if (ZYAN_FAILED(
		    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64)))
		return 0;
	/* What cannot be decoded is padding or a table; code begins again behind it. */
	for (size_t at = 0; at < length;) {
		if (ZYAN_FAILED(ZydisDecoderDecodeInstruction(
			    &decoder, NULL, code + at, length - at, &instruction))) {
			at++;
			continue;
		}
		if (instruction.mnemonic == ZYDIS_MNEMONIC_RDTSC && instruction.length == 2) {
			code[at] = IN_EAX_IMM8;
			code[at + 1] = PORT_TSC;
			count++;
		}
		at += instruction.length;
	}
	return count;
}
