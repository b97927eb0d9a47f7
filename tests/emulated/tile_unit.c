#include "tests/emulated/tile_unit.h"

#ifdef __x86_64__

#include <immintrin.h>
#include <stdio.h>
#include <string.h>

#define N_TILES 8
#define MAX_LINES 16
#define LINE_BYTES 64

/* Bytes past rows and row_bytes are zero. */
struct tile {
	uint8_t lines[MAX_LINES][LINE_BYTES];
	size_t rows, row_bytes;
};

/* The unit's state belongs to a thread, as in the hardware. */
static _Thread_local struct {
	bool configured;
	struct tile tiles[N_TILES];
} unit;

static void refuse(const char *what)
{
	fprintf(stderr, "the tile unit refuses: %s\n", what);
	abort();
}

void tile_unit_load_config(const void *config)
{
	uint8_t bytes[64];

	memcpy(bytes, config, sizeof(bytes));
	if (bytes[0] != 1 || bytes[1] != 0)
		refuse("a palette other than 1, or a start row");
	memset(&unit, 0, sizeof(unit));
	unit.configured = true;
	for (size_t t = 0; t < 16; t++) {
		size_t row_bytes = bytes[16 + 2 * t] | bytes[17 + 2 * t] << 8;
		size_t rows = bytes[48 + t];

		if (rows > (t < N_TILES ? MAX_LINES : 0) ||
			row_bytes > (t < N_TILES ? LINE_BYTES : 0) || !rows != !row_bytes)
			refuse("a tile's size");
		if (t < N_TILES)
			unit.tiles[t] = (struct tile){.rows = rows, .row_bytes = row_bytes};
	}
}

void tile_unit_release(void)
{
	memset(&unit, 0, sizeof(unit));
}

static struct tile *tile_of(unsigned int number)
{
	if (!unit.configured || number >= N_TILES || unit.tiles[number].rows == 0)
		refuse("a tile that is not configured");
	return &unit.tiles[number];
}

void tile_unit_zero(unsigned int tile)
{
	struct tile *t = tile_of(tile);

	memset(t->lines, 0, sizeof(t->lines));
}

void tile_unit_load(unsigned int tile, const void *from, ptrdiff_t stride)
{
	struct tile *t = tile_of(tile);

	memset(t->lines, 0, sizeof(t->lines));
	for (size_t r = 0; r < t->rows; r++)
		memcpy(t->lines[r], (const uint8_t *)from + (ptrdiff_t)r * stride, t->row_bytes);
}

void tile_unit_store(unsigned int tile, void *to, ptrdiff_t stride)
{
	const struct tile *t = tile_of(tile);

	for (size_t r = 0; r < t->rows; r++)
		memcpy((uint8_t *)to + (ptrdiff_t)r * stride, t->lines[r], t->row_bytes);
}

struct product {
	struct tile *sums;
	const struct tile *a, *b;
};

static struct product product_of(unsigned int sums, unsigned int a, unsigned int b)
{
	struct product p = {tile_of(sums), tile_of(a), tile_of(b)};

	if (sums == a || sums == b || a == b)
		refuse("one tile in two places of a product");
	if (p.a->rows != p.sums->rows || p.a->row_bytes / 4 != p.b->rows ||
		p.b->row_bytes != p.sums->row_bytes)
		refuse("tiles of a product that do not fit");
	return p;
}

/* One chain of even terms and one of odd ones, both from zero; then even + odd; then the sum. Never
 * inlined, so that all of it happens under its caller's rules of rounding. */
__attribute__((noinline, target("avx2,fma"))) static void row_bf16(
	uint8_t *sums, const uint8_t *a, const struct tile *b)
{
	const __m256i odd_half = _mm256_set1_epi32((int)0xffff0000);

	for (size_t half = 0; half < LINE_BYTES; half += LINE_BYTES / 2) {
		float *ret = (float *)(void *)(sums + half);
		__m256 even = _mm256_setzero_ps(), odd = _mm256_setzero_ps();

		for (size_t k = 0; k < b->rows; k++) {
			__m256i line = _mm256_loadu_si256((const void *)(b->lines[k] + half));
			uint32_t pair;

			memcpy(&pair, a + 4 * k, sizeof(pair));
			even = _mm256_fmadd_ps(
				_mm256_castsi256_ps(_mm256_set1_epi32((int)(pair << 16))),
				_mm256_castsi256_ps(_mm256_slli_epi32(line, 16)), even);
			odd = _mm256_fmadd_ps(
				_mm256_castsi256_ps(_mm256_set1_epi32((int)(pair & 0xffff0000))),
				_mm256_castsi256_ps(_mm256_and_si256(line, odd_half)), odd);
		}
		_mm256_storeu_ps(
			ret, _mm256_add_ps(_mm256_loadu_ps(ret), _mm256_add_ps(even, odd)));
	}
}

/* Whatever the thread's own rules are, the unit rounds to nearest even, takes numbers below 2^-126
 * for 0 as inputs and as results, and raises nothing. */
void tile_unit_dot_bf16(unsigned int sums, unsigned int a, unsigned int b)
{
	const unsigned int masked = 0x1f80, zeros = 0x8040, own = _mm_getcsr();
	struct product p = product_of(sums, a, b);

	_mm_setcsr(masked | zeros);
	for (size_t r = 0; r < p.sums->rows; r++)
		row_bf16(p.sums->lines[r], p.a->lines[r], p.b);
	_mm_setcsr(own);
}

static int byte_of(uint8_t byte, bool is_signed)
{
	return is_signed ? (int8_t)byte : byte;
}

/* A sum is modulo 2^32. */
static void row_int8(
	uint8_t *sums, const uint8_t *a, const struct tile *b, bool a_signed, bool b_signed)
{
	for (size_t o = 0; o < b->row_bytes / 4; o++) {
		uint32_t sum;

		memcpy(&sum, sums + 4 * o, sizeof(sum));
		for (size_t i = 0; i < 4 * b->rows; i++)
			sum += (uint32_t)(byte_of(a[i], a_signed) *
					  byte_of(b->lines[i / 4][4 * o + i % 4], b_signed));
		memcpy(sums + 4 * o, &sum, sizeof(sum));
	}
}

void tile_unit_dot_int8(
	unsigned int sums, unsigned int a, unsigned int b, bool a_signed, bool b_signed)
{
	struct product p = product_of(sums, a, b);

	for (size_t r = 0; r < p.sums->rows; r++)
		row_int8(p.sums->lines[r], p.a->lines[r], p.b, a_signed, b_signed);
}

#endif
