#include "store/code_stream.h"

#include "store/code_model.h"

#include <inttypes.h>
#include <string.h>

#define ROW_SHIFT 7
#define FIRST_ROW_SHIFT 5
#define COLUMN_FIRST_SHIFT 5
#define COLUMN_LAST_SHIFT 8
#define MEAN_ROWS 64 /* rows that the mean of all looks back */

/* One strip on its way in or out. */
struct strip_model {
	struct code_contexts contexts;
	uint32_t cols;
	uint32_t n_rows;   /* done */
	uint32_t mean;     /* of all codes */
	uint32_t *columns; /* cols means; owned */
	uint32_t *factors; /* cols of column mean / mean of all, in 2^-16; owned */
};

static void strip_model_done(struct strip_model *m)
{
	free(m->columns);
	free(m->factors);
}

static int strip_model_begin(struct strip_model *m, uint32_t cols)
{
	m->cols = cols;
	m->mean = CODE_MEAN_FIRST;
	m->columns = malloc(cols * sizeof(*m->columns));
	m->factors = malloc(cols * sizeof(*m->factors));
	if (!m->columns || !m->factors)
		return -ENOMEM;
	for (uint32_t c = 0; c < cols; c++)
		m->factors[c] = CODE_ONE;
	code_contexts_begin(&m->contexts);
	return 0;
}

/* Where a row begins nothing is known of it. */
static uint32_t row_mean_first(const struct strip_model *m)
{
	return m->mean;
}

static int row_mean_shift(const struct strip_model *m)
{
	return m->n_rows == 0 ? FIRST_ROW_SHIFT : ROW_SHIFT;
}

static uint32_t level_at(uint32_t row_mean, uint32_t factor)
{
	return code_level((uint64_t)(row_mean + CODE_MEAN_FLOOR) * factor >> 16);
}

static int column_shift(uint32_t n_rows)
{
	int shift = 31 - __builtin_clz(n_rows / 32 + 1) + COLUMN_FIRST_SHIFT;

	return shift < COLUMN_LAST_SHIFT ? shift : COLUMN_LAST_SHIFT;
}

/* Takes in a whole row's magnitudes. Loops of one thing each, for the compiler's vectors. */
static void strip_model_row(struct strip_model *m, const uint8_t *magnitudes)
{
	int shift = column_shift(m->n_rows);
	uint64_t sum = 0, inverse;
	int64_t row_mean;

	for (uint32_t c = 0; c < m->cols; c++)
		sum += magnitudes[c];
	row_mean = (int64_t)(sum * CODE_ONE / m->cols);
	if (m->n_rows == 0) {
		m->mean = (uint32_t)row_mean;
		for (uint32_t c = 0; c < m->cols; c++)
			m->columns[c] = m->mean;
	} else {
		m->mean += (int32_t)((row_mean - m->mean) /
				     (int64_t)min_u64(m->n_rows + UINT64_C(1), MEAN_ROWS));
	}
	for (uint32_t c = 0; c < m->cols; c++)
		m->columns[c] = code_mean_learn(m->columns[c], magnitudes[c], shift);
	inverse = (UINT64_C(1) << 32) / (m->mean + CODE_MEAN_FLOOR);
	for (uint32_t c = 0; c < m->cols; c++)
		m->factors[c] = (uint32_t)((m->columns[c] + CODE_MEAN_FLOOR) * inverse >> 16);
	m->n_rows++;
}

/*
 * One code, said and read: the two functions are to be changed together.
 */
static uint32_t encode_code(struct range_encoder *e, struct code_contexts *contexts, uint32_t level,
	struct code_limits limits, int value)
{
	uint32_t magnitude = (uint32_t)abs(value);
	uint32_t limit = value < 0 ? limits.below : limits.above;

	range_encode(e, &contexts->nonzero[level], magnitude != 0);
	if (magnitude == 0)
		return 0;
	if (limits.below && limits.above)
		range_encode_even(e, value < 0);
	for (uint32_t m = 1; m < limit; m++) {
		range_encode(e, &contexts->more[level][code_slot(m)], magnitude > m);
		if (magnitude == m)
			break;
	}
	return magnitude;
}

static inline int decode_code(struct range_decoder *d, struct code_contexts *contexts,
	uint32_t level, struct code_limits limits)
{
	uint32_t limit, m = 1;
	bool below;

	if (!range_decode(d, &contexts->nonzero[level]))
		return 0;
	below = limits.below && limits.above ? range_decode_even(d) : limits.below != 0;
	limit = below ? limits.below : limits.above;
	while (m < limit && range_decode(d, &contexts->more[level][code_slot(m)]))
		m++;
	return below ? -(int)m : (int)m;
}

static void encode_row(struct range_encoder *e, struct strip_model *m, struct code_limits limits,
	const uint8_t *codes, uint8_t *magnitudes)
{
	uint32_t row_mean = row_mean_first(m);
	int shift = row_mean_shift(m);

	for (uint32_t c = 0; c < m->cols; c++) {
		uint32_t level = level_at(row_mean, m->factors[c]);
		int value = codes[c] - (int)limits.below;

		magnitudes[c] = (uint8_t)encode_code(e, &m->contexts, level, limits, value);
		row_mean = code_mean_learn(row_mean, magnitudes[c], shift);
	}
	strip_model_row(m, magnitudes);
}

