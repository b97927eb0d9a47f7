/*
 * Gradients of every tensor of every family against central differences of the losses of a model in
 * double (tests/double_model.h).
 */
#include "compress/backward.h"

#include "common/random.h"
#include "tests/compute.h"
#include "tests/double_model.h"
#include "tests/golden_file.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define STEP 1e-4      /* of the differences */
#define TOLERANCE 3e-4 /* of a gradient, by the norm of its tensor's gradient */

struct fixture {
	struct dense_model *model, *teacher, *gradients;
	struct double_model *exact, *exact_teacher;
	struct sequences sequences;
	struct pool *pool;
	struct backward *backward;
	struct loss loss;
};

static const size_t lengths[] = {38, 3, 70, 2};
static const size_t answers[] = {20, 1, 31, 1};

static void make_sequences(struct sequences *s, uint32_t vocab, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		uint32_t ids[70];

		for (size_t t = 0; t < lengths[i]; t++)
			ids[t] = (uint32_t)(random_at(i, t) % vocab);
		assert_int_equal(sequences_add(s, ids, lengths[i], answers[i]), 0);
	}
}

/* Takes the model; sequences are there already. */
static void open_fixture(struct fixture *f, struct dense_model *model, size_t n_threads)
{
	uint32_t longest = sequences_longest(&f->sequences);
	struct reason reason = {0};

	f->model = model;
	f->exact = double_model_of(model, longest);
	assert_int_equal(dense_model_new(&model->config, &f->gradients), 0);
	assert_int_equal(dense_model_fill(f->gradients, DENSE_ALL), 0);
	assert_int_equal(pool_new(n_threads, &f->pool, &reason), 0);
	assert_int_equal(backward_new(&model->config, f->pool, longest, &f->backward, &reason), 0);
	f->loss.weight = 1.0 / (double)sequences_judged(&f->sequences);
}

/* Takes the model. */
static void open_small(struct fixture *f, struct dense_model *model, size_t n_sequences)
{
	*f = (struct fixture){0};
	make_sequences(&f->sequences, model->config.vocab, n_sequences);
	open_fixture(f, model, 2);
}

static void close_fixture(struct fixture *f)
{
	backward_free(f->backward);
	pool_free(f->pool);
	sequences_done(&f->sequences);
	double_model_free(f->exact);
	if (f->exact_teacher)
		double_model_free(f->exact_teacher);
	dense_model_free(f->model);
	dense_model_free(f->teacher);
	dense_model_free(f->gradients);
}

static double log_sum(const double *z, size_t n, double scale)
{
	double sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += exp(z[i] * scale);
	return log(sum);
}

static double divergence(const double *teacher, const double *z, size_t n)
{
	double p_sum = log_sum(teacher, n, 1), q_sum = log_sum(z, n, 1), kl = 0;

	for (size_t i = 0; i < n; i++)
		kl += exp(teacher[i] - p_sum) * (teacher[i] - p_sum - z[i] + q_sum);
	return kl;
}

/* The loss of one sequence, unweighted. */
static double exact_sequence(const struct fixture *f, size_t i)
{
	const struct sequence *s = &f->sequences.items[i];
	const uint32_t *ids = sequence_ids(&f->sequences, i);
	size_t vocab = f->model->config.vocab, n = s->n - 1;
	double *z = calloc(2 * n * vocab, sizeof(*z)), *teacher = z + n * vocab, sum = 0;

	assert_non_null(z);
	double_model_logits(f->exact, ids, n, NULL, z);
	if (f->exact_teacher)
		double_model_logits(f->exact_teacher, ids, n, NULL, teacher);
	for (size_t p = s->answer; p < s->n; p++) {
		const double *row = z + (p - 1) * vocab;

		sum += f->exact_teacher ? divergence(teacher + (p - 1) * vocab, row, vocab)
					: log_sum(row, vocab, 1) - row[ids[p]];
	}
	free(z);
	return sum;
}

static double exact_loss(const struct fixture *f)
{
	double sum = 0;

	for (size_t i = 0; i < f->sequences.n; i++)
		sum += exact_sequence(f, i);
	return sum;
}

static struct loss_sums run_gradient(struct fixture *f, const struct batch *batch)
{
	struct reason reason = {0};
	struct loss_sums sums;

