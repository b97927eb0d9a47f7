/*
 * Writes a delta of random codes for a base image: every projection changes, each codec as its
 * method lays it out, at a size that is asked for. What a codec costs when it is served does not
 * depend on what its codes say, and compressing a large model only to measure that takes hours.
 *
 *   write_delta BASE CODEC BITS FILE
 *
 * CODEC and BITS, of a weight of the projections:
 *   k-bit       1, 2, 3, 4 or 8    a scale a row
 *   sign        1                  a scale a matrix
 *   dropout     up to 2            codes of 4 bits in groups of 16, that is twice as much in memory
 *   low-rank    any                fp16 factors
 *   delta-come  any                2 components of 8 bits, 32 of 3, the rest of 2
 */
#include "common/file.h"
#include "common/random.h"
#include "compress/delta_file.h"
#include "kernels/convert.h"
#include "store/base.h"

#include <stdio.h>
#include <string.h>

#define SIZE 0.002f /* of a change */
#define DROPOUT_GROUP 16u
#define DROPOUT_BITS 4u

struct maker {
	const struct base *base;
	struct delta_file *file;
	double bits; /* of a weight */
	uint64_t state;
};

static uint64_t next(struct maker *m)
{
	return mix64_at(1, m->state++);
}

static float next_number(struct maker *m)
{
	return (float)(2 * random_share(next(m)) - 1);
}

static int random_codes(struct maker *m, uint32_t rows, uint32_t cols, uint8_t bits,
	enum grid_kind grid, struct code_matrix **ret)
{
	struct code_matrix *codes;
	size_t n = (size_t)rows * cols;
	uint64_t word = 0;
	int r = code_matrix_new(rows, cols, bits, grid, &codes);

	if (r < 0)
		return r;
	for (size_t i = 0; i < n; i++) {
		word = i % 8 ? word >> 8 : next(m);
		codes->codes[i] = (uint8_t)(word & ((1u << bits) - 1));
	}
	for (uint32_t i = 0; codes->scales && i < rows; i++)
		codes->scales[i] = f16_from_f32(1 + 0.25f * next_number(m));
	codes->step = SIZE / (float)(1 << bits);
	codes->zero = 0.5f * (float)((1 << bits) - 1);
	*ret = codes;
	return 0;
}

static int add(struct maker *m, int r, struct part *part)
{
	return r < 0 ? r : delta_file_add(m->file, part);
}

static int add_codes(struct maker *m, const struct part_place *place, enum grid_kind grid)
{
	_cleanup_(code_matrix_freep) struct code_matrix *codes = NULL;
	struct part part = {0};
	int r = random_codes(m, place->rows, place->cols, (uint8_t)m->bits, grid, &codes);

	return r < 0 ? r : add(m, part_codes(place, codes, NULL, false, &part), &part);
}

static int add_k_bit(struct maker *m, const struct part_place *place)
{
	return add_codes(m, place, GRID_ROW);
}

static int add_signs(struct maker *m, const struct part_place *place)
{
	return add_codes(m, place, GRID_MATRIX);
}

static int add_dropout(struct maker *m, const struct part_place *place)
{
	struct survivors s = {.group = DROPOUT_GROUP, .seed = next(m)};
	_cleanup_(code_matrix_freep) struct code_matrix *codes = NULL;
	struct part part = {0};
	int r;

	s.n_keep = (uint32_t)max_u64(1, (uint64_t)(m->bits / DROPOUT_BITS * DROPOUT_GROUP));
	r = random_codes(m, place->rows, place->cols / DROPOUT_GROUP * s.n_keep, DROPOUT_BITS,
		GRID_MATRIX, &codes);
	if (r < 0)
		return r;
	s.codes = codes;
	return add(m, part_dropout(place, &s, false, &part), &part);
}

/* How many components take up to so many bits of each weight. */
static uint32_t n_components(const struct part_place *place, double bits, uint32_t code_bits)
{
	double room = bits * place->rows * place->cols;

	return (uint32_t)(room / code_bits / ((double)place->rows + place->cols));
}

static int add_low_rank(struct maker *m, const struct part_place *place)
{
	uint32_t n = n_components(place, m->bits, 16);
	size_t n_numbers = (size_t)n * (place->rows + place->cols);
	_cleanup_(freep) float *numbers = calloc(n_numbers + n + 1, sizeof(*numbers));
	const struct plain_factors f = {
		n, numbers, numbers + (size_t)n * place->cols, numbers + n_numbers};
	struct part part = {0};

	if (!numbers)
		return -ENOMEM;
	for (size_t i = 0; i < n_numbers; i++)
		numbers[i] = next_number(m);
	for (uint32_t i = 0; i < n; i++)
		numbers[n_numbers + i] = SIZE / (float)n;
	return n ? add(m, part_factors_plain(place, &f, 16, &part), &part) : 0;
}

