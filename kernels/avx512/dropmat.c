#include "kernels/dropmat.h"

#include "kernels/avx512/avx512.h"
#include "kernels/avx512/lanes.h"

#define LANES 16
#define MAX_ROWS 4        /* of x at once */
#define REGISTER_GROUP 32 /* inputs of a group up to which two registers hold it */
#define TABLE_CODES 32

/* How an entry is read, the same for all rows. */
struct entry_form {
	__m512i index_bits, index_mask;
	__m512 table[2]; /* code - zero by code, repeated; for up to 5 bits */
	__m512 zero;
	__m512i code_mask;
	bool is_narrow;
	__mmask16 low, high; /* of the two registers of inputs */
};

static always_inline_ struct entry_form entry_form_of(const struct dropmat *m)
{
	const __m512i lanes =
		_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
	struct entry_form f;

	f.index_bits = _mm512_set1_epi32((int)m->index_bits);
	f.index_mask = _mm512_set1_epi32((1 << m->index_bits) - 1);
	f.code_mask = _mm512_set1_epi32((1 << m->bits) - 1);
	f.zero = _mm512_set1_ps(m->zero);
	f.is_narrow = 1u << m->bits <= TABLE_CODES;
	for (int i = 0; i < 2; i++) {
		__m512i codes = _mm512_add_epi32(lanes, _mm512_set1_epi32(i * LANES));

		codes = _mm512_and_si512(codes, f.code_mask);
		f.table[i] = _mm512_sub_ps(_mm512_cvtepi32_ps(codes), f.zero);
	}
	f.low = lanes_of_vector(0, m->group);
	f.high = lanes_of_vector(1, m->group);
	return f;
}

/* code - zero of entries in the lowest bits of each lane; what may stand above them is dropped. */
static always_inline_ __m512 entry_values(const struct entry_form *f, __m512i entries)
{
	__m512i codes = _mm512_srlv_epi32(entries, f->index_bits);

	if (f->is_narrow)
		return _mm512_permutex2var_ps(f->table[0], codes, f->table[1]);
	codes = _mm512_and_si512(codes, f->code_mask);
	return _mm512_sub_ps(_mm512_cvtepi32_ps(codes), f->zero);
}

/* Sums of one tile, and where it is in the groups. */
struct tile {
	__m512 sums[MAX_ROWS];
	__m512 inputs[MAX_ROWS][2];
	size_t left;               /* entries of this group to come */
	const float *group, *next; /* inputs of this group and of the one after it */
};

/* The next entry of every lane. */
static always_inline_ void tile_step(struct tile *p, const struct dropmat_dot *d,
	const struct entry_form *f, __m512i entries, int rows, bool in_registers)
{
	const __m512i index = _mm512_and_si512(entries, f->index_mask);
	const __m512 values = entry_values(f, entries);

	if (p->left == 0) {
		p->group = p->next;
		p->next += d->m->group;
		p->left = d->m->n_keep;
#pragma GCC unroll 4
		for (int t = 0; in_registers && t < rows; t++) {
			const float *x = p->group + (size_t)t * d->x_stride;

			p->inputs[t][0] = _mm512_maskz_loadu_ps(f->low, x);
			p->inputs[t][1] = _mm512_maskz_loadu_ps(f->high, x + LANES);
		}
	}
	p->left--;
#pragma GCC unroll 4
	for (int t = 0; t < rows; t++) {
		__m512 x =
			in_registers
				? _mm512_permutex2var_ps(p->inputs[t][0], index, p->inputs[t][1])
				: _mm512_i32gather_ps(index, p->group + (size_t)t * d->x_stride, 4);

		p->sums[t] = _mm512_fmadd_ps(values, x, p->sums[t]);
	}
}

