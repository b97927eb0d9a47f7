/*
 * Fisher factors against gradients of every token that a model in double gives by differences, and
 * what they say about an error against the KL that it really costs.
 */
#include "compress/fisher.h"

#include "common/random.h"
#include "tests/compute.h"
#include "tests/double_model.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define STEP 1e-4
#define SEED 7
#define TEMPERATURE 2.0

struct fixture {
	struct dense_model *model;
	struct double_model *exact;
	struct sequences sequences;
	struct pool *pool;
	struct fisher_settings settings;
	struct fisher_block blocks[2];
};

static void open_fixture(struct fixture *f, size_t n_sequences, double temperature)
{
	struct reason reason = {0};

	*f = (struct fixture){.model = random_dense_model(&little_config, 5)};
	assert_int_equal(pool_new(2, &f->pool, &reason), 0);
	for (size_t i = 0; i < n_sequences; i++) {
		uint32_t ids[12];

		for (size_t t = 0; t < 12; t++)
			ids[t] = (uint32_t)(random_at(i, t) % little_config.vocab);
		assert_int_equal(sequences_add(&f->sequences, ids, 9 + i % 4, 1 + i % 5), 0);
	}
	f->exact = double_model_of(f->model, 12);
	f->settings = (struct fisher_settings){
		.pool = f->pool,
		.model = f->model,
		.sequences = &f->sequences,
		.temperature = temperature,
		.seed = SEED,
	};
	assert_int_equal(fisher_all(&f->settings, f->blocks, &reason), 0);
}

static void close_fixture(struct fixture *f)
{
	for (size_t i = 0; i < little_config.n_layers; i++)
		fisher_block_done(&f->blocks[i]);
	pool_free(f->pool);
	sequences_done(&f->sequences);
	double_model_free(f->exact);
	dense_model_free(f->model);
}

static double log_sum(const double *z)
{
	double sum = 0;

	for (size_t i = 0; i < little_config.vocab; i++)
		sum += exp(z[i] / TEMPERATURE);
	return log(sum);
}

/* The label that the seed draws for a token. */
static uint32_t label_of(const double *z, size_t sequence, uint32_t place)
{
	double left = random_share(random_at(random_at(SEED, sequence), place));
	double log_z = log_sum(z);

	for (uint32_t i = 0; i < little_config.vocab; i++) {
		left -= exp(z[i] / TEMPERATURE - log_z);
		if (left < 0)
			return i;
	}
	return little_config.vocab - 1;
}

/* The sum of -log p_T(label). */
static double loss_of(
	const struct fixture *f, size_t i, const uint32_t *labels, const struct double_probe *probe)
{
	const struct sequence *s = &f->sequences.items[i];
	double z[12 * LITTLE_VOCAB], sum = 0;

	double_model_logits(f->exact, sequence_ids(&f->sequences, i), s->n - 1, probe, z);
	for (uint32_t p = s->answer; p < s->n; p++) {
		const double *row = z + (p - 1) * little_config.vocab;

		sum += log_sum(row) - row[labels[p]] / TEMPERATURE;
	}
	return sum;
}

static void draw_labels(const struct fixture *f, size_t i, uint32_t *labels)
{
	const struct sequence *s = &f->sequences.items[i];
	double z[12 * LITTLE_VOCAB];

	double_model_logits(f->exact, sequence_ids(&f->sequences, i), s->n - 1, NULL, z);
	for (uint32_t p = s->answer; p < s->n; p++)
		labels[p] = label_of(z + (p - 1) * little_config.vocab, i, p);
}

static double gradient_of(
	const struct fixture *f, size_t i, const uint32_t *labels, struct double_probe probe)
{
	double up, down;

	probe.amount = STEP;
	up = loss_of(f, i, labels, &probe);
	probe.amount = -STEP;
	down = loss_of(f, i, labels, &probe);
	return (up - down) / (2 * STEP);
}

static void add_outer(double *sums, const double *x, size_t n)
{
	for (size_t a = 0; a < n; a++)
		for (size_t b = 0; b < n; b++)
			sums[a * n + b] += x[a] * x[b];
}