static int add_band(struct maker *m, const struct part_place *place, uint32_t n, uint8_t bits)
{
	_cleanup_(code_matrix_freep) struct code_matrix *v = NULL;
	_cleanup_(code_matrix_freep) struct code_matrix *u = NULL;
	_cleanup_(freep) float *sigma = calloc(n + 1ul, sizeof(*sigma));
	struct part part = {0};
	int r = sigma ? random_codes(m, n, place->cols, bits, GRID_MATRIX, &v) : -ENOMEM;

	if (r == 0)
		r = random_codes(m, n, place->rows, bits, GRID_MATRIX, &u);
	if (r < 0)
		return r;
	/* Factors on this grid are integers. */
	for (uint32_t i = 0; i < n; i++)
		sigma[i] = SIZE * v->step * u->step;
	v->step = u->step = 1;
	return add(m, part_factors(place, v, u, sigma, false, &part), &part);
}

static int add_delta_come(struct maker *m, const struct part_place *place)
{
	static const struct {
		uint8_t bits;
		uint32_t most;
	} bands[] = {{8, 2}, {3, 32}, {2, UINT32_MAX}};
	struct part_place at = *place;
	double left = m->bits;
	int r = 0;

	for (size_t i = 0; i < array_len(bands) && r == 0; i++) {
		uint32_t n = n_components(place, left, bands[i].bits);

		n = (uint32_t)min_u64(n, bands[i].most);
		left -= (double)n * bands[i].bits * (1.0 / place->rows + 1.0 / place->cols);
		at.level = (uint8_t)i;
		if (n)
			r = add_band(m, &at, n, bands[i].bits);
	}
	return r;
}

struct codec {
	const char *name;
	int (*add)(struct maker *m, const struct part_place *place);
	double most_bits;
	bool whole; /* bits are those of a code */
};

static const struct codec codecs[] = {
	{"k-bit", add_k_bit, 8, true},
	{"sign", add_signs, 1, true},
	{"dropout", add_dropout, 2, false},
	{"low-rank", add_low_rank, 4, false},
	{"delta-come", add_delta_come, 4, false},
};

/* NULL if there is no such codec, or none of so many bits. */
static const struct codec *find_codec(const char *name, const char *bits, double *ret_bits)
{
	char *end;
	double value = strtod(bits, &end);

	for (size_t i = 0; i < array_len(codecs); i++) {
		const struct codec *c = &codecs[i];

		if (strcmp(c->name, name) != 0)
			continue;
		*ret_bits = value;
		return *end == '\0' && value > 0 && value <= c->most_bits &&
				       (!c->whole || value == (double)(int)value)
			       ? c
			       : NULL;
	}
	return NULL;
}

static int add_projections(struct maker *m, const struct codec *codec)
{
	for (uint32_t layer = 0; layer < m->base->config.n_layers; layer++)
		for (uint32_t role = 0; role < N_ROLES; role++) {
			struct part_place place = {.role = role, .layer = layer};
			int r;

			if (!tensor_role_is_projection(role) ||
				!model_config_shape(
					&m->base->config, role, layer, &place.rows, &place.cols))
				continue;
			r = codec->add(m, &place);
			if (r < 0)
				return r;
		}
	return 0;
}

static int write_delta(
	struct maker *m, const struct codec *codec, const char *path, struct reason *reason)
{
	_cleanup_(new_file_done) struct new_file file = NEW_FILE_INIT;
	struct digest tuned = digest_of(codec->name, strlen(codec->name));
	const struct delta_file_parts parts = {
		.config = &m->base->config,
		.base = base_model_digest(m->base),
		.tuned = &tuned,
	};
	struct format_header header;
	int r = add_projections(m, codec);

	if (r == 0)
		r = new_file_open(&file, path, reason);
	if (r == 0)
		r = delta_file_write(m->file, &parts, file.fd, &header, reason);
	return r < 0 ? r : new_file_commit(&file, reason);
}

int main(int argc, char **argv)
{
	struct maker m = {0};
	const struct codec *codec = argc == 5 ? find_codec(argv[2], argv[3], &m.bits) : NULL;
	struct base *base = NULL;
	struct reason reason = {0};
	int r;

	if (!codec) {
		fprintf(stderr, "usage: write_delta BASE k-bit|sign|dropout|low-rank|delta-come "
				"BITS FILE\n");
		return 2;
	}
	r = base_open(argv[1], &base, NULL, &reason);
	m.base = base;
	if (r == 0)
		r = delta_file_new(&m.file);
	if (r == 0)
		r = write_delta(&m, codec, argv[4], &reason);
	if (r < 0)
		fprintf(stderr, "write_delta: %s\n", reason.text[0] ? reason.text : strerror(-r));
	delta_file_free(m.file);
	base_free(base);
	return r < 0;
}
