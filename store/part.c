#include "store/part.h"

#include "kernels/pack.h"
#include "store/base.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>

static uint64_t take(uint64_t *at, uint64_t n_bytes)
{
	uint64_t offset = *at;

	*at = align_up(offset + n_bytes, PART_ALIGNMENT);
	return offset;
}

static uint64_t codes_bytes(uint32_t n, uint32_t cols, uint32_t bits)
{
	return n * (uint64_t)qmat_groups(cols) * qmat_group_bytes(bits);
}

static uint64_t scales_bytes(const struct tensor_record *r, uint32_t n, uint32_t cols)
{
	if (r->grid == GRID_GROUP)
		return n * (uint64_t)qmat_groups(cols) * sizeof(uint16_t);
	return r->grid == GRID_ROW ? n * sizeof(uint16_t) : 0;
}

static struct stored_matrix take_matrix(
	uint64_t *at, const struct tensor_record *r, uint32_t n, uint32_t cols)
{
	struct stored_matrix m;

	m.codes = take(at, codes_bytes(n, cols, r->bits));
	m.scales = take(at, scales_bytes(r, n, cols));
	m.zeros = take(at, r->grid == GRID_GROUP ? n * (uint64_t)qmat_groups(cols) : 0);
	return m;
}

static bool is_stream(const struct tensor_record *r)
{
	return r->coding == CODING_STREAM;
}

/* All rows, or some that a list or a bitmap names? */
static bool is_subset(const struct tensor_record *r)
{
	return r->n < r->rows;
}

static struct part_layout rows_layout(const struct tensor_record *r)
{
	struct part_layout l = {0};

	l.list = take(&l.end, is_subset(r) ? r->n * sizeof(uint32_t) : 0);
	l.values = l.end;
	if (is_stream(r))
		l.expanded_bytes = align_up(mat_bf16_bytes(r->n, r->cols), PART_ALIGNMENT);
	else
		l.end += mat_bf16_bytes(r->n, r->cols);
	return l;
}

static struct part_layout factors_layout(const struct tensor_record *r)
{
	struct part_layout l = {0};

	if (is_stream(r)) {
		l.sigma = sizeof(uint64_t);
		l.end = l.sigma + r->n * sizeof(uint16_t);
		l.expanded_sigma = take(&l.expanded_bytes, r->n * sizeof(float));
		l.expanded_v = take(&l.expanded_bytes, codes_bytes(r->n, r->cols, r->bits));
		l.expanded_u = take(&l.expanded_bytes, codes_bytes(r->n, r->rows, r->bits));
		return l;
	}
	l.sigma = take(&l.end, r->n * sizeof(float));
	l.v = take_matrix(&l.end, r, r->n, r->cols);
	l.u = take_matrix(&l.end, r, r->n, r->rows);
	return l;
}

static struct part_layout codes_layout(const struct tensor_record *r)
{
	struct part_layout l = {0};
	uint64_t bitmap = is_subset(r) ? part_bitmap_bytes(r->rows) : 0;

	l.expanded_list = take(&l.expanded_bytes, is_subset(r) ? r->n * sizeof(uint32_t) : 0);
	if (is_stream(r)) {
		l.v.scales = 0;
		l.list = scales_bytes(r, r->n, r->cols);
		l.end = l.list + bitmap;
		l.expanded_v = take(&l.expanded_bytes, codes_bytes(r->n, r->cols, r->bits));
		return l;
	}
	l.list = take(&l.end, bitmap);
	l.v = take_matrix(&l.end, r, r->n, r->cols);
	return l;
}

struct dropout_shape part_dropout_shape(const struct tensor_record *record)
{
	return (struct dropout_shape){
		.rows = record->rows,
		.cols = record->cols,
		.group = record->group,
		.n_keep = record->n,
		.bits = record->bits,
	};
}

struct dropout_layout part_dropout_layout(const struct tensor_record *record)
{
	const struct dropout_shape shape = part_dropout_shape(record);
	struct dropout_layout layout = {0};
	int r = dropout_layout(&shape, &layout, NULL);

