#include "foreign/weights.h"

#include "kernels/convert.h"
#include "kernels/pack.h"
#include "store/codec.h"
#include "store/model_digest.h"

#include <math.h>
#include <string.h>

/* Brings the scales of rows into the middle of what fp16 holds. */
#define ROW_STEP 0x1p-8f
#define LARGEST_HALF 65504.0f
/* Ends of a group's grid that are tried: this many, from all of its range down to half. */
#define SHARES 16

static const struct {
	const char *name;
	uint8_t bits, grid;
} kinds[N_WEIGHTS] = {
	[WEIGHTS_BF16] = {"bf16", 0, GRID_NONE},
	[WEIGHTS_INT8] = {"int8", 8, GRID_ROW},
	[WEIGHTS_INT4] = {"int4", 4, GRID_GROUP},
};

const char *weights_name(enum weights w)
{
	return kinds[w].name;
}

bool weights_parse(const char *name, enum weights *ret)
{
	for (int w = 0; w < N_WEIGHTS; w++)
		if (strcmp(kinds[w].name, name) == 0) {
			*ret = (enum weights)w;
			return true;
		}
	return false;
}

void weights_record(enum weights w, struct tensor_record *record)
{
	enum tensor_role role = (enum tensor_role)record->role;

	record->codec = tensor_role_is_vector(role) ? CODEC_VECTOR_F32 : CODEC_MAT_BF16;
	if (w != WEIGHTS_BF16 && tensor_role_is_projection(role)) {
		record->codec = CODEC_MAT_CODES;
		record->bits = kinds[w].bits;
		record->grid = kinds[w].grid;
		if (record->grid == GRID_ROW) {
			record->step = ROW_STEP;
			record->zero = (float)(1u << (record->bits - 1));
		}
	}
	record->bytes = part_layout(record).end;
}

/* One row, or one group of it, on its way from numbers to codes. */
struct stretch {
	const float *values;
	size_t n;
	float top; /* the largest code */
	float scale, zero;
	uint8_t *codes;
};

static float code_of(const struct stretch *s, float inverse, size_t i)
{
	/* Never below 0 once clipped: cutting off its fraction rounds it. */
	float code = s->values[i] * inverse + s->zero + 0.5f;

	code = code > 0 ? code : 0;
	code = code < s->top ? code : s->top;
	return (float)(int)code;
}

static void put_codes(const struct stretch *s)
{
	float inverse = s->scale > 0 ? 1 / s->scale : 0;

	for (size_t i = 0; i < s->n; i++)
		s->codes[i] = (uint8_t)code_of(s, inverse, i);
}

static double squared_error(const struct stretch *s)
{
	float inverse = s->scale > 0 ? 1 / s->scale : 0;
	double sum = 0;

	for (size_t i = 0; i < s->n; i++) {
		float error = s->values[i] - s->scale * (code_of(s, inverse, i) - s->zero);

		sum += (double)error * (double)error;
	}
	return sum;
}

static float half(float scale)
{
	return f16_to_f32(f16_from_f32(scale < LARGEST_HALF ? scale : LARGEST_HALF));
}

/* Symmetric, in units of ROW_STEP; code 0 is left out. */
static uint16_t fit_row(struct stretch *s)
{
	float largest = 0;

	for (size_t i = 0; i < s->n; i++)
		largest = fmaxf(largest, fabsf(s->values[i]));
	s->zero = (s->top + 1) / 2;
	s->scale = half(largest / (s->zero - 1) / ROW_STEP) * ROW_STEP;
	put_codes(s);
	return f16_from_f32(s->scale / ROW_STEP);
}

static void set_ends(struct stretch *s, float low, float high)
{
	s->scale = half((high - low) / s->top);
	s->zero = s->scale > 0 ? rintf(-low / s->scale) : 0;
	s->zero = fminf(s->zero, s->top);
}

/* Clipping both ends alike loses on few numbers what it gains on all others. */
static uint16_t fit_group(struct stretch *s, uint8_t *ret_zero)
{
	float low = 0, high = 0, best_share = 1;
	double least = INFINITY;

	for (size_t i = 0; i < s->n; i++) {
		low = fminf(low, s->values[i]);
		high = fmaxf(high, s->values[i]);
	}
	for (int i = 0; i < SHARES; i++) {
		float share = 1 - (float)i / (2 * SHARES);
		double error;

		set_ends(s, low * share, high * share);
		error = squared_error(s);
		if (error < least) {
			least = error;
			best_share = share;
		}
	}
	set_ends(s, low * best_share, high * best_share);
	put_codes(s);
	*ret_zero = (uint8_t)s->zero;
	return f16_from_f32(s->scale);
}

static void fit(const struct tensor_record *t, const float *values, uint8_t *codes,
	uint16_t *scales, uint8_t *zeros)
{
	struct stretch s = {.top = (float)((1u << t->bits) - 1)};

	for (uint32_t c = 0; c < t->cols; c += (uint32_t)s.n) {
		s.n = t->grid == GRID_GROUP ? min_u64(QMAT_GROUP, t->cols - c) : t->cols;
		s.values = values + c;
		s.codes = codes + c;
		*scales++ = t->grid == GRID_GROUP ? fit_group(&s, zeros++) : fit_row(&s);
	}
}

