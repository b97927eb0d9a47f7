#include "kernels/dropmat.h"

#include "kernels/avx2/avx2.h"
#include "kernels/avx2/lanes.h"

#define LANES 8
#define MAX_ROWS 2       /* of x at once */
#define REGISTER_GROUP 8 /* inputs of a group up to which a register holds it */
#define TABLE_CODES 8

/* How an entry is read, the same for all rows. */
struct entry_form {
	__m256i index_bits, index_mask;
	__m256 table; /* code - zero by code, repeated; for up to 3 bits */
	__m256 zero;
	__m256i code_mask;
	bool is_narrow;
	__m256i inputs; /* lanes of a register of inputs */
};

static always_inline_ struct entry_form entry_form_of(const struct dropmat *m)
{
	struct entry_form f;
	__m256i codes;

	f.index_bits = _mm256_set1_epi32((int)m->index_bits);
	f.index_mask = _mm256_set1_epi32((1 << m->index_bits) - 1);
	f.code_mask = _mm256_set1_epi32((1 << m->bits) - 1);
	f.zero = _mm256_set1_ps(m->zero);
	f.is_narrow = 1u << m->bits <= TABLE_CODES;
	codes = _mm256_and_si256(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), f.code_mask);
	f.table = _mm256_sub_ps(_mm256_cvtepi32_ps(codes), f.zero);
	f.inputs = lanes_before(m->group);
	return f;
}

/* code - zero of entries in the lowest bits of each lane; what may stand above them is dropped. */
static always_inline_ __m256 entry_values(const struct entry_form *f, __m256i entries)
{
	__m256i codes = _mm256_srlv_epi32(entries, f->index_bits);

	if (f->is_narrow)
		return _mm256_permutevar8x32_ps(f->table, codes);
	codes = _mm256_and_si256(codes, f->code_mask);
	return _mm256_sub_ps(_mm256_cvtepi32_ps(codes), f->zero);
}

/* Sums of one tile, and where it is in the groups. */
struct tile {
	__m256 sums[MAX_ROWS];
	__m256 inputs[MAX_ROWS];
	size_t left;               /* entries of this group to come */
	const float *group, *next; /* inputs of this group and of the one after it */
};

/* The next entry of every lane. */
static always_inline_ void tile_step(struct tile *p, const struct dropmat_dot *d,
	const struct entry_form *f, __m256i entries, int rows, bool in_registers)
{
	const __m256i index = _mm256_and_si256(entries, f->index_mask);
	const __m256 values = entry_values(f, entries);

	if (p->left == 0) {
		p->group = p->next;
		p->next += d->m->group;
		p->left = d->m->n_keep;
#pragma GCC unroll 4
		for (int t = 0; in_registers && t < rows; t++)
			p->inputs[t] =
				_mm256_maskload_ps(p->group + (size_t)t * d->x_stride, f->inputs);
	}
	p->left--;
#pragma GCC unroll 2
	for (int t = 0; t < rows; t++) {
		__m256 x = in_registers ? _mm256_permutevar8x32_ps(p->inputs[t], index)
					: _mm256_i32gather_ps(
						  p->group + (size_t)t * d->x_stride, index, 4);

		p->sums[t] = _mm256_fmadd_ps(values, x, p->sums[t]);
	}
}

static always_inline_ void tile_store(
	const struct tile *p, const struct dropmat_dot *d, size_t row, size_t height, int rows)
{
	const __m256i mask = lanes_before(height);
	float factors[LANES] = {0};

	dropmat_factors(factors, d->m, row, height);
#pragma GCC unroll 2
	for (int t = 0; t < rows; t++) {
		float *y = d->y + (size_t)t * d->y_stride + row;
		__m256 sum = _mm256_fmadd_ps(
			p->sums[t], _mm256_loadu_ps(factors), _mm256_maskload_ps(y, mask));

		_mm256_maskstore_ps(y, mask, sum);
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
	__m256i lanes;

	dropmat_lane_offsets(offsets, d, height, LANES);
	lanes = _mm256_loadu_si256((const void *)offsets);
	for (size_t byte = 0; byte < n_whole; byte += DROPMAT_WORD) {
		__m256i words =
			_mm256_i32gather_epi32((const int *)(const void *)(at + byte), lanes, 1);

		/* Rows stand one after the other: as many bytes of the next tile. */
		_mm_prefetch(at + LANES * (d->row_bytes + byte), _MM_HINT_T0);
#pragma GCC unroll 4
		for (int i = 0; i < DROPMAT_WORD; i += entry_bytes) {
			tile_step(&p, d, &f, words, rows, in_registers);
			words = _mm256_srli_epi32(words, 8 * entry_bytes);
		}
	}
	dropmat_last_words(last, d, at + n_whole, offsets, LANES);
	for (size_t i = n_whole; i < d->row_bytes; i += (size_t)entry_bytes) {
		__m256i words = _mm256_loadu_si256((const void *)last);

		words = _mm256_srli_epi32(words, 8 * (int)(i - n_whole));
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

#define DOTS_OF(bytes, in_registers)                                                               \
	{                                                                                          \
		dot_1_##bytes##_##in_registers, dot_2_##bytes##_##in_registers                     \
	}

/* By bytes of an entry, less 1, and by whether a group's inputs fit in registers. */
static dropmat_dot_fn *const dots[2][2][MAX_ROWS] = {
	{DOTS_OF(1, 0), DOTS_OF(1, 1)},
	{DOTS_OF(2, 0), DOTS_OF(2, 1)},
};

void avx2_dropmat_dot(float *y, size_t y_stride, const struct dropmat *m, const float *x,
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
