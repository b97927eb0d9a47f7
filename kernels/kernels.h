/*
 * The arithmetic of inference as a table of functions. ref/ fills the whole table and is the
 * specification; avx2/, avx512/ and amx/ overwrite what they do better. kernels_select() makes the
 * choice once.
 *
 * Rules that hold for every entry and every set:
 *  - Activations are f32. A row of n numbers is contiguous; rows stand `stride` numbers apart.
 *  - A result depends on the row's own inputs alone: never on how many rows are passed together, in
 *    which order, or how the caller splits the range of outputs. That is what makes a request's
 *    tokens independent of its company, and it fixes the order of every sum inside a set.
 *  - Inputs and outputs may be unaligned unless said otherwise, and must not overlap unless said
 *    otherwise. A count of 0 does nothing; a sum of no terms is 0.
 *  - Accuracy: with E = 2^-24 and an inner sum of length k over terms t, |got - exact| is at most
 *    (k + 8) E sum|t|, where exact is the sum in double precision. ref/ sums in double. A term is
 *    the product of an input and an exact value of the matrix; in y += the old y is a term too.
 *  - A call may use up to 160 KiB of stack.
 */
#pragma once

#include "common/reason.h"
#include "kernels/types.h"

/* Keys and values of one sequence in one layer for one KV head, as the attention kernel sees them:
 * `page[i]` holds positions [i * page_tokens, (i + 1) * page_tokens), a row of head_dim numbers
 * each. */
struct kv_view {
	const void *const *key_pages;
	const void *const *value_pages;
	uint32_t page_tokens;
	uint32_t head_dim;
	enum kv_type type;
};

/* Query rows of one sequence at positions that follow one another, and of each row the query heads
 * that share one KV head. */
struct attend_call {
	struct kv_view kv;
	const float
		*q; /* head h of row r: head_dim numbers from q + r * stride + h * head_dim on */
	size_t stride;
	size_t n_rows, n_heads;
	size_t position; /* of row 0. Row r sees positions up to its own, position + r, */
	size_t window;   /* and of these the last `window`; 0: all */
	float scale;
};

/*
 * What the heads of a call made of some positions, [row][head], with the score of position p
 *   s_p = scale * q . k_p
 * The attention over these positions is vector / total.
 */
struct attend_sums {
	float *vectors; /* sum_p exp(s_p - highest) v_p: head_dim numbers each */
	float *highest; /* max_p s_p */
	float *totals;  /* sum_p exp(s_p - highest), or 0: no position was seen, and the vector and
			 * the highest score say nothing. NaN where a score is NaN or +infinity */
};

/* Attention goes by parts of so many positions, from position 0 on. Sums of parts are added in
 * ascending order, so that a part may be computed anywhere. */
#define ATTEND_PART 512u

struct kernels {
	const char *name; /* "ref", "avx2", "avx512", "amx" */
	/* NULL, or why the set after this one was not chosen on a CPU that has what it needs. */
	const char *declined;

	/* y[t][o] = sum_c W[o][c] x[t][c]  for t < n and outputs o in blocks [block0, block1)
	 * of 16. Outputs at or past W->rows are not written. A set that has panels may first round
	 * x by 2^-17 |x|, and take inputs, terms and sums below 2^-126 for 0. */
	void (*matmul)(float *y, size_t y_stride, const struct mat_bf16 *w, const float *x,
		size_t x_stride, size_t n, size_t block0, size_t block1);

	/*
	 * For several products with the same x: matmul_panel() gives the bits of matmul(), from a
	 * panel that panel_fill() wrote in panel_parts(n) parts, in any order or at once. A panel
	 * is 64-byte aligned and takes panel_bytes(n, cols), which does not fall as n or cols rise.
	 * NULL, all four, in a set that gains nothing by it.
	 */
	size_t (*panel_bytes)(size_t n, uint32_t cols);
	size_t (*panel_parts)(size_t n);
	void (*panel_fill)(
		void *panel, const float *x, size_t x_stride, size_t n, uint32_t cols, size_t part);
	void (*matmul_panel)(float *y, size_t y_stride, const struct mat_bf16 *w, const void *panel,
		size_t n, size_t block0, size_t block1);

