#include "tests/double_model.h"

#include "common/random.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

const struct model_config little_config = {
	.family = MODEL_FAMILY_LLAMA,
	.flags = MODEL_TIED_HEAD | MODEL_QKV_BIAS,
	.n_layers = 2,
	.hidden = LITTLE_HIDDEN,
	.ffn = LITTLE_FFN,
	.n_heads = 2,
	.n_kv_heads = 1,
	.head_dim = LITTLE_KV,
	.vocab = LITTLE_VOCAB,
	.max_positions = 64,
	.rope_theta = 10000,
	.rope_factor = 1,
	.rope_attention_factor = 1,
	.norm_eps = 1e-5f,
	.bos = -1,
	.pad = -1,
};

/* One run over one sequence. */
struct walk {
	const struct double_model *m;
	const struct double_probe *probe;
	uint32_t layer;
	size_t n;
};

struct double_model *double_model_of(const struct dense_model *m, uint32_t longest)
{
	struct double_model *d = calloc(1, sizeof(*d));
	struct reason reason = {0};

	assert_non_null(d);
	d->config = m->config;
	d->layers = calloc(m->config.n_layers, sizeof(*d->layers));
	assert_non_null(d->layers);
	assert_int_equal(block_shape_new(&m->config, longest, &d->shape, &reason), 0);
	for (uint32_t layer = 0; layer < m->config.n_layers; layer++)
		for (unsigned int role = 0; role < N_ROLES; role++) {
			size_t n = dense_count(m, (enum tensor_role)role, layer);

			if (n == 0)
				continue;
			d->layers[layer][role] = calloc(n, sizeof(double));
			assert_non_null(d->layers[layer][role]);
			for (size_t i = 0; i < n; i++)
				d->layers[layer][role][i] = (double)m->layers[layer].at[role][i];
		}
	return d;
}

void double_model_free(struct double_model *m)
{
	for (uint32_t layer = 0; layer < m->config.n_layers; layer++)
		for (size_t role = 0; role < N_ROLES; role++)
			free(m->layers[layer][role]);
	free(m->layers);
	block_shape_free(m->shape);
	free(m);
}

static double *zeros(size_t n)
{
	double *values = calloc(n, sizeof(*values));

	assert_non_null(values);
	return values;
}

static void norm(const double *x, const double *weight, size_t n, double eps, double *y)
{
	double sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += x[i] * x[i];
	for (size_t i = 0; i < n; i++)
		y[i] = x[i] / sqrt(sum / (double)n + eps) * weight[i];
}

static void round_input(double *ret, const double *x, size_t n)
{
	for (size_t begin = 0; begin < n; begin += 128) {
		size_t end = begin + 128 < n ? begin + 128 : n;
		double step = 0;

		for (size_t i = begin; i < end; i++)
			step = fmax(step, fabs(x[i]) / 127);
		for (size_t i = begin; i < end; i++)
			ret[i] = step > 0 ? nearbyint(x[i] / step) * step : 0;
	}
}

/* y (n x rows) = W x + bias, probed. */
static void project(const struct walk *w, size_t projection, size_t rows, size_t cols,
	const double *bias, const double *x, double *y)
{
	const double *matrix = w->m->layers[w->layer][dense_projections[projection]];
	const struct double_probe *p = w->probe;
	bool probed = p && p->layer == w->layer && p->projection == projection;
	double *input = calloc(cols, sizeof(*input));

	assert_non_null(input);
	for (size_t t = 0; t < w->n; t++) {
		memcpy(input, x + t * cols, cols * sizeof(*input));
		if (w->m->rounds)
			round_input(input, x + t * cols, cols);
		for (size_t o = 0; o < rows; o++) {
			double sum = bias ? bias[o] : 0;

			for (size_t i = 0; i < cols; i++)
				sum += matrix[o * cols + i] * input[i];
			y[t * rows + o] = sum;
		}
	}
	free(input);
	if (!probed)
		return;
	if (p->inputs)
		memcpy(p->inputs, x, w->n * cols * sizeof(*x));
	y[p->token * rows + p->output] += p->amount;
}

static void place(const struct walk *w, const double *weight, size_t n_heads, double *heads)
{
	size_t d = w->m->config.head_dim;

	for (size_t t = 0; t < w->n; t++) {
		struct block_angles angles = block_angles(w->m->shape, (uint32_t)t);

		for (size_t h = 0; h < n_heads; h++) {
			double *x = heads + (t * n_heads + h) * d;

			if (weight)
				norm(x, weight, d, (double)w->m->config.norm_eps, x);
			for (size_t i = 0; i < d / 2; i++) {
				double c = (double)angles.cosines[i], s = (double)angles.sines[i];
				double a = x[i], b = x[i + d / 2];

				x[i] = a * c - b * s;
				x[i + d / 2] = b * c + a * s;
			}
		}
	}
}

static double dot(const double *a, const double *b, size_t n)
{
	double sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += a[i] * b[i];
	return sum;
}

/* One query of one head. */
static void attend(const struct walk *w, size_t t, size_t head, const double *q, const double *k,
	const double *v, double *a)
{
	const struct model_config *c = &w->m->config;
	size_t d = c->head_dim, kv = head / (c->n_heads / c->n_kv_heads) * d;
	size_t q_width = c->n_heads * d, kv_width = c->n_kv_heads * d;
	uint32_t window = w->layer >= c->first_window_layer ? c->sliding_window : 0;
	size_t first = window && t + 1 > window ? t + 1 - window : 0;
	double sum = 0;

	for (size_t p = first; p <= t; p++) {
		double weight = exp(dot(q + t * q_width + head * d, k + p * kv_width + kv, d) /
				    sqrt((double)d));

		sum += weight;
		for (size_t i = 0; i < d; i++)
			a[t * q_width + head * d + i] += weight * v[p * kv_width + kv + i];
	}
	for (size_t i = 0; i < d; i++)
		a[t * q_width + head * d + i] /= sum;
}

