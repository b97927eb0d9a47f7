/*
 * Fine-tunes with a head of their own on a base that has codes for its head, from two folders to
 * logits, against the same model in double. Half of the fine-tune's rows are the base's own.
 */
#include "compress/compress.h"
#include "compress/served.h"
#include "engine/score.h"
#include "kernels/convert.h"
#include "store/delta.h"
#include "tests/compute.h"
#include "tests/dense_delta.h"
#include "tests/double_model.h"
#include "tests/model_folder.h"
#include "tests/scratch.h"
#include "tests/tiny_pair.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#define FOLDER "tests/golden/data/tiny/llama-gqa"
#define HEAD "lm_head.weight"
#define N_IDS 16
/* Sums in f32, of the largest logit; a row of the other half is off by a hundred times as much. */
#define TOLERANCE 1e-4

struct fixture {
	char *folder; /* of the fine-tune */
	struct checkpoint *base, *tuned;
	uint32_t vocab, hidden, last; /* last layer */
	struct kernels kernels;
	struct served served; /* int8, with the delta */
};

static bool is_changed(size_t row)
{
	return row % 2 == 0;
}

static void write_tuned(const char *folder)
{
	struct model_folder base, tuned;
	struct folder_tensor *from, *to;

	model_folder_read(&base, FOLDER);
	model_folder_read(&tuned, FOLDER "-ft");
	from = model_folder_find(&base, HEAD);
	to = model_folder_find(&tuned, HEAD);
	for (size_t row = 0; row < to->shape[0]; row++)
		if (!is_changed(row))
			memcpy(to->values + row * to->shape[1], from->values + row * to->shape[1],
				to->shape[1] * sizeof(float));
	model_folder_write(&tuned, folder, 1);
	model_folder_done(&tuned);
	model_folder_done(&base);
}

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	char *scratch = scratch_folder();
	char *tuned = scratch_path(scratch, "tuned");
	const struct model_config *c;

	assert_non_null(f);
	write_tuned(tuned);
	f->folder = scratch;
	f->base = folder_opened(FOLDER);
	f->tuned = folder_opened(tuned);
	c = checkpoint_config(f->base);
	f->vocab = c->vocab;
	f->hidden = c->hidden;
	f->last = c->n_layers - 1;
	assert_int_equal(kernels_select(&f->kernels, NULL, NULL), 0);
	free(tuned);
	*state = f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;

	served_done(&f->served);
	checkpoint_free(f->base);
	checkpoint_free(f->tuned);
	scratch_remove(f->folder);
	free(f->folder);
	free(f);
	return 0;
}

static void expect_ok(int r, const struct reason *reason)
{
	if (r < 0)
		fail_msg("%d: %s", r, reason->text);
}

/* The delta on the base as int8. */
static void serve(struct fixture *f, const char *method, enum weights base_weights,
	struct embedding_choice embedding)
{
	const struct compress_settings settings = {
		.method = method,
		.base_weights = base_weights,
		.embedding = embedding,
		.calibration_tokens = 512,
		.window = 64,
		.n_threads = 1,
		.measure = COMPRESS_MEASURE_NEVER,
	};
	struct compress_report report;
	struct reason reason = {0};
	struct delta *delta;
	int fd = memfd_create("delta", MFD_CLOEXEC);

	assert_true(fd >= 0);
	expect_ok(
		compress_delta(f->base, f->tuned, &settings, fd, NULL, &report, &reason), &reason);
	expect_ok(
		served_of_checkpoint(f->base, WEIGHTS_INT8, &f->kernels, NULL, &f->served, &reason),
		&reason);
	assert_int_equal(f->served.base->head.codec, CODEC_MAT_INT);
	expect_ok(delta_load(fd, f->served.base, &delta, NULL, &reason), &reason);
	expect_ok(served_add_delta(&f->served, delta, &reason), &reason);
	close(fd);
}

struct logits {
	float *at;
	uint32_t vocab;
};

static void take_logits(void *user, size_t position, const float *logits)
{
	const struct logits *to = user;

	memcpy(to->at + position * to->vocab, logits, to->vocab * sizeof(*logits));
}

static void make_ids(uint32_t ids[static N_IDS])
{
	for (uint32_t i = 0; i < N_IDS; i++)
		ids[i] = 3 + i * 37 % 300;
}

/* N_IDS x vocab, by the engine; malloc'ed. */
static float *engine_logits(const struct fixture *f)
{
	struct logits to = {malloc((size_t)N_IDS * f->vocab * sizeof(float)), f->vocab};
	struct scorer *scorer;
	uint32_t ids[N_IDS];

	assert_non_null(to.at);
	make_ids(ids);
	assert_int_equal(scorer_new(f->served.model, compute_pool, N_IDS, &scorer, NULL), 0);
	assert_int_equal(score_sequence(scorer, served_variant(&f->served), ids, N_IDS, take_logits,
				 &to, NULL),
		0);
	scorer_free(scorer);
	return to.at;
}