static int pack_codes(
	const struct tensor_record *t, const uint16_t *values, uint8_t *ret, struct reason *reason)
{
	const struct payload p = {.record = t, .bytes = ret};
	const struct qmat m = codec_stored_codes(&p, t->rows);
	struct part_layout l = part_layout(t);
	size_t n_groups = qmat_groups(t->cols), row_bytes = n_groups * qmat_group_bytes(t->bits);
	_cleanup_(freep) float *row = malloc(t->cols * sizeof(*row));
	_cleanup_(freep) uint8_t *codes = malloc(t->cols);

	if (!row || !codes)
		return reason_set(reason, -ENOMEM, "out of memory");
	memset(ret, 0, t->bytes);
	for (uint32_t r = 0; r < t->rows; r++) {
		uint8_t *zeros = m.zeros ? ret + l.v.zeros + r * n_groups : NULL;
		uint16_t *scales = (void *)(ret + l.v.scales);

		for (uint32_t c = 0; c < t->cols; c++)
			row[c] = bf16_to_f32(values[(size_t)r * t->cols + c]);
		fit(t, row, codes, scales + (size_t)r * m.scale_row, zeros);
		qmat_row_pack(ret + l.v.codes + r * row_bytes, codes, zeros, t->cols, t->bits);
	}
	return 0;
}

int weights_pack(const struct tensor_record *record, const uint16_t *values, uint8_t *ret,
	struct reason *reason)
{
	if (record->codec == CODEC_MAT_CODES)
		return pack_codes(record, values, ret, reason);
	mat_bf16_pack((uint16_t *)(void *)ret, values, record->rows, record->cols);
	return 0;
}

void weights_values(const struct tensor_record *record, const uint8_t *payload, float *ret)
{
	const struct payload p = {.record = record, .bytes = payload};
	struct base_matrix m = {.codec = record->codec, record->rows, record->cols, {{0}}};

	if (record->codec == CODEC_MAT_CODES)
		m.codes = codec_stored_codes(&p, record->rows);
	else
		m.bf16 = (struct mat_bf16){(const void *)payload, record->rows, record->cols};
	for (uint32_t r = 0; r < record->rows; r++)
		base_matrix_row(ret + (size_t)r * record->cols, &m, r);
}

int weights_served(enum weights w, const struct tensor_record *shape, const uint16_t *values,
	float *ret, struct reason *reason)
{
	struct tensor_record record = *shape;
	_cleanup_(freep) uint8_t *payload = NULL;
	int r;

	weights_record(w, &record);
	if (record.codec != CODEC_MAT_CODES) {
		for (size_t i = 0; i < (size_t)record.rows * record.cols; i++)
			ret[i] = bf16_to_f32(values[i]);
		return 0;
	}
	payload = aligned_alloc(PART_ALIGNMENT, align_up(record.bytes + 1, PART_ALIGNMENT));
	if (!payload)
		return reason_set(reason, -ENOMEM, "out of memory");
	r = weights_pack(&record, values, payload, reason);
	if (r == 0)
		weights_values(&record, payload, ret);
	return r;
}

/* As weights_digest() goes: a matrix that codes stand for is digested as what they serve. */
static int digest_matrix(struct checkpoint *c, enum weights w, const struct tensor_record *t,
	struct model_digest *digest, struct reason *reason)
{
	size_t n = (size_t)t->rows * t->cols;
	_cleanup_(freep) uint16_t *values = malloc(n * sizeof(*values));
	_cleanup_(freep) float *served = malloc(n * sizeof(*served));
	bool codes = w != WEIGHTS_BF16 && tensor_role_is_projection((enum tensor_role)t->role);
	int r;

	if (!values || !served)
		return reason_set(reason, -ENOMEM, "out of memory");
	r = checkpoint_read_bf16(c, (enum tensor_role)t->role, t->layer, values, NULL, reason);
	if (r == 0 && codes)
		r = weights_served(w, t, values, served, reason);
	if (r < 0)
		return r;
	model_digest_add(digest, (enum tensor_role)t->role, t->layer, t->rows, t->cols,
		codes ? (void *)served : (void *)values,
		n * (codes ? sizeof(*served) : sizeof(*values)));
	return 0;
}

static int digest_vector(struct checkpoint *c, const struct tensor_record *t,
	struct model_digest *digest, struct reason *reason)
{
	_cleanup_(freep) float *values = malloc(t->rows * sizeof(*values));
	int r;

	if (!values)
		return reason_set(reason, -ENOMEM, "out of memory");
	r = checkpoint_read_f32(c, (enum tensor_role)t->role, t->layer, values, reason);
	if (r == 0)
		model_digest_add(digest, (enum tensor_role)t->role, t->layer, t->rows, t->cols,
			values, t->rows * sizeof(*values));
	return r;
}

int weights_digest(struct checkpoint *c, enum weights w, const struct progress *progress,
	struct digest *ret, struct reason *reason)
{
	const struct model_config *config = checkpoint_config(c);
	_cleanup_(model_digestp) struct model_digest *digest = model_digest_new(config);
	int r = 0;

	if (!digest)
		return reason_set(reason, -ENOMEM, "out of memory");
	for (uint32_t layer = 0; layer < config->n_layers; layer++) {
		for (uint32_t role = 0; r == 0 && role < N_ROLES; role++) {
			struct tensor_record t = {.role = role, .layer = layer};

			if (!model_config_shape(
				    config, (enum tensor_role)role, layer, &t.rows, &t.cols))
				continue;
			r = tensor_role_is_vector((enum tensor_role)role)
				    ? digest_vector(c, &t, digest, reason)
				    : digest_matrix(c, w, &t, digest, reason);
		}
		if (r < 0)
			return r;
		progress_update(progress, "digesting", layer + 1, config->n_layers);
	}
	*ret = model_digest_finish(take_ptr(digest));
	return 0;
}