	/*
	 * Rows to int8, group by group of 128: ret[g * ret_stride + t] from x[t], for t < n. With
	 * L the largest |x| of the group, a code is x * (127 / L) rounded to nearest even and the
	 * scale is L / 127; L below 2^-100 makes zeros of all. Every operation is rounded to f32 by
	 * itself, and every set gives the same bits. A number that is not finite makes the scale
	 * not finite.
	 */
	void (*act_round)(struct act_group *ret, size_t ret_stride, const float *x, size_t x_stride,
		size_t n, uint32_t cols);

	/*
	 * y[t][o] = sum_c W[o][c] x[t][c]  for t < n and outputs o in blocks [block0, block1) of
	 * 16, with x as act_round() makes it. The sum of a group is an exact integer,
	 *   s(t, o, g) = sum_c number * x code,  |s| < 2^24
	 * and the result is the chain over groups in ascending order, from y = 0, of
	 *   y = fma((float)s, x scale * W scale, y)
	 * with the product of scales rounded to f32. So every set, ref too, gives the same bits,
	 * and an implementation may be chosen by the number of rows.
	 */
	void (*matmul_int)(float *y, size_t y_stride, const struct mat_int *w,
		const struct act_group *x, size_t x_stride, size_t n, size_t block0, size_t block1);

	/* z[t][r] = sum_c M[r][c] x[t][c]  for t < n and rows r in [row0, row1): codes of a whole
	 * matrix, or the way from inputs to ranks. Every width and grid of struct qmat. Where all
	 * groups of a row have one grid, x may be rounded by E X first, with X the largest |x| of
	 * the same 1024 columns or 2^-100: the error may then be sum_c |M[r][c]| 2 E X more. */
	void (*qmat_dot)(float *z, size_t z_stride, const struct qmat *m, const float *x,
		size_t x_stride, size_t n, size_t row0, size_t row1);

	/*
	 * The same for codes, bits <= 8 and zeros from 0 to 256, with x as act_round() makes it.
	 * What a group adds is an exact integer times scales,
	 *   s(t, r, g) = sum_c 2 (code - zero) * x code,  |s| < 2^24
	 * Groups go by blocks of 32. Those of a block whose number leaves j when divided by four
	 * are a chain in ascending order, from a_j = 0, of
	 *   a_j = fma((float)s, x scale * W scale, a_j)
	 * with the product of scales rounded to f32; a scale for the whole row is not in there.
	 * Totals of blocks, (a_0 + a_2) + (a_1 + a_3), are added in ascending order, and the sum is
	 * multiplied by  step * W scale of the row / 2,  left to right. So every set gives the same
	 * bits.
	 */
	void (*qmat_dot_int)(float *z, size_t z_stride, const struct qmat *m,
		const struct act_group *x, size_t x_stride, size_t n, size_t row0, size_t row1);

	/* y[t][c] += sum_r z[t][r] M[r][c]  for t < n and columns c in groups [group0, group1) of
	 * 128: the way from ranks to outputs. Columns at or past M->cols are not touched. Every
	 * width and grid of struct qmat. */
	void (*qmat_accumulate)(float *y, size_t y_stride, const struct qmat *m, const float *z,
		size_t z_stride, size_t n, size_t group0, size_t group1);

	/*
	 * The same for codes below QMAT_MAX_BITS, whose own error is larger than that of a rounded
	 * factor, and zeros from 0 to 2^bits. Rows of the matrix go by blocks of 128. The factors
	 * of a block for a group of columns are z[t][r] * W scale(r, group), rounded to f32 and
	 * then made codes and one scale, as act_round() does it. What a block adds is an exact
	 * integer times scales,
	 *   s(t, c, block) = sum_r 2 (code - zero) * factor code,  |s| < 2^24
	 * and the result is the chain over blocks in ascending order of
	 *   y = fma((float)s, factor scale * (step / 2), y)
	 * with the product rounded to f32. So every set gives the same bits.
	 */
	void (*qmat_accumulate_int)(float *y, size_t y_stride, const struct qmat *m, const float *z,
		size_t z_stride, size_t n, size_t group0, size_t group1);