	if (backward_gradient(
		    f->backward, f->model, batch, &f->loss, f->gradients, &sums, &reason) < 0)
		fail_msg("%s", reason.text);
	return sums;
}

/* The slope of the mean loss along `direction` of one tensor. */
static double slope(struct fixture *f, double *tensor, const double *direction, size_t n)
{
	double up, down;

	for (size_t i = 0; i < n; i++)
		tensor[i] += STEP * direction[i];
	up = exact_loss(f);
	for (size_t i = 0; i < n; i++)
		tensor[i] -= 2 * STEP * direction[i];
	down = exact_loss(f);
	for (size_t i = 0; i < n; i++)
		tensor[i] += STEP * direction[i];
	return (up - down) / (2 * STEP) * f->loss.weight;
}

/* Random signs: any wrong number changes the slope; the gradient's norm is what it weighs against.
 */
static void check_tensor(struct fixture *f, const char *name, uint32_t layer, unsigned int role)
{
	size_t n = dense_count(f->gradients, (enum tensor_role)role, layer);
	const float *gradient = f->gradients->layers[layer].at[role];
	double *direction, got = 0, norm = 0, expected;

	if (n == 0)
		return;
	direction = calloc(n, sizeof(*direction));
	assert_non_null(direction);
	for (size_t i = 0; i < n; i++) {
		direction[i] = random_at(role, i) & 1 ? 1 : -1;
		got += (double)gradient[i] * direction[i];
		norm += (double)gradient[i] * (double)gradient[i];
	}
	expected = slope(f, f->exact->layers[layer][role], direction, n);
	if (!(fabs(got - expected) <= TOLERANCE * sqrt(norm) + 1e-7))
		fail_msg("%s layer %u role %u: slope %.9g, expected %.9g, gradient's norm %.3g",
			name, layer, role, got, expected, sqrt(norm));
	free(direction);
}

static void check_all(struct fixture *f, const char *name)
{
	struct batch batch = {.sequences = &f->sequences, .n = f->sequences.n};
	struct loss_sums sums = run_gradient(f, &batch);
	double expected = exact_loss(f);

	assert_int_equal(sums.n, sequences_judged(&f->sequences));
	if (!(fabs(sums.sum - expected) <= 1e-5 * fabs(expected)))
		fail_msg("%s: loss %.9g, expected %.9g", name, sums.sum, expected);
	for (uint32_t layer = 0; layer < f->model->config.n_layers; layer++)
		for (unsigned int role = 0; role < N_ROLES; role++)
			check_tensor(f, name, layer, role);
}

static void test_every_family_of_the_reference(void **state)
{
	struct reason reason = {0};

	(void)state;
	for (size_t i = 0; tiny_name(i); i++) {
		struct checkpoint *c;
		struct dense_model *m;
		struct fixture f;
		char folder[128];

		if (checkpoint_open(tiny_folder(tiny_name(i), folder), &c, &reason) < 0)
			fail_msg("%s: %s", folder, reason.text);
		assert_int_equal(dense_model_read(c, &m, &reason), 0);
		checkpoint_free(c);
		open_small(&f, m, 1);
		f.loss.kind = LOSS_TOKENS;
		check_all(&f, tiny_name(i));
		close_fixture(&f);
	}
}

/* Everything that a model may have at once. */
static const struct model_config full = {
	.family = MODEL_FAMILY_QWEN3,
	.flags = MODEL_QKV_BIAS | MODEL_O_BIAS | MODEL_MLP_BIAS | MODEL_QK_NORM,
	.n_layers = 2,
	.hidden = 24,
	.ffn = 40,
	.n_heads = 4,
	.n_kv_heads = 2,
	.head_dim = 8,
	.vocab = 50,
	.max_positions = 128,
	.sliding_window = 9,
	.first_window_layer = 1,
	.rope_kind = ROPE_KIND_YARN,
	.rope_original_positions = 32,
	.rope_theta = 10000,
	.rope_factor = 4,
	.rope_beta_fast = 32,
	.rope_beta_slow = 1,
	.rope_attention_factor = 1.1386f,
	.norm_eps = 1e-5f,
	.bos = -1,
	.pad = -1,
};

