#include "compress/deltadq_search.h"

#include "compress/block.h"
#include "compress/dropout_plan.h"
#include "kernels/convert.h"

#include <math.h>
#include <string.h>

#define MATRICES 4u /* q, k, v, o */
#define VECTORS 7u
#define MAX_CANDIDATES 32u

static const enum tensor_role matrix_roles[MATRICES] = {ROLE_Q, ROLE_K, ROLE_V, ROLE_O};
static const enum tensor_role vector_roles[VECTORS] = {ROLE_ATTN_NORM, ROLE_Q_BIAS, ROLE_K_BIAS,
	ROLE_V_BIAS, ROLE_O_BIAS, ROLE_Q_NORM, ROLE_K_NORM};

/* A worker's copy of the weights and of what flows through them. */
struct copy {
	float *matrices[MATRICES];
	float *x, *tap; /* one window */
	struct block_scratch *scratch;
};

struct search {
	const struct method_model *model;
	const struct model_config *config;
	uint32_t n_windows, window;
	size_t tap_width;
	struct block_shape *shape;
	struct pair_matrix matrices[MATRICES];
	float *vectors[VECTORS];
	float *right, *unchanged; /* n_windows x window x hidden: with the changes, without */
	struct copy *copies;
	size_t n_copies;
	/* The trial under way. */
	uint32_t group, n_keep;
	uint64_t seed;
	double errors[DELTADQ_SEARCH_SEEDS];
};

static void copy_done(struct copy *c)
{
	for (size_t i = 0; i < MATRICES; i++)
		free(c->matrices[i]);
	free(c->x);
	free(c->tap);
	block_scratch_free(c->scratch);
}

static void search_done(struct search *s)
{
	for (size_t i = 0; s->copies && i < s->n_copies; i++)
		copy_done(&s->copies[i]);
	free(s->copies);
	block_shape_free(s->shape);
	for (size_t i = 0; i < MATRICES; i++) {
		free(s->matrices[i].base);
		free(s->matrices[i].delta);
	}
	for (size_t i = 0; i < VECTORS; i++)
		free(s->vectors[i]);
	free(s->right);
	free(s->unchanged);
}

static int load(struct search *s, struct reason *reason)
{
	bool changed;
	int r = 0;

	for (size_t i = 0; r == 0 && i < MATRICES; i++)
		r = pair_read_matrix(s->model->pair, matrix_roles[i], 0, &s->matrices[i], reason);
	for (size_t i = 0; r == 0 && i < VECTORS; i++)
		r = pair_read_vector(
			s->model->pair, vector_roles[i], 0, &s->vectors[i], &changed, reason);
	return r;
}

static int make_copies(struct search *s)
{
	s->n_copies = pool_threads(s->model->pool);
	s->copies = calloc(s->n_copies, sizeof(*s->copies));
	if (!s->copies)
		return -ENOMEM;
	for (struct copy *c = s->copies; c < s->copies + s->n_copies; c++) {
		int r = block_scratch_new(s->shape, &c->scratch);

		if (r < 0)
			return r;
		c->x = malloc((size_t)s->window * s->config->hidden * sizeof(*c->x));
		c->tap = malloc(s->window * s->tap_width * sizeof(*c->tap));
		if (!c->x || !c->tap)
			return -ENOMEM;
		for (size_t i = 0; i < MATRICES; i++) {
			size_t n = (size_t)s->matrices[i].rows * s->matrices[i].cols;

			c->matrices[i] = malloc((n + 1) * sizeof(float));
			if (!c->matrices[i])
				return -ENOMEM;
		}
	}
	return 0;
}

static int search_init(struct search *s, struct reason *reason)
{
	const struct calibration *c = s->model->calibration;
	size_t n;
	int r;

	s->config = &s->model->pair->base_config;
	s->window = c->window;
	s->n_windows = (uint32_t)min_u64(c->n_windows, DELTADQ_SEARCH_WINDOWS);
	s->tap_width = block_tap_width(s->config);
	n = (size_t)s->n_windows * s->window * s->config->hidden;
	s->right = malloc(n * sizeof(*s->right));
	s->unchanged = malloc(n * sizeof(*s->unchanged));
	if (!s->right || !s->unchanged)
		return -ENOMEM;
	r = load(s, reason);
	if (r == 0)
		r = block_shape_new(s->config, s->window, &s->shape, reason);
	return r < 0 ? r : make_copies(s);
}

/* Base plus the change times `factor`: 1 and 0 are the fine-tune and the base. */
static void set_weights(const struct search *s, struct copy *c, float factor)
{
	for (size_t i = 0; i < MATRICES; i++) {
		const struct pair_matrix *m = &s->matrices[i];

		for (size_t k = 0; k < (size_t)m->rows * m->cols; k++)
			c->matrices[i][k] = m->base[k] + (m->delta ? factor * m->delta[k] : 0);
	}
}

static void add_kept(const struct search *s, const struct pair_matrix *m, uint64_t seed, float *w)
{
	uint16_t columns[DROPOUT_MAX_GROUP];
	uint32_t group = s->group, n_keep = s->n_keep;
	float factor = (float)group / (float)n_keep;

	for (uint32_t row = 0; row < m->rows; row++)
		for (uint32_t g = 0; g < m->cols / group; g++) {
			size_t at = (size_t)row * m->cols + (size_t)g * group;

			dropout_draw(seed, row, g, group, n_keep, columns);
			for (uint32_t i = 0; i < n_keep; i++)
				w[at + columns[i]] += factor * m->delta[at + columns[i]];
		}
}

