/*
 * Lossless bf16 words. Bytes: rows, columns, two words that make the base (begin and step), then
 *
 *   rows below 128    coded bytes: what is accepted must be what the encoder makes of it
 *   rows 128 and up   words: must come back
 */
#include "store/bf16_stream.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

#define HEAD 6

struct matrix {
	uint32_t rows, cols;
	uint16_t begin, step; /* of the base's words */
	uint16_t *words;      /* owned */
};

static void matrix_done(struct matrix *m)
{
	free(m->words);
}

static void base_get(void *user, uint32_t row, uint16_t *ret)
{
	const struct matrix *m = user;

	for (uint32_t c = 0; c < m->cols; c++)
		ret[c] = (uint16_t)(m->begin + (row * m->cols + c) * m->step);
}

static void words_get(void *user, uint32_t row, uint16_t *ret)
{
	const struct matrix *m = user;

	memcpy(ret, m->words + row * m->cols, m->cols * sizeof(*ret));
}

static void words_take(void *user, uint32_t row, const uint16_t *words)
{
	struct matrix *m = user;

	memcpy(m->words + row * m->cols, words, m->cols * sizeof(*words));
}

static int decode(struct matrix *m, const uint8_t *bytes, size_t n)
{
	struct bf16_rows base = {base_get, m};
	struct strips strips;
	struct reason reason;
	int r = bf16_stream_open(bytes, n, m->rows, m->cols, &strips, &reason);

	if (r == 0)
		r = bf16_stream_decode(&strips, &base, words_take, m, &reason);
	if (r < 0 && r != -EBADMSG)
		abort();
	return r;
}

static void encode(struct matrix *m, uint8_t **ret, uint64_t *ret_n)
{
	struct bf16_rows base = {base_get, m}, tuned = {words_get, m};

	if (bf16_stream_encode(m->rows, m->cols, &base, &tuned, ret, ret_n) < 0)
		abort();
}

static void expect_canonical(struct matrix *m, const uint8_t *bytes, size_t n)
{
	_cleanup_(freep) uint8_t *again = NULL;
	uint64_t n_again;

	encode(m, &again, &n_again);
	if (n_again != n || (n && memcmp(again, bytes, n) != 0))
		abort();
}

static void expect_round_trip(struct matrix *m, const uint8_t *words)
{
	size_t n_words = (size_t)m->rows * m->cols * sizeof(*m->words);
	_cleanup_(freep) uint8_t *bytes = NULL;
	uint64_t n;

	memcpy(m->words, words, n_words);
	encode(m, &bytes, &n);
	memset(m->words, 0, n_words);
	if (decode(m, bytes, n) < 0 || memcmp(m->words, words, n_words) != 0)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	_cleanup_(matrix_done) struct matrix m = {0};
	size_t n_bytes;

	if (n < HEAD)
		return 0;
	m.rows = data[0] % 64;
	m.cols = data[1];
	memcpy(&m.begin, data + 2, sizeof(m.begin));
	memcpy(&m.step, data + 4, sizeof(m.step));
	n_bytes = (size_t)m.rows * m.cols * sizeof(*m.words);
	m.words = calloc(1, n_bytes + 1);
	if (!m.words)
		abort();
	if (data[0] < 128) {
		if (decode(&m, data + HEAD, n - HEAD) == 0)
			expect_canonical(&m, data + HEAD, n - HEAD);
	} else if (n - HEAD >= n_bytes) {
		expect_round_trip(&m, data + HEAD);
	}
	return 0;
}