/* G and H by differences. */
static void brute_force(const struct fixture *f, uint32_t layer, size_t projection, size_t rows,
	size_t cols, double *g, double *h)
{
	for (size_t i = 0; i < f->sequences.n; i++) {
		const struct sequence *s = &f->sequences.items[i];
		double inputs[12 * LITTLE_FFN], gradient[LITTLE_FFN];
		struct double_probe probe = {
			.layer = layer, .projection = projection, .inputs = inputs};
		uint32_t labels[12];

		draw_labels(f, i, labels);
		for (probe.token = 0; probe.token + 1 < s->n; probe.token++) {
			for (probe.output = 0; probe.output < rows; probe.output++)
				gradient[probe.output] = gradient_of(f, i, labels, probe);
			add_outer(g, gradient, rows);
			add_outer(h, inputs + probe.token * cols, cols);
		}
	}
}

static void check_factor(const char *name, uint32_t layer, size_t projection, const float *got,
	const double *sums, size_t n, double count, double energy)
{
	double difference = 0, norm = 0, trace = 0;

	for (size_t i = 0; i < n * n; i++) {
		difference += pow((double)got[i] - sums[i] / count, 2);
		norm += pow(sums[i] / count, 2);
	}
	for (size_t i = 0; i < n; i++)
		trace += sums[i * n + i] / count;
	if (!(sqrt(difference) <= 1e-4 * sqrt(norm)) || !(fabs(energy - trace) <= 1e-4 * trace))
		fail_msg("%s of layer %u, projection %zu: off by %g of its norm, trace %g for %g",
			name, layer, projection, sqrt(difference / norm), energy, trace);
}

static void test_factors_are_those_of_single_tokens(void **state)
{
	struct fixture f;

	(void)state;
	open_fixture(&f, 3, TEMPERATURE);
	for (uint32_t layer = 0; layer < little_config.n_layers; layer++)
		for (size_t i = 0; i < DENSE_N_PROJECTIONS; i++) {
			const struct fisher_block *b = &f.blocks[layer];
			enum fisher_input input = fisher_input_of(i);
			double g[LITTLE_FFN * LITTLE_FFN] = {0}, h[LITTLE_FFN * LITTLE_FFN] = {0};
			size_t rows = i == 1 || i == 2   ? LITTLE_KV
				      : i == 4 || i == 5 ? LITTLE_FFN
							 : LITTLE_HIDDEN;
			size_t cols = i == 6 ? LITTLE_FFN : LITTLE_HIDDEN;

			brute_force(&f, layer, i, rows, cols, g, h);
			check_factor("G", layer, i, b->g[i], g, rows,
				(double)sequences_judged(&f.sequences), b->gradient_energy[i]);
			check_factor("H", layer, i, b->h[input], h, cols,
				(double)sequences_read(&f.sequences), b->input_energy[input]);
		}
	close_fixture(&f);
}

/* Mean KL of a judged token between the model and one with an error in a matrix. */
static double true_kl(struct fixture *f, uint32_t layer, size_t projection, const float *error)
{
	double *matrix = f->exact->layers[layer][dense_projections[projection]];
	size_t n = dense_count(f->model, dense_projections[projection], layer);
	double sum = 0;

	for (size_t i = 0; i < f->sequences.n; i++) {
		const struct sequence *s = &f->sequences.items[i];
		const uint32_t *ids = sequence_ids(&f->sequences, i);
		double z[12 * LITTLE_VOCAB], y[12 * LITTLE_VOCAB];

		double_model_logits(f->exact, ids, s->n - 1, NULL, z);
		for (size_t k = 0; k < n; k++)
			matrix[k] += (double)error[k];
		double_model_logits(f->exact, ids, s->n - 1, NULL, y);
		for (size_t k = 0; k < n; k++)
			matrix[k] -= (double)error[k];
		for (size_t p = s->answer - 1; p + 1 < s->n; p++) {
			double p_sum = 0, q_sum = 0;

			for (size_t v = 0; v < little_config.vocab; v++) {
				p_sum += exp(z[p * little_config.vocab + v]);
				q_sum += exp(y[p * little_config.vocab + v]);
			}
			for (size_t v = 0; v < little_config.vocab; v++) {
				double a = z[p * little_config.vocab + v],
				       b = y[p * little_config.vocab + v];

				sum += exp(a) / p_sum * (a - log(p_sum) - b + log(q_sum));
			}
		}
	}
	return sum / (double)sequences_judged(&f->sequences);
}

