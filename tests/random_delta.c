#include "tests/random_delta.h"

#include "common/file.h"
#include "compress/delta_file.h"
#include "foreign/tokenizer_json.h"
#include "kernels/convert.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

struct plan {
	const struct base *base;
	bool projections_only;
	enum tensor_role head_like; /* a projection; 0: some rows are new, others have codes */
	uint8_t *chat;              /* section; or NULL */
	size_t n_chat;
	struct model_config config;
	uint32_t state;
	uint32_t n_added;
	struct delta_file *file;
};

uint32_t random_u32(uint32_t *state)
{
	*state = *state * 1664525u + 1013904223u;
	return *state >> 8 ^ *state >> 20;
}

float random_float(uint32_t *state)
{
	return (float)(random_u32(state) & 0xffff) / 32768.0f - 1.0f;
}

static void add(struct plan *p, struct part *part)
{
	assert_int_equal(delta_file_add(p->file, part), 0);
}

/* Values of about `size`, whatever the grid. */
static struct code_matrix *random_codes(
	struct plan *p, uint32_t rows, uint32_t cols, uint8_t bits, enum grid_kind grid, float size)
{
	uint32_t n_scales = grid == GRID_GROUP ? rows * (uint32_t)qmat_groups(cols) : rows;
	float step = size / (float)(1 << bits);
	struct code_matrix *m;

	assert_int_equal(code_matrix_new(rows, cols, bits, grid, &m), 0);
	for (size_t i = 0; i < (size_t)rows * cols; i++)
		m->codes[i] = (uint8_t)(random_u32(&p->state) & ((1u << bits) - 1));
	for (uint32_t i = 0; m->scales && i < n_scales; i++)
		m->scales[i] = f16_from_f32(step * (1.5f + random_float(&p->state)));
	for (uint32_t i = 0; m->zeros && i < n_scales; i++)
		m->zeros[i] = (uint8_t)(random_u32(&p->state) & ((1u << bits) - 1));
	if (grid == GRID_MATRIX)
		m->step = step;
	if (grid != GRID_GROUP)
		m->zero = 0.5f * (float)((1 << bits) - 1);
	return m;
}

static void add_factors(struct plan *p, struct part_place place, uint32_t n, uint8_t bits,
	enum grid_kind grid, bool coded)
{
	struct code_matrix *v = random_codes(p, n, place.cols, bits, grid, 0.2f);
	struct code_matrix *u = random_codes(p, n, place.rows, bits, grid, 0.2f);
	float sigma[16];
	struct part part;

	assert_true(n <= array_len(sigma));
	/* Factors on the grid of the matrix are integers: their steps are in sigma. */
	for (uint32_t i = 0; i < n; i++)
		sigma[i] = (0.75f + 0.25f * random_float(&p->state)) *
			   (grid == GRID_MATRIX ? v->step * u->step : 1);
	if (grid == GRID_MATRIX)
		v->step = u->step = 1;
	assert_int_equal(part_factors(&place, v, u, sigma, coded, &part), 0);
	add(p, &part);
	code_matrix_free(v);
	code_matrix_free(u);
}

static void add_plain_factors(struct plan *p, struct part_place place, uint8_t bits)
{
	enum { N = 3 };
	float *numbers = malloc(N * (place.rows + place.cols) * sizeof(*numbers));
	const float sigma[N] = {0.1f, 0.05f, -0.02f};
	const struct plain_factors f = {N, numbers, numbers + (size_t)N * place.cols, sigma};
	struct part part;

	assert_non_null(numbers);
	for (uint32_t i = 0; i < N * (place.rows + place.cols); i++)
		numbers[i] = random_float(&p->state);
	assert_int_equal(part_factors_plain(&place, &f, bits, &part), 0);
	add(p, &part);
	free(numbers);
}

static void add_codes(
	struct plan *p, struct part_place place, uint8_t bits, enum grid_kind grid, bool coded)
{
	struct code_matrix *m = random_codes(p, place.rows, place.cols, bits, grid, 0.1f);
	struct part part;

	assert_int_equal(part_codes(&place, m, NULL, coded, &part), 0);
	add(p, &part);
	code_matrix_free(m);
}

