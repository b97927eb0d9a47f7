#include "compress/gradient_sums.h"

#include "kernels/blas.h"

#define STRIP 256u   /* rows of a matrix in one piece */
#define COLUMNS 256u /* of the embedding in one piece */

void block_pass_taps(const struct block_pass *p, struct backward_taps *ret)
{
	const struct model_config *c = &p->config;
	uint32_t q = c->n_heads * c->head_dim, kv = c->n_kv_heads * c->head_dim;

	*ret = (struct backward_taps){
		.layer = p->layer,
		.n = p->n,
		.of =
			{
				{p->h, p->dq, q, c->hidden},
				{p->h, p->dk, kv, c->hidden},
				{p->h, p->dv, kv, c->hidden},
				{p->a, p->dx2, c->hidden, q},
				{p->f, p->gate, c->ffn, c->hidden},
				{p->f, p->up, c->ffn, c->hidden},
				{p->g, p->dy, c->hidden, c->ffn},
			},
	};
}

static const enum tensor_role bias_roles[DENSE_N_PROJECTIONS] = {ROLE_Q_BIAS, ROLE_K_BIAS,
	ROLE_V_BIAS, ROLE_O_BIAS, ROLE_GATE_BIAS, ROLE_UP_BIAS, ROLE_DOWN_BIAS};

struct block_sums {
	struct backward_taps taps;
	float *const *at; /* gradients of the layer, by role */
	size_t first_piece[DENSE_N_PROJECTIONS + 1];
};

static void add_matrix(const struct block_sums *s, size_t i, size_t first, size_t n)
{
	float *gradient = s->at[dense_projections[i]];
	size_t rows = s->taps.of[i].rows, cols = s->taps.of[i].cols;
	struct blas_gemm gemm = {
		.m = n,
		.n = cols,
		.k = s->taps.n,
		.transpose_a = true,
		.alpha = 1,
		.beta = 1,
		.a_stride = rows,
	};

	if (gradient)
		blas_gemm_f32(
			&gemm, s->taps.of[i].g + first, s->taps.of[i].x, gradient + first * cols);
}

static void add_bias(const struct block_sums *s, size_t i, size_t first, size_t n)
{
	float *gradient = s->at[bias_roles[i]];
	double sums[STRIP] = {0};

	if (!gradient)
		return;
	for (size_t t = 0; t < s->taps.n; t++)
		for (size_t o = 0; o < n; o++)
			sums[o] += (double)s->taps.of[i].g[t * s->taps.of[i].rows + first + o];
	for (size_t o = 0; o < n; o++)
		gradient[first + o] += (float)sums[o];
}

static void piece_add(void *arg, size_t piece, size_t worker)
{
	const struct block_sums *s = arg;
	size_t i = 0, first, n;

	(void)worker;
	while (piece >= s->first_piece[i + 1])
		i++;
	first = (piece - s->first_piece[i]) * STRIP;
	n = min_u64(STRIP, s->taps.of[i].rows - first);
	add_matrix(s, i, first, n);
	add_bias(s, i, first, n);
}

static void add_norm(float *gradient, const double *sums, size_t n)
{
	for (size_t i = 0; gradient && i < n; i++)
		gradient[i] += (float)sums[i];
}

void gradient_add_block(struct dense_model *gradients, const struct block_pass *p)
{
	struct block_sums s = {.at = gradients->layers[p->layer].at};
	size_t hidden = p->config.hidden, d = p->config.head_dim;

	block_pass_taps(p, &s.taps);
	for (size_t i = 0; i < DENSE_N_PROJECTIONS; i++)
		s.first_piece[i + 1] = s.first_piece[i] + div_up(s.taps.of[i].rows, STRIP);
	pool_run(p->pool, piece_add, &s, s.first_piece[DENSE_N_PROJECTIONS]);
	add_norm(s.at[ROLE_ATTN_NORM], p->dnorms, hidden);
	add_norm(s.at[ROLE_FFN_NORM], p->dnorms + hidden, hidden);
	add_norm(s.at[ROLE_Q_NORM], p->dnorms + 2 * hidden, d);
	add_norm(s.at[ROLE_K_NORM], p->dnorms + 2 * hidden + d, d);
}

struct embedding_sums {
	const uint32_t *ids;
	const float *dx;
	size_t n, hidden;
	float *gradient;
};

static void piece_embedding(void *arg, size_t piece, size_t worker)
{
	const struct embedding_sums *s = arg;
	size_t first = piece * COLUMNS, end = min_u64(first + COLUMNS, s->hidden);

	(void)worker;
	for (size_t t = 0; t < s->n; t++)
		for (size_t i = first; i < end; i++)
			s->gradient[s->ids[t] * s->hidden + i] += s->dx[t * s->hidden + i];
}

void gradient_add_embedding(struct dense_model *gradients, struct pool *pool, const uint32_t *ids,
	const float *dx, size_t n)
{
	struct embedding_sums s = {
		.ids = ids,
		.dx = dx,
		.n = n,
		.hidden = gradients->config.hidden,
		.gradient = dense_embedding(gradients),
	};

	if (s.gradient)
		pool_run(pool, piece_embedding, &s, div_up(s.hidden, COLUMNS));
}
