#include "tests/tile_unit.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

#if defined(__x86_64__)

#include "kernels/amx/amx.h"

#include <immintrin.h>
#include <ucontext.h>

#define N_TILES 8
#define MAX_LINES 16
#define LINE_BYTES 64

struct tile {
	uint8_t lines[MAX_LINES][LINE_BYTES];
	size_t rows, row_bytes;
};

/* The unit's state belongs to a thread, as in the hardware. */
static _Thread_local struct {
	bool configured;
	struct tile tiles[N_TILES];
} unit;

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

static void refuse(const char *what)
{
	fprintf(stderr, "the tile unit refuses: %s\n", what);
	abort();
}

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

static void load_config(const uint8_t *config)
{
	if (config[0] != 1 || config[1] != 0)
		refuse("a palette other than 1, or a start row");
	memset(&unit, 0, sizeof(unit));
	unit.configured = true;
	for (size_t t = 0; t < 16; t++) {
		size_t row_bytes = config[16 + 2 * t] | config[17 + 2 * t] << 8;
		size_t rows = config[48 + t];

		if (rows > (t < N_TILES ? MAX_LINES : 0) ||
			row_bytes > (t < N_TILES ? LINE_BYTES : 0) || !rows != !row_bytes)
			refuse("a tile's size");
		if (t < N_TILES)
			unit.tiles[t] = (struct tile){.rows = rows, .row_bytes = row_bytes};
	}
}

static struct tile *tile_of(size_t number)
{
	if (!unit.configured || number >= N_TILES || unit.tiles[number].rows == 0)
		refuse("a tile that is not configured");
	return &unit.tiles[number];
}

static void tile_load(struct tile *t, const uint8_t *from, int64_t stride)
{
	memset(t->lines, 0, sizeof(t->lines));
	for (size_t r = 0; r < t->rows; r++)
		memcpy(t->lines[r], from + (int64_t)r * stride, t->row_bytes);
}

static void tile_store(const struct tile *t, uint8_t *to, int64_t stride)
{
	for (size_t r = 0; r < t->rows; r++)
		memcpy(to + (int64_t)r * stride, t->lines[r], t->row_bytes);
}

/* One chain of even terms and one of odd ones, both from zero; then even + odd; then the sum. To
 * nearest even, and numbers below 2^-126 are 0 as inputs and as results. */
__attribute__((target("avx512f"))) static void row_bf16(
	uint8_t *sums, const uint8_t *a, const struct tile *b)
{
	__m512 even = _mm512_setzero_ps(), odd = _mm512_setzero_ps();

	for (size_t k = 0; k < b->rows; k++) {
		__m512i line = _mm512_loadu_si512(b->lines[k]);
		uint32_t pair;

		memcpy(&pair, a + 4 * k, sizeof(pair));
		even = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_set1_epi32((int)(pair << 16))),
			_mm512_castsi512_ps(_mm512_slli_epi32(line, 16)), even);
		odd = _mm512_fmadd_ps(
			_mm512_castsi512_ps(_mm512_set1_epi32((int)(pair & 0xffff0000))),
			_mm512_castsi512_ps(
				_mm512_and_si512(line, _mm512_set1_epi32((int)0xffff0000))),
			odd);
	}
	_mm512_storeu_ps(sums, _mm512_add_ps(_mm512_loadu_ps(sums), _mm512_add_ps(even, odd)));
}

static int byte_of(uint8_t byte, bool is_signed)
{
	return is_signed ? (int8_t)byte : byte;
}

static void row_int8(
	uint8_t *sums, const uint8_t *a, const struct tile *b, bool a_signed, bool b_signed)
{
	for (size_t o = 0; o < b->row_bytes / 4; o++) {
		int32_t sum;

		memcpy(&sum, sums + 4 * o, sizeof(sum));
		for (size_t i = 0; i < 4 * b->rows; i++)
			sum += byte_of(a[i], a_signed) *
			       byte_of(b->lines[i / 4][4 * o + i % 4], b_signed);
		memcpy(sums + 4 * o, &sum, sizeof(sum));
	}
}

static void dot(const struct instruction *in)
{
	struct tile *sums = tile_of(in->reg), *a = tile_of(in->rm), *b = tile_of(in->vvvv);

	if (sums == a || sums == b || a == b)
		refuse("one tile in two places of a product");
	if (a->rows != sums->rows || a->row_bytes / 4 != b->rows || b->row_bytes != sums->row_bytes)
		refuse("tiles of a product that do not fit");
	for (size_t r = 0; r < sums->rows; r++) {
		if (in->opcode == 0x5c)
			row_bf16(sums->lines[r], a->lines[r], b);
		else
			row_int8(sums->lines[r], a->lines[r], b, in->prefix & 2, in->prefix & 1);
	}
}

/* False if it is no instruction of the unit. */
static bool execute(const struct instruction *in)
{
	uint8_t *memory = (uint8_t *)in->address; /* NOLINT(performance-no-int-to-ptr) */

	switch (in->opcode << 8 | in->prefix << 4 | in->has_memory) {
	case 0x4901:
		load_config(memory + in->stride);
		return true;
	case 0x4900:
		memset(&unit, 0, sizeof(unit));
		return true;
	case 0x4930:
		tile_load(tile_of(in->reg), (const uint8_t[LINE_BYTES]){0}, 0);
		return true;
	case 0x4b31:
	case 0x4b11:
		tile_load(tile_of(in->reg), memory, in->stride);
		return true;
	case 0x4b21:
		tile_store(tile_of(in->reg), memory, in->stride);
		return true;
	case 0x5c20:
	case 0x5e00:
	case 0x5e10:
	case 0x5e20:
	case 0x5e30:
		dot(in);
		return true;
	}
	return false;
}

/* Whatever is not of the unit faults again, and then ends the program as ever. */
static void on_illegal(int number, siginfo_t *info, void *context)
{
	mcontext_t *m = &((ucontext_t *)context)->uc_mcontext;
	const unsigned int flush = 0x8040, masked = 0x1f80;
	struct instruction in;

	(void)info;
	_mm_setcsr(masked | flush);
	if (decode(&in, (const uint8_t *)m->gregs[REG_RIP], m) && execute(&in))
		m->gregs[REG_RIP] += (greg_t)in.length;
	else
		signal(number, SIG_DFL);
}

bool tile_unit_emulate(void)
{
	struct sigaction action = {.sa_sigaction = on_illegal, .sa_flags = SA_SIGINFO};

	return cpu_features_detect().avx512_bf16 && sigaction(SIGILL, &action, NULL) == 0;
}

int select_or_emulate(struct kernels *ret, const char *name, struct reason *reason)
{
	static bool is_told;
	int r = kernels_select(ret, name, reason);

	if (r != -EOPNOTSUPP || strcmp(name, "amx") != 0 || !tile_unit_emulate())
		return r;
	r = kernels_select(ret, "avx512", reason);
	if (r < 0)
		return r;
	kernels_amx(ret);
	ret->name = "amx (emulated)";
	if (!is_told)
		printf("kernel set amx: this CPU lacks the tile unit, which is emulated\n");
	is_told = true;
	return 0;
}

#else

bool tile_unit_emulate(void)
{
	return false;
}

int select_or_emulate(struct kernels *ret, const char *name, struct reason *reason)
{
	return kernels_select(ret, name, reason);
}

#endif