/* The model of independence is rough for one error, so random ones are averaged; the units must
 * fit. */
static void test_kl_is_in_nats_of_a_judged_token(void **state)
{
	struct fixture f;

	(void)state;
	open_fixture(&f, 200, 1);
	for (size_t i = 0; i < DENSE_N_PROJECTIONS; i++) {
		uint32_t rows = i == 1 || i == 2   ? LITTLE_KV
				: i == 4 || i == 5 ? LITTLE_FFN
						   : LITTLE_HIDDEN;
		uint32_t cols = i == 6 ? LITTLE_FFN : LITTLE_HIDDEN;
		double expected = 0, got = 0;

		for (uint64_t trial = 0; trial < 6; trial++) {
			float error[LITTLE_FFN * LITTLE_FFN];
			double estimate;

			for (size_t k = 0; k < (size_t)rows * cols; k++)
				error[k] = (float)(random_share(random_at(trial, k)) - 0.5) * 0.01f;
			assert_int_equal(
				fisher_kl(f.pool, &f.blocks[0], i, error, rows, cols, &estimate),
				0);
			got += estimate;
			expected += true_kl(&f, 0, i, error);
		}
		if (!(got > expected / 2.5 && got < expected * 2.5))
			fail_msg("projection %zu: KL %g, estimated %g", i, expected, got);
	}
	close_fixture(&f);
}

static void test_threads_do_not_show(void **state)
{
	struct reason reason = {0};
	struct fisher_block again[2];
	struct fixture f;

	(void)state;
	open_fixture(&f, 60, TEMPERATURE);
	pool_free(f.pool);
	assert_int_equal(pool_new(1, &f.pool, &reason), 0);
	f.settings.pool = f.pool;
	assert_int_equal(fisher_all(&f.settings, again, &reason), 0);
	for (size_t i = 0; i < little_config.n_layers; i++) {
		assert_memory_equal(again[i].g[6], f.blocks[i].g[6], 256 * sizeof(float));
		assert_memory_equal(again[i].h[0], f.blocks[i].h[0], 256 * sizeof(float));
		fisher_block_done(&again[i]);
	}
	close_fixture(&f);
}

static double energy(const float *factor, size_t n)
{
	double sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += (double)factor[i * n + i];
	return sum;
}

/* Block 1 borrows from block 0, which stands for another text's. */
static void test_a_blend_borrows_directions_not_energy(void **state)
{
	const size_t n = LITTLE_HIDDEN, at = 3 * LITTLE_HIDDEN + 5;
	struct fisher_block *block, *other;
	double h, g, other_h, own, borrowed;
	struct fixture f;

	(void)state;
	open_fixture(&f, 60, TEMPERATURE);
	block = &f.blocks[1];
	other = &f.blocks[0];
	memset(other->g[0], 0, n * n * sizeof(float));
	h = energy(block->h[0], n);
	g = (double)block->g[0][at];
	other_h = energy(other->h[0], n);
	own = (double)block->h[0][at];
	borrowed = (double)other->h[0][at];
	fisher_blend(block, other, &little_config, .25);
	assert_true(fabs(energy(block->h[0], n) - h) < 1e-5 * h);
	assert_true(fabs((double)block->h[0][at] - (.75 * own + .25 * h / other_h * borrowed)) <
		    1e-6 * h);
	assert_true((double)block->g[0][at] == g);
	close_fixture(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_factors_are_those_of_single_tokens),
		cmocka_unit_test(test_kl_is_in_nats_of_a_judged_token),
		cmocka_unit_test(test_threads_do_not_show),
		cmocka_unit_test(test_a_blend_borrows_directions_not_energy),
	};

	return cmocka_run_group_tests(tests, compute_load, NULL);
}
