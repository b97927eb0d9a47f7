/*
 * Coded matrices of small integers. Bytes: bits, centre, rows, columns, then
 *
 *   bits below 128    coded bytes: what is accepted must be what the encoder makes of it
 *   bits 128 and up   codes: must come back
 */
#include "store/code_stream.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

struct matrix {
	struct code_shape shape;
	uint8_t *codes; /* owned */
};

static void matrix_done(struct matrix *m)
{
	free(m->codes);
}

static void take(void *user, uint32_t row, const uint8_t *codes)
{
	struct matrix *m = user;

	for (uint32_t c = 0; c < m->shape.cols; c++)
		if (codes[c] >> m->shape.bits)
			abort();
	memcpy(m->codes + row * m->shape.cols, codes, m->shape.cols);
}

static int decode(struct matrix *m, const uint8_t *bytes, size_t n)
{
	struct code_stream stream;
	struct reason reason;
	int r = code_stream_open(bytes, n, &m->shape, &stream, &reason);

	if (r == 0)
		r = code_stream_decode(&stream, take, m, &reason);
	if (r < 0 && r != -EBADMSG)
		abort();
	return r;
}

static void expect_canonical(const struct matrix *m, const uint8_t *bytes, size_t n)
{
	_cleanup_(freep) uint8_t *again = NULL;
	uint64_t n_again;

	if (code_stream_encode(&m->shape, m->codes, &again, &n_again) < 0)
		abort();
	if (n_again != n || (n && memcmp(again, bytes, n) != 0))
		abort();
}

static void expect_round_trip(struct matrix *m, const uint8_t *codes)
{
	size_t n_codes = (size_t)m->shape.rows * m->shape.cols;
	_cleanup_(freep) uint8_t *bytes = NULL;
	uint64_t n;

	if (code_stream_encode(&m->shape, codes, &bytes, &n) < 0)
		return;
	if (decode(m, bytes, n) < 0 || memcmp(m->codes, codes, n_codes) != 0)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	_cleanup_(matrix_done) struct matrix m = {0};

	if (n < 4)
		return 0;
	m.shape = (struct code_shape){data[2] % 64, data[3], data[0] % 16, data[1]};
	m.codes = calloc(1, (size_t)m.shape.rows * m.shape.cols + 1);
	if (!m.codes)
		abort();
	if (data[0] < 128) {
		if (decode(&m, data + 4, n - 4) == 0)
			expect_canonical(&m, data + 4, n - 4);
	} else if (n - 4 >= (size_t)m.shape.rows * m.shape.cols) {
		expect_round_trip(&m, data + 4);
	}
	return 0;
}