/* n_keep of each group of columns. */
static void add_dropout(
	struct plan *p, struct part_place place, uint32_t group, uint32_t n_keep, bool coded)
{
	struct survivors s = {.group = group, .n_keep = n_keep, .seed = p->state};
	struct code_matrix *m =
		random_codes(p, place.rows, place.cols / group * n_keep, 4, GRID_ROW, 0.5f);
	struct part part;

	assert_int_equal(place.cols % group, 0);
	s.codes = m;
	assert_int_equal(part_dropout(&place, &s, coded, &part), 0);
	add(p, &part);
	code_matrix_free(m);
}

/* Every second row has codes; none of them is replaced. */
static void add_some_codes(struct plan *p, struct part_place place)
{
	uint32_t n = 0, *rows = malloc(place.rows * sizeof(*rows));
	struct code_matrix *m;
	struct part part;

	assert_non_null(rows);
	for (uint32_t r = 2 * MAT_BLOCK; r < p->base->config.vocab; r += 2)
		if (r % 7 != 0)
			rows[n++] = r;
	m = random_codes(p, n, place.cols, 2, GRID_ROW, 0.1f);
	assert_int_equal(part_codes(&place, m, rows, place.layer % 2, &part), 0);
	add(p, &part);
	code_matrix_free(m);
	free(rows);
}

/* A whole block, every seventh row after it, and all added tokens. */
static uint32_t replaced_row(const struct plan *p, uint32_t i)
{
	if (i < MAT_BLOCK)
		return MAT_BLOCK + i;
	if (i < RANDOM_DELTA_REPLACED)
		return 7 * i;
	return p->base->config.vocab + i - RANDOM_DELTA_REPLACED;
}

/* The base's words of a whole matrix, which the new ones are then told from. */
static uint16_t *base_words(const struct plan *p, struct part_place place)
{
	const struct base_matrix *m = base_matrix(p->base, place.role, place.layer);
	uint16_t *words = malloc((size_t)m->rows * m->cols * sizeof(*words));

	assert_non_null(words);
	for (uint32_t r = 0; r < m->rows; r++)
		base_matrix_row_bf16(words + (size_t)r * m->cols, m, r);
	return words;
}

static void add_rows(struct plan *p, struct part_place place, bool all)
{
	uint32_t n = all ? place.rows : RANDOM_DELTA_REPLACED + p->n_added;
	uint32_t *rows = malloc(n * sizeof(*rows));
	uint16_t *values = malloc((size_t)n * place.cols * sizeof(*values));
	uint16_t *base = all && place.layer == 1 ? base_words(p, place) : NULL;
	const struct new_rows new_rows = {
		.n = n,
		.rows = all ? NULL : rows,
		.values = values,
		.base = base,
		.base_rows = place.rows,
	};
	struct part part;

	assert_true(rows && values);
	for (uint32_t i = 0; i < n; i++)
		rows[i] = replaced_row(p, i);
	for (size_t i = 0; i < (size_t)n * place.cols; i++)
		values[i] = bf16_from_f32(0.1f * random_float(&p->state));
	assert_int_equal(part_rows(&place, &new_rows, &part), 0);
	add(p, &part);
	free(rows);
	free(values);
	free(base);
}

static void add_vector(struct plan *p, struct part_place place)
{
	float *values = malloc(place.rows * sizeof(*values));
	struct part part;

	assert_non_null(values);
	for (uint32_t i = 0; i < place.rows; i++)
		values[i] = 1 + 0.25f * random_float(&p->state);
	assert_int_equal(part_vector(&place, values, &part), 0);
	add(p, &part);
	free(values);
}

static void add_bands(struct plan *p, struct part_place place)
{
	static const uint8_t bits[] = {8, 3, 2};
	static const uint32_t ranks[] = {2, 5, 7};

	for (uint8_t i = 0; i < array_len(bits); i++) {
		place.level = i;
		add_factors(p, place, ranks[i], bits[i], GRID_GROUP, false);
	}
}

static void add_residual(struct plan *p, struct part_place place)
{
	add_factors(p, place, 6, 4, GRID_MATRIX, true);
	place.level = 1;
	add_codes(p, place, 2, GRID_MATRIX, true);
}