	assert(r == 0);
	return layout;
}

static struct part_layout survivors_layout(const struct tensor_record *r)
{
	struct dropout_layout d = part_dropout_layout(r);
	struct part_layout l = {0};

	l.v.scales = take(&l.end, scales_bytes(r, r->rows, r->cols));
	l.values = l.end;
	if (!is_stream(r))
		l.end += d.code_bytes;
	l.expanded_bytes = align_up(d.expanded_bytes, PART_ALIGNMENT);
	return l;
}

static struct part_layout mat_int_layout(const struct tensor_record *r)
{
	uint64_t scales = mat_int_n_scales(r->rows, r->cols) * sizeof(uint16_t);
	struct part_layout l = {0};

	l.v.codes = take(&l.end, mat_int_codes_bytes(r->rows, r->cols, r->bits));
	l.v.scales = take(&l.end, r->bits == 4 ? mat_int_grids_bytes(r->rows, r->cols) : scales);
	return l;
}

struct part_layout part_layout(const struct tensor_record *record)
{
	struct part_layout l = {0};

	switch ((enum tensor_codec)record->codec) {
	case CODEC_VECTOR_F32:
		l.end = record->rows * sizeof(float);
		break;
	case CODEC_MAT_BF16:
		l.end = mat_bf16_bytes(record->rows, record->cols);
		break;
	case CODEC_ROWS:
		return rows_layout(record);
	case CODEC_FACTORS:
		return factors_layout(record);
	case CODEC_CODES:
		return codes_layout(record);
	case CODEC_DROPOUT:
		return survivors_layout(record);
	case CODEC_MAT_INT:
		return mat_int_layout(record);
	}
	return l;
}

struct code_shape part_code_shape(
	const struct tensor_record *record, uint32_t n_rows, uint32_t n_cols)
{
	return (struct code_shape){
		.rows = n_rows,
		.cols = n_cols,
		.bits = record->bits,
		.centre = (uint8_t)record->zero,
	};
}

/* What a codec's record may say. */
struct rule {
	uint64_t n_min, n_max;
	bool streams, codes; /* may be coded; has codes, and so bits and a grid */
	uint32_t grids;      /* or-ed 1 << grid */
};

static struct rule rule_of(const struct tensor_record *r)
{
	switch ((enum tensor_codec)r->codec) {
	case CODEC_VECTOR_F32:
	case CODEC_MAT_BF16:
		break;
	case CODEC_ROWS:
		return (struct rule){.n_min = 1, .n_max = r->rows, .streams = true};
	case CODEC_FACTORS:
		return (struct rule){1, min_u64(r->rows, r->cols), true, true,
			1 << GRID_NONE | 1 << GRID_GROUP | 1 << GRID_MATRIX};
	case CODEC_CODES:
		return (struct rule){
			1, r->rows, true, true, 1 << GRID_GROUP | 1 << GRID_ROW | 1 << GRID_MATRIX};
	case CODEC_DROPOUT:
		return (struct rule){1, r->group, true, true, 1 << GRID_ROW | 1 << GRID_MATRIX};
	case CODEC_MAT_INT:
		return (struct rule){.codes = true, .grids = 1 << GRID_NONE};
	}
	return (struct rule){0};
}

static bool bits_fit_grid(const struct tensor_record *r)
{
	if (r->codec == CODEC_MAT_INT)
		return r->bits == 4 || r->bits == 8;
	if (r->grid == GRID_NONE)
		return r->bits == 16 || r->bits == 32;
	return r->bits >= 1 && r->bits <= QMAT_MAX_BITS;
}

/* Only grids whose step stands in the record; in all others these are zero. */
static bool step_fits_grid(const struct tensor_record *r)
{
	bool has_step = r->grid == GRID_ROW || r->grid == GRID_MATRIX;
	float top = (float)((1u << (r->bits & 31)) - 1);

	if (!has_step)
		return r->step == 0 && r->zero == 0;
	return isfinite(r->step) && r->step > 0 && r->zero >= 0 && r->zero <= top &&
	       2 * r->zero == rintf(2 * r->zero);
}