static void attention(const struct walk *w, double *x)
{
	const struct model_config *c = &w->m->config;
	double *const *at = w->m->layers[w->layer];
	size_t q_width = (size_t)c->n_heads * c->head_dim;
	size_t kv_width = (size_t)c->n_kv_heads * c->head_dim;
	double *h = zeros(w->n * c->hidden), *o = zeros(w->n * c->hidden);
	double *q = zeros(w->n * q_width), *a = zeros(w->n * q_width);
	double *k = zeros(w->n * kv_width), *v = zeros(w->n * kv_width);

	for (size_t t = 0; t < w->n; t++)
		norm(x + t * c->hidden, at[ROLE_ATTN_NORM], c->hidden, (double)c->norm_eps,
			h + t * c->hidden);
	project(w, 0, q_width, c->hidden, at[ROLE_Q_BIAS], h, q);
	project(w, 1, kv_width, c->hidden, at[ROLE_K_BIAS], h, k);
	project(w, 2, kv_width, c->hidden, at[ROLE_V_BIAS], h, v);
	place(w, at[ROLE_Q_NORM], c->n_heads, q);
	place(w, at[ROLE_K_NORM], c->n_kv_heads, k);
	for (size_t t = 0; t < w->n; t++)
		for (size_t head = 0; head < c->n_heads; head++)
			attend(w, t, head, q, k, v, a);
	project(w, 3, c->hidden, q_width, at[ROLE_O_BIAS], a, o);
	for (size_t i = 0; i < w->n * c->hidden; i++)
		x[i] += o[i];
	free(h);
	free(o);
	free(q);
	free(a);
	free(k);
	free(v);
}

static void ffn(const struct walk *w, double *x)
{
	const struct model_config *c = &w->m->config;
	double *const *at = w->m->layers[w->layer];
	double *f = zeros(w->n * c->hidden), *down = zeros(w->n * c->hidden);
	double *gate = zeros(w->n * c->ffn), *up = zeros(w->n * c->ffn);

	for (size_t t = 0; t < w->n; t++)
		norm(x + t * c->hidden, at[ROLE_FFN_NORM], c->hidden, (double)c->norm_eps,
			f + t * c->hidden);
	project(w, 4, c->ffn, c->hidden, at[ROLE_GATE_BIAS], f, gate);
	project(w, 5, c->ffn, c->hidden, at[ROLE_UP_BIAS], f, up);
	for (size_t i = 0; i < w->n * c->ffn; i++)
		gate[i] = gate[i] / (1 + exp(-gate[i])) * up[i];
	project(w, 6, c->hidden, c->ffn, at[ROLE_DOWN_BIAS], gate, down);
	for (size_t i = 0; i < w->n * c->hidden; i++)
		x[i] += down[i];
	free(f);
	free(down);
	free(gate);
	free(up);
}

void double_model_logits(const struct double_model *m, const uint32_t *ids, size_t n,
	const struct double_probe *probe, double *ret)
{
	const struct model_config *c = &m->config;
	struct walk w = {.m = m, .probe = probe, .n = n};
	const double *embedding = m->layers[0][ROLE_EMBED];
	const double *final_norm = m->layers[c->n_layers - 1][ROLE_FINAL_NORM];
	const double *head =
		c->flags & MODEL_TIED_HEAD ? embedding : m->layers[c->n_layers - 1][ROLE_HEAD];
	double *x = zeros(n * c->hidden), *y = zeros(c->hidden);

	for (size_t t = 0; t < n; t++)
		memcpy(x + t * c->hidden, embedding + ids[t] * c->hidden, c->hidden * sizeof(*x));
	for (w.layer = 0; w.layer < c->n_layers; w.layer++) {
		attention(&w, x);
		ffn(&w, x);
	}
	for (size_t t = 0; t < n; t++) {
		norm(x + t * c->hidden, final_norm, c->hidden, (double)c->norm_eps, y);
		if (m->rounds_head)
			round_input(y, y, c->hidden);
		for (size_t v = 0; v < c->vocab; v++)
			ret[t * c->vocab + v] = dot(y, head + v * c->hidden, c->hidden);
	}
	free(x);
	free(y);
}

struct dense_model *random_dense_model(const struct model_config *config, uint64_t seed)
{
	struct dense_model *m;
	uint64_t at = 0;

	assert_int_equal(dense_model_new(config, &m), 0);
	assert_int_equal(dense_model_fill(m, DENSE_ALL), 0);
	for (uint32_t layer = 0; layer < config->n_layers; layer++)
		for (unsigned int role = 0; role < N_ROLES; role++) {
			size_t n = dense_count(m, (enum tensor_role)role, layer);
			bool is_norm = DENSE_NORMS & 1u << role;
			double scale = is_norm ? 0.3 : DENSE_BIASES & 1u << role ? 0.2 : 0.35;

			for (size_t i = 0; i < n; i++) {
				double share = random_share(random_at(seed, at++));

				m->layers[layer].at[role][i] =
					(float)((2 * share - 1) * scale + is_norm);
			}
		}
	return m;
}
