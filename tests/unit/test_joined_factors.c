/*
 * Factors of a tensor that stand at different levels of a file, expanded side by side.
 */
#include "compress/delta_file.h"
#include "kernels/convert.h"
#include "kernels/pack.h"
#include "tests/random_delta.h"
#include "tests/small_image.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#define N_LEVELS 4
#define MOST 7 /* components of a part */

/* What stands at a level; the numbers of level l are of seed l. */
struct piece {
	bool codes; /* in the place of factors */
	bool coded;
	uint8_t bits;
	uint32_t n;
};

struct fixture {
	struct base *base;
	struct image *image;
	struct delta *delta;
};

static struct base *load_base(void)
{
	_cleanup_(closep) int fd = small_base_file();
	struct reason reason = {0};
	struct image *image;
	struct base *base;

	if (image_load(fd, &image, NULL, &reason) < 0 || base_bind(image, &base, &reason) < 0)
		fail_msg("%s", reason.text);
	return base;
}

/* Codes of a level, and sigmas that fp16 holds in units of their largest. */
static struct code_matrix *codes_of(uint32_t *state, uint32_t n, uint32_t cols, uint8_t bits)
{
	struct code_matrix *m;

	assert_int_equal(code_matrix_new(n, cols, bits, GRID_MATRIX, &m), 0);
	for (size_t i = 0; i < (size_t)n * cols; i++)
		m->codes[i] = (uint8_t)(random_u32(state) & ((1u << bits) - 1));
	m->step = 1;
	m->zero = (float)(1u << (bits - 1));
	return m;
}

static float sigma_of(uint32_t level, uint32_t i)
{
	return (float)(level + 1) / (float)(1u << i);
}

static struct part part_of(const struct piece *p, struct part_place place)
{
	uint32_t state = place.level;
	float sigma[MOST];
	struct part part;
	struct code_matrix *v = codes_of(&state, p->codes ? place.rows : p->n, place.cols, p->bits);
	struct code_matrix *u = codes_of(&state, p->n, place.rows, p->bits);

	for (uint32_t i = 0; i < p->n; i++)
		sigma[i] = sigma_of(place.level, i);
	if (p->codes)
		assert_int_equal(part_codes(&place, v, NULL, p->coded, &part), 0);
	else
		assert_int_equal(part_factors(&place, v, u, sigma, p->coded, &part), 0);
	code_matrix_free(v);
	code_matrix_free(u);
	return part;
}

/* The down of layer 1 has these pieces; more at a level than it holds are none. */
static int delta_of(
	const struct piece pieces[static N_LEVELS], struct fixture *ret, struct reason *reason)
{
	struct digest tuned = digest_of("tuned", 5);
	struct part_place place = {.role = ROLE_DOWN,
		.layer = 1,
		.rows = small_config.hidden,
		.cols = small_config.ffn};
	_cleanup_(closep) int fd = memfd_create("joined", MFD_CLOEXEC);
	struct delta_file_parts parts = {.config = &small_config, .tuned = &tuned};
	struct format_header header;
	struct delta_file *file;
	int r;

	*ret = (struct fixture){.base = load_base()};
	parts.base = base_served_digest(ret->base);
	assert_int_equal(delta_file_new(&file), 0);
	for (uint8_t level = 0; level < N_LEVELS; level++) {
		struct part part;

		if (pieces[level].n == 0)
			continue;
		place.level = level;
		part = part_of(&pieces[level], place);
		assert_int_equal(delta_file_add(file, &part), 0);
	}
	assert_int_equal(delta_file_write(file, &parts, fd, &header, reason), 0);
	delta_file_free(file);
	assert_int_equal(image_load(fd, &ret->image, NULL, reason), 0);
	r = delta_bind(ret->image, ret->base, &ret->delta, reason);
	if (r < 0)
		image_free(ret->image);
	return r;
}

static void fixture_done(struct fixture *f)
{
	delta_free(f->delta);
	base_free(f->base);
}

/* Components from `first` on are those of a piece. */
static void expect_components(
	const struct factors *f, uint32_t first, const struct piece *p, uint8_t level)
{
	const struct part_place place = {
		.rows = small_config.hidden, .cols = small_config.ffn, .level = level};
	uint32_t state = level;
	struct code_matrix *v = codes_of(&state, p->n, place.cols, p->bits);
	struct code_matrix *u = codes_of(&state, p->n, place.rows, p->bits);

	for (uint32_t i = 0; i < p->n; i++) {
		assert_true(f->sigma[first + i] == sigma_of(level, i));
		for (uint32_t c = 0; c < place.cols; c++)
			assert_int_equal(
				qmat_code(&f->v, first + i, c), v->codes[i * place.cols + c]);
		for (uint32_t c = 0; c < place.rows; c++)
			assert_int_equal(
				qmat_code(&f->u, first + i, c), u->codes[i * place.rows + c]);
	}
	code_matrix_free(v);
	code_matrix_free(u);
}

static void levels_of_one_width_are_one_part(void **unused)
{
	static const struct piece pieces[N_LEVELS] = {
		{.coded = true, .bits = 3, .n = 2},
		{.coded = true, .bits = 3, .n = 7},
		{.n = 0},
		{.coded = true, .bits = 3, .n = 1},
	};
	struct reason reason = {0};
	struct fixture f;
	const struct linear_delta *m;

	(void)unused;
	assert_int_equal(delta_of(pieces, &f, &reason), 0);
	m = &f.delta->layers[1].down;
	assert_int_equal(f.delta->n_records, 3);
	assert_int_equal(m->n_parts, 1);
	assert_int_equal(m->parts[0].factors.v.rows, 10);
	assert_int_equal(m->parts[0].factors.u.rows, 10);
	expect_components(&m->parts[0].factors, 0, &pieces[0], 0);
	expect_components(&m->parts[0].factors, 2, &pieces[1], 1);
	/* Levels are numbered without gaps; the numbers are those of the place. */
	expect_components(&m->parts[0].factors, 9, &pieces[3], 3);
	fixture_done(&f);
}

static void others_keep_to_themselves(void **unused)
{
	static const struct piece pieces[][N_LEVELS] = {
		/* another width; not coded; codes between */
		{{.coded = true, .bits = 3, .n = 2}, {.coded = true, .bits = 2, .n = 5}},
		{{.coded = true, .bits = 3, .n = 2}, {.bits = 3, .n = 5}},
		{{.coded = true, .bits = 3, .n = 2}, {.codes = true, .bits = 3, .n = 1},
			{.coded = true, .bits = 3, .n = 5}},
	};

	(void)unused;
	for (size_t i = 0; i < array_len(pieces); i++) {
		struct reason reason = {0};
		const struct linear_delta *m;
		struct fixture f;

		assert_int_equal(delta_of(pieces[i], &f, &reason), 0);
		m = &f.delta->layers[1].down;
		assert_int_equal(m->n_parts, f.delta->n_records);
		for (uint8_t k = 0; k < m->n_parts; k++)
			if (!pieces[i][k].codes)
				expect_components(&m->parts[k].factors, 0, &pieces[i][k], k);
		fixture_done(&f);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(levels_of_one_width_are_one_part),
		cmocka_unit_test(others_keep_to_themselves),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
