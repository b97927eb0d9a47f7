#include "compress/components.h"

#include "kernels/convert.h"

#include <math.h>
#include <string.h>

/* Bits of a number, about, as contexts that have learnt make them. */
#define ZERO_BITS 0.7
#define SIGN_BITS 2.2

void components_done(struct components *c)
{
	free(c->v);
	free(c->u);
	*c = (struct components){0};
}

struct code_rows {
	uint8_t *codes;
	size_t cols;
};

static void take_row(void *user, uint32_t row, const uint8_t *codes)
{
	const struct code_rows *to = user;

	memcpy(to->codes + row * to->cols, codes, to->cols);
}

static int decode(const struct tensor_record *record, uint32_t cols, const uint8_t *bytes,
	uint64_t n_bytes, uint8_t **ret, struct reason *reason)
{
	const struct code_shape shape = part_code_shape(record, record->n, cols);
	struct code_rows rows = {.codes = malloc((size_t)record->n * cols + 1), .cols = cols};
	struct code_stream stream;
	int r;

	*ret = rows.codes;
	if (!rows.codes)
		return -ENOMEM;
	r = code_stream_open(bytes, n_bytes, &shape, &stream, reason);
	return r < 0 ? r : code_stream_decode(&stream, take_row, &rows, reason);
}

int components_of(const struct part *p, struct components *ret, struct reason *reason)
{
	const struct part_layout l = part_layout(&p->record);
	uint64_t n_v, n_all = p->record.bytes - l.end;
	_cleanup_(components_done) struct components c = {
		.like = {.record = p->record, .quality = p->quality},
		.n = p->record.n,
		.sigma = p->payload + l.sigma,
	};
	int r;

	memcpy(&n_v, p->payload, sizeof(n_v));
	if (n_v > n_all)
		return reason_set(reason, -EBADMSG, "the stream of v is longer than its part");
	r = decode(&p->record, p->record.cols, p->payload + l.end, n_v, &c.v, reason);
	if (r == 0)
		r = decode(&p->record, p->record.rows, p->payload + l.end + n_v, n_all - n_v, &c.u,
			reason);
	if (r < 0)
		return r;
	*ret = c;
	c = (struct components){0};
	return 0;
}

static double bits_of(const uint8_t *codes, uint32_t n, int centre)
{
	double sum = 0;

	for (uint32_t i = 0; i < n; i++) {
		int magnitude = abs(codes[i] - centre);

		sum += magnitude ? SIGN_BITS + 2 * log2(magnitude) : ZERO_BITS;
	}
	return sum;
}

double components_bytes(const struct components *c, uint32_t i)
{
	const struct tensor_record *r = &c->like.record;
	int centre = part_code_shape(r, 1, 1).centre;

	return sizeof(uint16_t) + (bits_of(c->v + (size_t)i * r->cols, r->cols, centre) +
					  bits_of(c->u + (size_t)i * r->rows, r->rows, centre)) /
					  8;
}

double components_energy(const struct components *c, uint32_t i)
{
	uint16_t half;
	double sigma;

	memcpy(&half, c->sigma + i * sizeof(half), sizeof(half));
	sigma = (double)f16_to_f32(half);
	return sigma != 0 ? 1 / (sigma * sigma) : 0;
}

struct stream {
	uint8_t *bytes; /* owned */
	uint64_t n;
};

static void stream_done(struct stream *s)
{
	free(s->bytes);
}

static int encode(
	const struct tensor_record *record, uint32_t cols, const uint8_t *codes, struct stream *ret)
{
	const struct code_shape shape = part_code_shape(record, record->n, cols);

	return code_stream_encode(&shape, codes, &ret->bytes, &ret->n);
}

int components_part(
	const struct components *c, uint32_t first, uint32_t n, uint8_t level, struct part *ret)
{
	struct part p = c->like;
	_cleanup_(stream_done) struct stream v = {0};
	_cleanup_(stream_done) struct stream u = {0};
	struct part_layout l;
	int r;

	p.record.n = n;
	p.record.level = level;
	l = part_layout(&p.record);
	r = encode(&p.record, p.record.cols, c->v + (size_t)first * p.record.cols, &v);
	if (r == 0)
		r = encode(&p.record, p.record.rows, c->u + (size_t)first * p.record.rows, &u);
	if (r < 0)
		return r;
	p.record.bytes = l.end + v.n + u.n;
	p.payload = calloc(1, p.record.bytes + 1);
	if (!p.payload)
		return -ENOMEM;
	memcpy(p.payload, &v.n, sizeof(v.n));
	memcpy(p.payload + l.sigma, c->sigma + first * sizeof(uint16_t), n * sizeof(uint16_t));
	memcpy(p.payload + l.end, v.bytes, v.n);
	memcpy(p.payload + l.end + v.n, u.bytes, u.n);
	*ret = p;
	return 0;
}