	/* y[t][r] += sum_c M[r][c] x[t][c]  over the survivors of rows r in [row0, row1), for
	 * t < n. The inner sum has as many terms as a row has entries, and y. Entries are read, not
	 * checked: each must name a column of its group. */
	void (*dropmat_dot)(float *y, size_t y_stride, const struct dropmat *m, const float *x,
		size_t x_stride, size_t n, size_t row0, size_t row1);

	/*
	 * The same, of a matrix that dropmat_takes_rounded(), with zero below 2^bits and x as
	 * act_round() makes it. Entries of a row go by fours, which add an exact integer,
	 *   s = sum 2^index_bits (code - zero) * x code,  |s| < 2^24
	 * Blocks are of 8192 columns. Fours of a block whose number leaves j when divided by 16 are
	 * a chain in ascending order, from a_j = 0, of  a_j = fma((float)s, x scale, a_j). Chains
	 * are added in pairs 8 apart, then 4, 2, 1, and then
	 *   y = fma(sum, step * W scale of the row / 2^index_bits, y)
	 * block after block. So every set gives the same bits.
	 */
	void (*dropmat_dot_int)(float *y, size_t y_stride, const struct dropmat *m,
		const struct act_group *x, size_t x_stride, size_t n, size_t row0, size_t row1);

	/* ret[c] = W[row][c]: one row of a packed matrix, for the embedding. */
	void (*mat_row)(float *ret, const struct mat_bf16 *w, uint32_t row);

	/* y[i] = x[i] * w[i] / sqrt(mean(x^2) + eps).  y may be x. */
	void (*rms_norm)(float *y, const float *x, const float *w, size_t n, float eps);

	/* Rotates pairs (x[i], x[i + n/2]) by the angles whose cosines and sines are given, n/2 of
	 * each, in place. n is even. */
	void (*rope)(float *x, const float *cosines, const float *sines, size_t n);

	/* y[i] = silu(gate[i]) * up[i], silu(v) = v / (1 + exp(-v)).  y may be gate or up.
	 * Relative error at most 1e-6, or 1e-35 |up| where that is more. */
	void (*silu_mul)(float *y, const float *gate, const float *up, size_t n);

	/* y[i] += x[i] */
	void (*add)(float *y, const float *x, size_t n);

	/* Stores a row of n numbers as `type`: to bf16 rounded to nearest even; to int8 as
	 * act_round() does it, with one scale for all n. */
	void (*kv_store)(void *ret, const float *x, size_t n, enum kv_type type);

	/*
	 * Sums of part `part`: of positions [part * ATTEND_PART, (part + 1) * ATTEND_PART). Pages
	 * are read where some row of the call sees a position of the part. `scratch` is 64-byte
	 * aligned and has attend_scratch_bytes() of kernels/attend.h. A score is a sum like any
	 * other; given the scores, a term's factor is off by at most 2e-6 of itself, or by 1e-18
	 * where that is more. Neither the page size nor a call's other rows change a result.
	 */
	void (*attend)(const struct attend_sums *ret, const struct attend_call *call, size_t part,
		void *scratch);
};

/* CPU features, as found at run time. */
struct cpu_features {
	bool avx2;   /* AVX2, FMA and F16C */
	bool avx512; /* F, BW, DQ, VL, VNNI */
	bool avx512_bf16;
	bool amx; /* tiles with int8 and bf16, and avx512_bf16; leave to use them is asked for
		   * separately */
};

struct cpu_features cpu_features_detect(void);

/*
 * The fastest set of this CPU, or the one that `force` names ("ref", "avx2", "avx512", "amx"; NULL
 * to choose). Programs pass getenv("DELTAD_ISA"). -EOPNOTSUPP, with the reason, if the name is
 * unknown, the CPU lacks it or, for tiles, the system refuses them.
 */
int kernels_select(struct kernels *ret, const char *force, struct reason *reason) _must_check_;
