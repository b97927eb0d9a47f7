#include "tests/emulated/tile_traps.h"

#ifdef __x86_64__

#include "kernels/kernels.h"
#include "tests/emulated/tile_unit.h"

#include <signal.h>
#include <string.h>
#include <ucontext.h>

/* A VEX instruction of the map 0F38. */
struct instruction {
	uint8_t prefix; /* 0: none, 1: 66, 2: F3, 3: F2 */
	uint8_t opcode;
	uint8_t reg, rm, vvvv;
	bool has_memory;
	uintptr_t address;
	int64_t stride; /* the scaled index; it is not in the address */
	size_t length;
};

static int64_t general_register(const mcontext_t *m, unsigned int number)
{
	static const int places[] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI,
		REG_RDI, REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

	return m->gregs[places[number]];
}

/* Displacement of `bytes` bytes, signed. */
static int64_t displacement(const uint8_t *at, size_t bytes)
{
	int32_t wide = 0;

	if (bytes == 1)
		return (int8_t)*at;
	memcpy(&wide, at, bytes);
	return wide;
}

/* The address that ModRM, at `at`, and what follows it name. */
static void decode_memory(
	struct instruction *in, const uint8_t *code, size_t at, const mcontext_t *m, uint8_t vex)
{
	unsigned int mod = code[at] >> 6, rm = code[at] & 7, base = rm;
	size_t disp_bytes = mod == 1 ? 1 : mod == 2 ? 4 : 0;
	bool relative = mod == 0 && rm == 5, no_base = relative;

	at++;
	if (rm == 4) {
		unsigned int index = (code[at] >> 3 & 7) | (vex & 0x40 ? 0 : 8);

		base = code[at] & 7;
		no_base = mod == 0 && base == 5;
		if (index != 4)
			in->stride = general_register(m, index) * (1 << (code[at] >> 6));
		at++;
	}
	if (no_base)
		disp_bytes = 4;
	else
		in->address = (uintptr_t)general_register(m, base | (vex & 0x20 ? 0u : 8u));
	in->address += (uintptr_t)displacement(code + at, disp_bytes);
	in->length = at + disp_bytes;
	if (relative)
		in->address += (uintptr_t)code + in->length;
}

/* False if it is none of the map 0F38. */
static bool decode(struct instruction *ret, const uint8_t *code, const mcontext_t *m)
{
	if (code[0] != 0xc4 || (code[1] & 0x1f) != 2)
		return false;
	*ret = (struct instruction){
		.prefix = code[2] & 3,
		.opcode = code[3],
		.reg = code[4] >> 3 & 7,
		.rm = code[4] & 7,
		.vvvv = ~(code[2] >> 3) & 15,
		.has_memory = code[4] >> 6 != 3,
		.length = 5,
	};
	if (ret->has_memory)
		decode_memory(ret, code, 4, m, code[1]);
	return true;
}

/* False if it is no instruction of the unit. */
static bool execute(const struct instruction *in)
{
	uint8_t *memory = (uint8_t *)in->address; /* NOLINT(performance-no-int-to-ptr) */

	switch (in->opcode << 8 | in->prefix << 4 | in->has_memory) {
	case 0x4901:
		tile_unit_load_config(memory + in->stride);
		return true;
	case 0x4900:
		tile_unit_release();
		return true;
	case 0x4930:
		tile_unit_zero(in->reg);
		return true;
	case 0x4b31:
	case 0x4b11:
		tile_unit_load(in->reg, memory, in->stride);
		return true;
	case 0x4b21:
		tile_unit_store(in->reg, memory, in->stride);
		return true;
	case 0x5c20:
		tile_unit_dot_bf16(in->reg, in->rm, in->vvvv);
		return true;
	case 0x5e00:
	case 0x5e10:
	case 0x5e20:
	case 0x5e30:
		tile_unit_dot_int8(in->reg, in->rm, in->vvvv, in->prefix & 2, in->prefix & 1);
		return true;
	}
	return false;
}

/* Whatever is not of the unit faults again, and then ends the program as ever. */
static void on_illegal(int number, siginfo_t *info, void *context)
{
	mcontext_t *m = &((ucontext_t *)context)->uc_mcontext;
	struct instruction in;

	(void)info;
	if (decode(&in, (const uint8_t *)m->gregs[REG_RIP], m) && execute(&in))
		m->gregs[REG_RIP] += (greg_t)in.length;
	else
		signal(number, SIG_DFL);
}

bool tile_traps_set(void)
{
	struct sigaction action = {.sa_sigaction = on_illegal, .sa_flags = SA_SIGINFO};

	return cpu_features_detect().avx512_bf16 && sigaction(SIGILL, &action, NULL) == 0;
}

#else

bool tile_traps_set(void)
{
	return false;
}

#endif