static struct block_weights weights_of(const struct search *s, const struct copy *c)
{
	return (struct block_weights){
		.q = c->matrices[0],
		.k = c->matrices[1],
		.v = c->matrices[2],
		.o = c->matrices[3],
		.attn_norm = s->vectors[0],
		.q_bias = s->vectors[1],
		.k_bias = s->vectors[2],
		.v_bias = s->vectors[3],
		.o_bias = s->vectors[4],
		.q_norm = s->vectors[5],
		.k_norm = s->vectors[6],
	};
}

/* The residual stream of one window after attention, in c->x. */
static void attend(const struct search *s, struct copy *c, uint32_t window)
{
	const struct method_model *m = s->model;
	const uint32_t *ids = m->calibration->ids + (size_t)window * s->window;
	size_t hidden = s->config->hidden;
	const struct block_weights w = weights_of(s, c);
	const struct block_rows rows = {
		.n = s->window,
		.x = c->x,
		.x_stride = hidden,
		.tap = c->tap,
		.tap_stride = s->tap_width,
	};

	for (size_t t = 0; t < s->window; t++)
		for (size_t i = 0; i < hidden; i++)
			c->x[t * hidden + i] = bf16_to_f32(m->embedding[ids[t] * hidden + i]);
	block_attention_input(s->shape, &w, &rows);
	block_attention(s->shape, &w, c->scratch, &rows);
	block_attention_output(s->shape, &w, &rows);
}

static void record(struct search *s, float factor, float *ret)
{
	size_t n = (size_t)s->window * s->config->hidden;

	set_weights(s, &s->copies[0], factor);
	for (uint32_t w = 0; w < s->n_windows; w++) {
		attend(s, &s->copies[0], w);
		memcpy(ret + w * n, s->copies[0].x, n * sizeof(*ret));
	}
}

static double distance(const float *a, const float *b, size_t n)
{
	double sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
	return sum;
}

static void try_seed(void *arg, size_t piece, size_t worker)
{
	struct search *s = arg;
	struct copy *c = &s->copies[worker];
	size_t n = (size_t)s->window * s->config->hidden;

	set_weights(s, c, 0);
	for (size_t i = 0; i < MATRICES; i++)
		if (s->matrices[i].delta)
			add_kept(s, &s->matrices[i],
				dropout_seed(s->seed, matrix_roles[i], 0, (uint32_t)piece),
				c->matrices[i]);
	s->errors[piece] = 0;
	for (uint32_t w = 0; w < s->n_windows; w++) {
		attend(s, c, w);
		s->errors[piece] += distance(c->x, s->right + w * n, n);
	}
}

static double mean_error(struct search *s, uint32_t group, uint32_t alpha)
{
	double sum = 0;

	s->group = group;
	s->n_keep = group / alpha;
	pool_run(s->model->pool, try_seed, s, DELTADQ_SEARCH_SEEDS);
	for (size_t i = 0; i < DELTADQ_SEARCH_SEEDS; i++)
		sum += s->errors[i] / DELTADQ_SEARCH_SEEDS;
	return sum;
}

/* Those that divide the rows of all four matrices. */
static size_t candidates_of(
	const struct search *s, uint32_t alpha, uint32_t bits, uint32_t ret[static MAX_CANDIDATES])
{
	uint32_t groups[MAX_CANDIDATES];
	size_t n_groups =
		dropout_plan_groups(s->matrices[0].cols, alpha, bits, groups, MAX_CANDIDATES);
	size_t n = 0;

	for (size_t i = 0; i < n_groups; i++)
		if (s->matrices[MATRICES - 1].cols % groups[i] == 0)
			ret[n++] = groups[i];
	return n;
}

int deltadq_search(const struct method_model *model, uint32_t alpha, uint32_t bits, uint64_t seed,
	struct deltadq_searched *ret, struct reason *reason)
{
	_cleanup_(search_done) struct search s = {.model = model, .seed = seed};
	struct deltadq_searched best = {.error = INFINITY};
	uint32_t candidates[MAX_CANDIDATES];
	size_t n_candidates;
	double whole;
	int r;

	r = search_init(&s, reason);
	if (r < 0)
		return r;
	n_candidates = candidates_of(&s, alpha, bits, candidates);
	if (n_candidates == 0)
		return reason_set(reason, -EINVAL,
			"alpha %u: no group of columns divides rows of %u and of %u", alpha,
			s.matrices[0].cols, s.matrices[MATRICES - 1].cols);
	record(&s, 1, s.right);
	record(&s, 0, s.unchanged);
	whole = distance(s.right, s.unchanged, (size_t)s.n_windows * s.window * s.config->hidden);
	for (size_t i = 0; i < n_candidates; i++) {
		double error = mean_error(&s, candidates[i], alpha);

		progress_update(model->progress, "searching the group", i + 1, n_candidates);
		if (error < best.error)
			best = (struct deltadq_searched){candidates[i], error};
	}
	if (!isfinite(best.error))
		return reason_set(reason, -EDOM, "layer 0 has numbers that are not finite");
	best.error = whole > 0 ? best.error / whole : 0;
	*ret = best;
	return 0;
}