static always_inline_ void tile_store(
	const struct tile *p, const struct dropmat_dot *d, size_t row, size_t height, int rows)
{
	const __mmask16 mask = lanes_before(height);
	float factors[LANES] = {0};

	dropmat_factors(factors, d->m, row, height);
#pragma GCC unroll 4
	for (int t = 0; t < rows; t++) {
		float *y = d->y + (size_t)t * d->y_stride + row;
		__m512 sum = _mm512_fmadd_ps(
			p->sums[t], _mm512_loadu_ps(factors), _mm512_maskz_loadu_ps(mask, y));

		_mm512_mask_storeu_ps(y, mask, sum);
	}
}

static always_inline_ void dot_tile(const struct dropmat_dot *d, size_t row, size_t height,
	int rows, int entry_bytes, bool in_registers)
{
	const char *at = (const char *)d->m->entries + row * d->row_bytes;
	const size_t n_whole = d->row_bytes / DROPMAT_WORD * DROPMAT_WORD;
	const struct entry_form f = entry_form_of(d->m);
	struct tile p = {.next = d->x};
	int32_t offsets[LANES];
	uint32_t last[LANES];
	__m512i lanes;

	dropmat_lane_offsets(offsets, d, height, LANES);
	lanes = _mm512_loadu_si512(offsets);
	for (size_t byte = 0; byte < n_whole; byte += DROPMAT_WORD) {
		__m512i words = _mm512_i32gather_epi32(lanes, at + byte, 1);

		/* Rows stand one after the other: as many bytes of the next tile. */
		_mm_prefetch(at + LANES * (d->row_bytes + byte), _MM_HINT_T0);
#pragma GCC unroll 4
		for (int i = 0; i < DROPMAT_WORD; i += entry_bytes) {
			tile_step(&p, d, &f, words, rows, in_registers);
			words = _mm512_srli_epi32(words, 8 * (unsigned int)entry_bytes);
		}
	}
	dropmat_last_words(last, d, at + n_whole, offsets, LANES);
	for (size_t i = n_whole; i < d->row_bytes; i += (size_t)entry_bytes) {
		__m512i words = _mm512_loadu_si512(last);

		words = _mm512_srli_epi32(words, 8 * (unsigned int)(i - n_whole));
		tile_step(&p, d, &f, words, rows, in_registers);
	}
	tile_store(&p, d, row, height, rows);
}

#define DOT(rows, bytes, in_registers)                                                             \
	static void dot_##rows##_##bytes##_##in_registers(                                         \
		const struct dropmat_dot *d, size_t row, size_t height)                            \
	{                                                                                          \
		dot_tile(d, row, height, rows, bytes, in_registers);                               \
	}
#define DOT_OF_ROWS(rows) DOT(rows, 1, 0) DOT(rows, 1, 1) DOT(rows, 2, 0) DOT(rows, 2, 1)
DOT_OF_ROWS(1)
DOT_OF_ROWS(2)
DOT_OF_ROWS(3)
DOT_OF_ROWS(4)

#define DOTS_OF(bytes, in_registers)                                                               \
	{                                                                                          \
		dot_1_##bytes##_##in_registers, dot_2_##bytes##_##in_registers,                    \
			dot_3_##bytes##_##in_registers, dot_4_##bytes##_##in_registers             \
	}

/* By bytes of an entry, less 1, and by whether a group's inputs fit in registers. */
static dropmat_dot_fn *const dots[2][2][MAX_ROWS] = {
	{DOTS_OF(1, 0), DOTS_OF(1, 1)},
	{DOTS_OF(2, 0), DOTS_OF(2, 1)},
};

void avx512_dropmat_dot(float *y, size_t y_stride, const struct dropmat *m, const float *x,
	size_t x_stride, size_t n, size_t row0, size_t row1)
{
	const struct dropmat_dot d = {
		.y = y,
		.y_stride = y_stride,
		.m = m,
		.x = x,
		.x_stride = x_stride,
	};
	bool is_wide = dropmat_entry_bits(m->index_bits, m->bits) == 16;
	const struct dropmat_set set = {
		.n_lanes = LANES,
		.max_rows = MAX_ROWS,
		.fns = dots[is_wide][m->group <= REGISTER_GROUP],
	};

	dropmat_dot_by_rows(d, n, &set, row0, row1);
}