static void test_all_parts_at_once(void **state)
{
	struct fixture f;

	(void)state;
	open_small(&f, random_dense_model(&full, 1), 4);
	f.loss.kind = LOSS_TOKENS;
	check_all(&f, "full");
	close_fixture(&f);
}

static void open_teacher(struct fixture *f, float **ret_states)
{
	struct batch batch = {.sequences = &f->sequences, .n = f->sequences.n};
	struct reason reason = {0};

	f->teacher = random_dense_model(&f->model->config, 2);
	f->exact_teacher = double_model_of(f->teacher, sequences_longest(&f->sequences));
	*ret_states = calloc(batch_judged(&batch) * f->model->config.hidden, sizeof(**ret_states));
	assert_non_null(*ret_states);
	assert_int_equal(backward_states(f->backward, f->teacher, &batch, *ret_states, &reason), 0);
	f->loss.kind = LOSS_TEACHER;
	f->loss.teacher_states = *ret_states;
	f->loss.teacher_head = dense_head(f->teacher);
}

static void test_a_teacher_is_followed(void **state)
{
	_cleanup_(freep) float *states = NULL;
	struct model_config tied = full;
	struct fixture f;

	(void)state;
	tied.flags |= MODEL_TIED_HEAD;
	open_small(&f, random_dense_model(&tied, 1), 4);
	open_teacher(&f, &states);
	check_all(&f, "teacher");
	close_fixture(&f);
}

/* The gradient of a model that agrees with its teacher is nothing. */
static void test_the_teacher_itself_loses_nothing(void **state)
{
	_cleanup_(freep) float *states = NULL;
	struct batch batch;
	struct fixture f;
	struct loss_sums sums;

	(void)state;
	open_small(&f, random_dense_model(&full, 2), 4);
	open_teacher(&f, &states);
	batch = (struct batch){.sequences = &f.sequences, .n = f.sequences.n};
	sums = run_gradient(&f, &batch);
	assert_true(sums.sum < 1e-9);
	for (size_t i = 0; i < dense_count(f.gradients, ROLE_DOWN, 1); i++)
		assert_true(fabsf(f.gradients->layers[1].at[ROLE_DOWN][i]) < 1e-7f);
	close_fixture(&f);
}

/* Many sequences, so that there are several chunks, tiles and strips. */
static void open_many(struct fixture *f, size_t n_threads)
{
	struct model_config config = full;

	config.hidden = 48;
	config.ffn = 300;
	config.vocab = 700;
	*f = (struct fixture){0};
	for (size_t i = 0; i < 60; i++) {
		uint32_t ids[100];

		for (size_t t = 0; t < 100; t++)
			ids[t] = (uint32_t)(random_at(i, t) % config.vocab);
		assert_int_equal(sequences_add(&f->sequences, ids, 30 + i, 1 + i / 2), 0);
	}
	open_fixture(f, random_dense_model(&config, 3), n_threads);
	f->loss.weight = 1;
}

static void test_threads_do_not_show(void **state)
{
	struct batch batch = {.n = 60};
	struct fixture one, four;

	(void)state;
	open_many(&one, 1);
	open_many(&four, 4);
	for (int kind = LOSS_TOKENS; kind <= LOSS_SAMPLED; kind += LOSS_SAMPLED) {
		one.loss.kind = four.loss.kind = (enum loss_kind)kind;
		one.loss.temperature = four.loss.temperature = 2;
		batch.sequences = &one.sequences;
		run_gradient(&one, &batch);
		batch.sequences = &four.sequences;
		run_gradient(&four, &batch);
	}
	for (uint32_t layer = 0; layer < full.n_layers; layer++)
		for (unsigned int role = 0; role < N_ROLES; role++)
			if (one.gradients->layers[layer].at[role])
				assert_memory_equal(one.gradients->layers[layer].at[role],
					four.gradients->layers[layer].at[role],
					dense_count(one.gradients, (enum tensor_role)role, layer) *
						sizeof(float));
	close_fixture(&one);
	close_fixture(&four);
}