/* The fine-tune in double, with its own head, or with that which the base serves; malloc'ed. */
static double *exact_logits(const struct fixture *f, bool own_head)
{
	double *logits = malloc((size_t)N_IDS * f->vocab * sizeof(*logits));
	struct dense_model *dense;
	struct double_model *m;
	uint32_t ids[N_IDS];

	assert_non_null(logits);
	make_ids(ids);
	assert_int_equal(dense_model_read(f->tuned, &dense, NULL), 0);
	for (uint32_t row = 0; !own_head && row < f->vocab; row++)
		base_matrix_row(dense->layers[f->last].at[ROLE_HEAD] + (size_t)row * f->hidden,
			&f->served.base->head, row);
	m = double_model_of(dense, N_IDS);
	m->rounds_head = !own_head;
	double_model_logits(m, ids, N_IDS, NULL, logits);
	double_model_free(m);
	dense_model_free(dense);
	return logits;
}

/* Tokens whose rows the delta has say what the fine-tune says, all others what codes make of it. */
static void expect_logits(const struct fixture *f, bool all_rows)
{
	double *own = exact_logits(f, true), *served = exact_logits(f, false);
	double largest = 0, worst = 0, apart = 0;
	float *got = engine_logits(f);

	for (size_t i = 0; i < (size_t)N_IDS * f->vocab; i++) {
		const double *expected = all_rows || is_changed(i % f->vocab) ? own : served;

		largest = fmax(largest, fabs(own[i]));
		worst = fmax(worst, fabs((double)got[i] - expected[i]));
		apart = fmax(apart, fabs(served[i] - own[i]));
	}
	assert_true(apart > 20 * TOLERANCE * largest);
	if (!(worst <= TOLERANCE * largest))
		fail_msg("a logit is off by %g, the largest is %g", worst, largest);
	free(own);
	free(served);
	free(got);
}

static const struct linear_delta *head_of(const struct fixture *f)
{
	return &f->served.delta->head;
}

/* A delta that fits every packing of the base. */
static void test_changed_rows(void **state)
{
	struct fixture *f = *state;

	serve(f, "dense", WEIGHTS_BF16, (struct embedding_choice){EMBEDDING_EXACT, 0, false});
	assert_int_equal(head_of(f)->n_parts, 1);
	assert_int_equal(head_of(f)->parts[0].rows.n_rows, f->vocab / 2);
	expect_logits(f, false);
}

/* Of what is to be the fine-tune's to the bit, all rows are stored. */
static void test_nothing_is_lost(void **state)
{
	static const char *const methods[] = {"lossless", "dense"};
	struct fixture *f = *state;

	for (size_t i = 0; i < array_len(methods); i++) {
		serve(f, methods[i], WEIGHTS_INT8, (struct embedding_choice){0});
		assert_int_equal(head_of(f)->n_parts, 1);
		assert_int_equal(head_of(f)->parts[0].rows.n_rows, f->vocab);
		expect_logits(f, true);
		served_done(&f->served);
	}
}

static double *served_head(const struct fixture *f)
{
	double *ret = malloc((size_t)f->vocab * f->hidden * sizeof(*ret));
	float *row = malloc(f->hidden * sizeof(*row));

	assert_true(ret && row);
	for (uint32_t r = 0; r < f->vocab; r++) {
		base_matrix_row(row, &f->served.base->head, r);
		for (uint32_t c = 0; c < f->hidden; c++)
			ret[(size_t)r * f->hidden + c] = (double)row[c];
	}
	free(row);
	return ret;
}

static double distance(const double *a, const double *b, size_t n)
{
	double sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += (a[i] - b[i]) * (a[i] - b[i]);
	return sqrt(sum);
}

/* 8 bits keep a change to 1 %, and what the codes of the base lost is part of the change, but for
 * the rounding of the base to bf16, from which it is told. Rows that did not change stay as they
 * are served. */
static void test_coded_rows(void **state)
{
	struct fixture *f = *state;
	double *before, *after, *tuned, *zeros;
	uint16_t *words;
	size_t n;

	serve(f, "k-bit", WEIGHTS_INT8, (struct embedding_choice){EMBEDDING_BITS, 8, false});
	n = (size_t)f->vocab * f->hidden;
	before = served_head(f);
	after = served_head(f);
	tuned = malloc(n * sizeof(*tuned));
	zeros = calloc(f->hidden, sizeof(*zeros));
	words = malloc(n * sizeof(*words));
	assert_true(tuned && zeros && words);
	assert_int_equal(checkpoint_read_bf16(f->tuned, ROLE_HEAD, f->last, words, NULL, NULL), 0);
	for (size_t i = 0; i < n; i++)
		tuned[i] = (double)bf16_to_f32(words[i]);
	dense_delta_apply(head_of(f), f->hidden, after, NULL);
	for (size_t row = 0; row < f->vocab; row++) {
		size_t at = row * f->hidden;

		if (is_changed(row))
			assert_true(distance(after + at, tuned + at, f->hidden) <=
				    0.01 * distance(before + at, tuned + at, f->hidden) +
					    0x1p-9 * distance(before + at, zeros, f->hidden));
		else
			assert_memory_equal(after + at, before + at, f->hidden * sizeof(*after));
	}
	free(before);
	free(after);
	free(tuned);
	free(zeros);
	free(words);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_changed_rows, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_nothing_is_lost, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_coded_rows, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, compute_start, compute_stop);
}