static void decode_row(struct range_decoder *d, struct strip_model *m, struct code_limits limits,
	uint8_t *codes, uint8_t *magnitudes)
{
	uint32_t row_mean = row_mean_first(m);
	int shift = row_mean_shift(m);

	for (uint32_t c = 0; c < m->cols; c++) {
		uint32_t level = level_at(row_mean, m->factors[c]);
		int value = decode_code(d, &m->contexts, level, limits);

		codes[c] = (uint8_t)((int)limits.below + value);
		magnitudes[c] = (uint8_t)abs(value);
		row_mean = code_mean_learn(row_mean, magnitudes[c], shift);
	}
	strip_model_row(m, magnitudes);
}

bool code_shape_valid(const struct code_shape *s)
{
	return s->bits >= 1 && s->bits <= CODE_MAX_BITS && s->centre >> s->bits == 0;
}

static bool codes_valid(const struct code_shape *s, const uint8_t *codes)
{
	uint64_t n = (uint64_t)s->rows * s->cols;
	uint8_t any = 0;

	for (uint64_t i = 0; i < n; i++)
		any |= codes[i];
	return any >> s->bits == 0;
}

static int encode_strip(const struct code_shape *shape, const struct strip *strip,
	const uint8_t *codes, struct strips_writer *out)
{
	struct code_limits limits = code_limits_of(shape->bits, shape->centre);
	_cleanup_(strip_model_done) struct strip_model model = {0};
	_cleanup_(freep) uint8_t *magnitudes = malloc(shape->cols);
	_cleanup_(freep) uint8_t *bytes = NULL;
	struct range_encoder e;
	size_t n;
	int r = magnitudes ? strip_model_begin(&model, shape->cols) : -ENOMEM;

	if (r < 0)
		return r;
	range_encoder_begin(&e, STRIP_MAX_BYTES);
	for (uint32_t row = 0; row < strip->n_rows; row++)
		encode_row(&e, &model, limits,
			codes + (uint64_t)(strip->first_row + row) * shape->cols, magnitudes);
	r = range_encoder_finish(&e, &bytes, &n);
	return r < 0 ? r : strips_writer_add(out, bytes, n);
}

int code_stream_encode(
	const struct code_shape *shape, const uint8_t *codes, uint8_t **ret, uint64_t *ret_n)
{
	_cleanup_(strips_writer_done) struct strips_writer out = {0};
	int r;

	if (!code_shape_valid(shape) || !codes_valid(shape, codes))
		return -EINVAL;
	r = strips_writer_begin(&out, shape->rows, shape->cols);
	for (uint32_t i = 0; r == 0 && i < out.cut.n_strips; i++) {
		struct strip strip = strips_get(&out.cut, i);

		r = encode_strip(shape, &strip, codes, &out);
	}
	if (r < 0)
		return r;
	strips_writer_finish(&out, ret, ret_n);
	return 0;
}

int code_stream_open(const uint8_t *bytes, uint64_t n, const struct code_shape *shape,
	struct code_stream *ret, struct reason *reason)
{
	struct code_stream s = {.shape = *shape};
	int r;

	if (!code_shape_valid(shape))
		return reason_set(reason, -EBADMSG,
			"codes of %" PRIu32 " bits with centre %" PRIu8
			", expected 1 to 8 bits and a centre below 2^bits",
			shape->bits, shape->centre);
	r = strips_open(bytes, n, shape->rows, shape->cols, &s.strips, reason);
	if (r < 0)
		return r;
	*ret = s;
	return 0;
}

int code_stream_decode_strip(const struct code_stream *s, uint32_t index, code_row_fn *take,
	void *user, struct reason *reason)
{
	struct code_limits limits = code_limits_of(s->shape.bits, s->shape.centre);
	struct strip strip = strips_get(&s->strips, index);
	_cleanup_(strip_model_done) struct strip_model model = {0};
	_cleanup_(freep) uint8_t *magnitudes = malloc(s->shape.cols);
	_cleanup_(freep) uint8_t *codes = malloc(s->shape.cols);
	struct range_decoder d;

	if (!magnitudes || !codes || strip_model_begin(&model, s->shape.cols) < 0)
		return reason_set(reason, -ENOMEM, "out of memory");
	range_decoder_begin(&d, strip.bytes, strip.n_bytes);
	for (uint32_t row = 0; row < strip.n_rows && !range_decoder_overrun(&d); row++) {
		decode_row(&d, &model, limits, codes, magnitudes);
		take(user, strip.first_row + row, codes);
	}
	if (range_decoder_finish(&d) < 0)
		return reason_set(reason, -EBADMSG,
			"strip %" PRIu32 " of coded rows does not end with its %zu bytes", index,
			strip.n_bytes);
	return 0;
}

int code_stream_decode(
	const struct code_stream *s, code_row_fn *take, void *user, struct reason *reason)
{
	int r = 0;

	for (uint32_t i = 0; r == 0 && i < s->strips.n_strips; i++)
		r = code_stream_decode_strip(s, i, take, user, reason);
	return r;
}