/* In one batch or one by one: the same gradient but for rounding; unwanted tensors stay out. */
static void test_batches_add_up(void **state)
{
	struct fixture whole, parts;
	struct batch batch = {.n = 60};
	double difference = 0, norm = 0;

	(void)state;
	open_many(&whole, 2);
	open_many(&parts, 2);
	whole.loss.kind = parts.loss.kind = LOSS_TOKENS;
	batch.sequences = &whole.sequences;
	run_gradient(&whole, &batch);
	batch.sequences = &parts.sequences;
	batch.n = 1;
	free(parts.gradients->owned[0].at[ROLE_Q]);
	parts.gradients->owned[0].at[ROLE_Q] = parts.gradients->layers[0].at[ROLE_Q] = NULL;
	for (size_t i = 60; i-- > 0;) {
		batch.picks = &i;
		run_gradient(&parts, &batch);
	}
	for (size_t i = 0; i < dense_count(whole.gradients, ROLE_GATE, 0); i++) {
		double a = (double)whole.gradients->layers[0].at[ROLE_GATE][i];

		difference += pow(a - (double)parts.gradients->layers[0].at[ROLE_GATE][i], 2);
		norm += a * a;
	}
	assert_true(sqrt(difference) < 1e-5 * sqrt(norm));
	close_fixture(&whole);
	close_fixture(&parts);
}

/* A model whose blocks are read one at a time has the gradient of one in memory. */
static void test_blocks_may_come_one_at_a_time(void **state)
{
	struct reason reason = {0};
	struct checkpoint *c;
	struct dense_model *m, *streamed, *again;
	struct batch batch = {.n = 1};
	struct loss_sums sums;
	struct fixture f;
	char folder[128];

	(void)state;
	assert_int_equal(checkpoint_open(tiny_folder("qwen2", folder), &c, &reason), 0);
	assert_int_equal(dense_model_read(c, &m, &reason), 0);
	assert_int_equal(dense_model_open(c, &streamed, &reason), 0);
	open_small(&f, m, 1);
	batch.sequences = &f.sequences;
	run_gradient(&f, &batch);
	assert_null(streamed->layers[1].at[ROLE_Q]);
	assert_int_equal(dense_model_new(&m->config, &again), 0);
	assert_int_equal(dense_model_fill(again, 1u << ROLE_Q | 1u << ROLE_EMBED), 0);
	assert_int_equal(
		backward_gradient(f.backward, streamed, &batch, &f.loss, again, &sums, &reason), 0);
	assert_null(streamed->layers[1].at[ROLE_Q]);
	assert_memory_equal(again->layers[1].at[ROLE_Q], f.gradients->layers[1].at[ROLE_Q],
		dense_count(again, ROLE_Q, 1) * sizeof(float));
	assert_memory_equal(dense_embedding(again), dense_embedding(f.gradients),
		dense_count(again, ROLE_EMBED, 0) * sizeof(float));
	dense_model_free(again);
	dense_model_free(streamed);
	checkpoint_free(c);
	close_fixture(&f);
}

static void test_what_cannot_be_read_is_refused(void **state)
{
	struct batch batch = {.n = 1};
	struct reason reason = {0};
	struct loss_sums sums;
	struct fixture f;

	(void)state;
	open_small(&f, random_dense_model(&full, 1), 1);
	batch.sequences = &f.sequences;
	f.sequences.ids[5] = full.vocab;
	assert_int_equal(
		backward_loss(f.backward, f.model, &batch, &f.loss, &sums, &reason), -EBADMSG);
	f.sequences.ids[5] = 0;
	f.sequences.items[0].n++;
	assert_int_equal(
		backward_loss(f.backward, f.model, &batch, &f.loss, &sums, &reason), -EINVAL);
	close_fixture(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_family_of_the_reference),
		cmocka_unit_test(test_all_parts_at_once),
		cmocka_unit_test(test_a_teacher_is_followed),
		cmocka_unit_test(test_the_teacher_itself_loses_nothing),
		cmocka_unit_test(test_threads_do_not_show),
		cmocka_unit_test(test_batches_add_up),
		cmocka_unit_test(test_blocks_may_come_one_at_a_time),
		cmocka_unit_test(test_what_cannot_be_read_is_refused),
	};

	return cmocka_run_group_tests(tests, compute_load, NULL);
}