/* The groups of the second are small enough for products with rounded inputs. */
static void add_dropouts(struct plan *p, struct part_place place)
{
	add_dropout(p, place, place.cols / 4, 3, false);
	place.level = 1;
	add_dropout(p, place, 8, 2, false);
}

/* Every codec has its place, the same in all layers. */
static void add_tensor(struct plan *p, struct part_place place)
{
	bool as_projection = place.role == ROLE_HEAD && p->head_like;

	switch ((int)(as_projection ? p->head_like : place.role)) {
	case ROLE_Q:
		add_bands(p, place);
		return;
	case ROLE_K:
		add_codes(p, place, 1, GRID_ROW, false);
		return;
	case ROLE_V:
		add_dropouts(p, place);
		return;
	case ROLE_O:
		add_residual(p, place);
		return;
	case ROLE_GATE:
		add_codes(p, place, 3, GRID_GROUP, false);
		return;
	case ROLE_UP:
		if (place.layer % 2)
			add_rows(p, place, true);
		else
			add_dropout(p, place, place.cols / 4, 3, true);
		return;
	case ROLE_DOWN:
		add_plain_factors(p, place, place.layer % 2 ? 16 : 32);
		return;
	}
	if (p->projections_only)
		return;
	if (place.role == ROLE_ATTN_NORM)
		add_vector(p, place);
	if (place.role != ROLE_EMBED && place.role != ROLE_HEAD)
		return;
	add_rows(p, place, false);
	place.level = 1;
	add_some_codes(p, place);
}

static void make_delta(struct plan *p, uint32_t seed, int fd)
{
	struct digest tuned = digest_of(&seed, sizeof(seed));
	const struct delta_file_parts parts = {
		.config = &p->config,
		.base = base_served_digest(p->base),
		.tuned = &tuned,
		.chat = p->chat,
		.n_chat = p->n_chat,
	};
	struct format_header header;

	p->config.vocab += p->n_added;
	p->state = seed * 2654435761u + 1;
	assert_int_equal(delta_file_new(&p->file), 0);
	for (uint32_t layer = 0; layer < p->config.n_layers; layer++)
		for (uint32_t role = 0; role < N_ROLES; role++) {
			struct part_place place = {.role = role, .layer = layer};

			if (model_config_shape(
				    &p->config, place.role, layer, &place.rows, &place.cols))
				add_tensor(p, place);
		}
	assert_int_equal(delta_file_write(p->file, &parts, fd, &header, NULL), 0);
	delta_file_free(p->file);
}

static struct delta *delta_of(struct plan *p, uint32_t seed)
{
	struct reason reason = {0};
	struct image *image = NULL;
	struct delta *delta = NULL;
	int fd = memfd_create("random-delta", MFD_CLOEXEC);

	assert_true(fd >= 0);
	make_delta(p, seed, fd);
	if (image_load(fd, &image, NULL, &reason) < 0 ||
		delta_bind(image, p->base, &delta, &reason) < 0)
		fail_msg("random delta: %s", reason.text);
	close(fd);
	return delta;
}

struct delta *random_delta(const struct base *base, uint32_t seed, uint32_t n_added)
{
	struct plan p = {.base = base, .config = base->config, .n_added = n_added};

	return delta_of(&p, seed);
}

struct delta *random_delta_with_head(
	const struct base *base, uint32_t seed, enum tensor_role head_like)
{
	struct plan p = {.base = base, .config = base->config, .head_like = head_like};

	return delta_of(&p, seed);
}

void random_delta_file(
	const struct base *base, uint32_t seed, const char *chat_folder, const char *path)
{
	struct plan p = {.base = base, .config = base->config, .projections_only = true};
	_cleanup_(new_file_done) struct new_file file = NEW_FILE_INIT;
	struct reason reason = {0};

	if (chat_folder && chat_format_compile(chat_folder, &p.chat, &p.n_chat, &reason) < 0)
		fail_msg("%s: %s", chat_folder, reason.text);
	assert_int_equal(new_file_open(&file, path, NULL), 0);
	make_delta(&p, seed, file.fd);
	assert_int_equal(new_file_commit(&file, NULL), 0);
	free(p.chat);
}