static int check_codes(
	const struct tensor_record *r, const struct rule *rule, struct reason *reason)
{
	if (!rule->codes) {
		if (r->bits || r->grid || r->step != 0 || r->zero != 0)
			return reason_set(reason, -EBADMSG,
				"has bits %u and grid %u, expected none", r->bits, r->grid);
		return 0;
	}
	if (r->grid > GRID_MATRIX || !(rule->grids & 1u << r->grid))
		return reason_set(reason, -EBADMSG,
			"has grid %u, which codec %" PRIu32 " does not have", r->grid, r->codec);
	if (!bits_fit_grid(r))
		return reason_set(reason, -EBADMSG, "has %u bits on grid %u, expected %s", r->bits,
			r->grid,
			r->codec == CODEC_MAT_INT ? "4 or 8"
			: r->grid == GRID_NONE    ? "16 or 32"
						  : "1 to 8");
	if (!step_fits_grid(r))
		return reason_set(reason, -EBADMSG,
			"has step %g and zero %g, which grid %u with %u bits does not allow",
			(double)r->step, (double)r->zero, r->grid, r->bits);
	if (r->coding == CODING_STREAM && (r->grid == GRID_GROUP || r->grid == GRID_NONE))
		return reason_set(reason, -EBADMSG, "has a stream of codes on grid %u", r->grid);
	return 0;
}

static int check_dropout(const struct tensor_record *r, struct reason *reason)
{
	const struct dropout_shape shape = part_dropout_shape(r);
	struct dropout_layout ignored;

	if (r->codec != CODEC_DROPOUT) {
		if (r->group || r->seed)
			return reason_set(
				reason, -EBADMSG, "has a group and a seed, expected none");
		return 0;
	}
	return dropout_layout(&shape, &ignored, reason);
}

static int check_bytes(const struct tensor_record *r, struct reason *reason)
{
	struct part_layout l = part_layout(r);

	if (is_stream(r) ? r->bytes > l.end : r->bytes == l.end)
		return 0;
	return reason_set(reason, -EBADMSG, "payload has %" PRIu64 " bytes, expected %s%" PRIu64,
		r->bytes, is_stream(r) ? "more than " : "", l.end);
}

/* Matrices of integers of a base, as older programs laid them out. */
static bool is_retired(uint32_t codec)
{
	return codec == 7 || codec == 8;
}

int part_check(const struct tensor_record *r, struct reason *reason)
{
	struct rule rule = rule_of(r);
	int e;

	if (is_retired(r->codec))
		return reason_set(reason, -EOPNOTSUPP,
			"codec %" PRIu32 " is of an older deltad: import the base again", r->codec);
	if (r->codec < CODEC_VECTOR_F32 || r->codec > CODEC_MAT_INT)
		return reason_set(reason, -EOPNOTSUPP, "codec %" PRIu32 " is unknown", r->codec);
	if (r->coding > CODING_STREAM || (r->coding == CODING_STREAM && !rule.streams))
		return reason_set(reason, -EBADMSG,
			"has coding %u, which codec %" PRIu32 " does not have", r->coding,
			r->codec);
	if (r->level >= FORMAT_MAX_LEVELS)
		return reason_set(reason, -EBADMSG, "has level %u, expected less than %u", r->level,
			FORMAT_MAX_LEVELS);
	e = check_dropout(r, reason);
	if (e < 0)
		return e;
	if (r->n < rule.n_min || r->n > rule.n_max)
		return reason_set(reason, -EBADMSG,
			"has n = %" PRIu32 ", expected %" PRIu64 " to %" PRIu64, r->n, rule.n_min,
			rule.n_max);
	e = check_codes(r, &rule, reason);
	if (e == 0)
		e = check_bytes(r, reason);
	return e;
}
