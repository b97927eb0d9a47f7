#include "compress/outer.h"

#include "compress/adapter_part.h"
#include "compress/exact.h"
#include "kernels/convert.h"
#include "store/base.h"

#include <string.h>

#define MAX_MATRICES 2u

struct outer_matrix {
	enum tensor_role role;
	uint32_t layer;
	struct pair_rows rows;
	struct embedding *coarse; /* NULL: exact */
};

struct outer {
	struct outer_settings settings;
	struct outer_matrix matrices[MAX_MATRICES]; /* embedding; head where it is not tied */
	size_t n;
	bool chosen; /* of what is open */
	struct outer_worth worth;
	struct part adapter; /* of the head, in its place; no payload: none */
	uint16_t *values;    /* of the embedding, for readers */
};

struct outer *outer_free(struct outer *o)
{
	if (!o)
		return NULL;
	for (size_t i = 0; i < o->n; i++) {
		embedding_free(o->matrices[i].coarse);
		pair_rows_done(&o->matrices[i].rows);
	}
	part_done(&o->adapter);
	free(o->values);
	free(o);
	return NULL;
}

static bool is_tied(const struct outer *o)
{
	return o->settings.pair->base_config.flags & MODEL_TIED_HEAD;
}

/* A tied matrix is used both ways. */
static double *weigh(
	const struct outer *o, const struct outer_matrix *m, const uint32_t *ids, size_t n)
{
	struct embedding_use use = {
		.read_nats = EMBEDDING_READ_NATS, .asked_nats = EMBEDDING_ASKED_NATS};
	double *weights = malloc(((size_t)m->rows.base_rows + 1) * sizeof(*weights));

	if (m->role == ROLE_EMBED || is_tied(o)) {
		use.read = ids;
		use.n_read = n;
	}
	if (m->role == ROLE_HEAD || is_tied(o)) {
		use.asked = ids;
		use.n_asked = n;
	}
	if (weights)
		embedding_weigh(&use, m->rows.base_rows, weights);
	return weights;
}

static int make_coarse(struct outer *o, struct outer_matrix *m)
{
	const struct outer_settings *s = &o->settings;
	const struct calibration *c = s->calibration;
	_cleanup_(freep) double *weights = weigh(o, m, c->ids, (size_t)c->n_windows * c->window);
	int r;

	if (!weights)
		return -ENOMEM;
	r = embedding_new(&m->rows, weights, s->pool, &m->coarse);
	if (r < 0 || s->open)
		return r;
	if (s->choice.kind == EMBEDDING_BITS)
		embedding_choose_bits(m->coarse, s->choice.bits);
	else
		embedding_choose_size(&m->coarse, 1, s->bits);
	return 0;
}

/* Where codes stand for the base's rows. */
static int meet_codes(const struct outer *o, struct outer_matrix *m, struct reason *reason)
{
	const struct outer_settings *s = &o->settings;

	if (s->whole_head && m->role == ROLE_HEAD && s->choice.kind == EMBEDDING_EXACT) {
		if (m->rows.n_changed > 0)
			pair_rows_take_all(&m->rows);
		return 0;
	}
	if (weights_bits(s->pair->weights, m->role) == 0)
		return 0;
	return pair_rows_serve(s->pair, m->role, &m->rows, reason);
}

static int add_matrix(struct outer *o, enum tensor_role role, uint32_t layer, struct reason *reason)
{
	struct outer_matrix *m = &o->matrices[o->n];
	int r;

	m->role = role;
	m->layer = layer;
	r = pair_read_rows(o->settings.pair, role, &m->rows, reason);
	if (r < 0)
		return r;
	o->n++;
	r = meet_codes(o, m, reason);
	if (r < 0)
		return r;
	if (m->rows.n_changed == 0 || o->settings.choice.kind == EMBEDDING_EXACT)
		return 0;
	return make_coarse(o, m);
}

static size_t n_numbers(const struct outer_matrix *m)
{
	return (size_t)m->rows.rows * m->rows.cols;
}

static bool is_coarse(const struct outer *o, const struct outer_matrix *m)
{
	return m->coarse && (o->chosen || !o->settings.open);
}

static void values_of(const struct outer *o, const struct outer_matrix *m, uint16_t *ret)
{
	if (is_coarse(o, m))
		embedding_values(m->coarse, ret);
	else
		memcpy(ret, m->rows.values, n_numbers(m) * sizeof(*ret));
}

static int add_adapter(struct outer *o, uint32_t layer, struct reason *reason)
{
	const struct pair *pair = o->settings.pair;
	const struct adapter *adapter = checkpoint_adapter(pair->tuned);
	struct part_place place = {.role = ROLE_HEAD, .layer = layer};

	if (!adapter || !model_config_shape(&pair->tuned_config, place.role, place.layer,
				&place.rows, &place.cols))
		return 0;
	return adapter_part(adapter, &place, &o->adapter, reason);
}

/* As an adapter has it, or whole. */
static int add_head(struct outer *o, struct reason *reason)
{
	uint32_t last = o->settings.pair->base_config.n_layers - 1;
	int r = add_adapter(o, last, reason);

	return r < 0 || o->adapter.payload ? r : add_matrix(o, ROLE_HEAD, last, reason);
}

int outer_new(const struct outer_settings *settings, struct outer **ret, struct reason *reason)
{
	_cleanup_(outerp) struct outer *o = calloc(1, sizeof(*o));
	int r;

	if (!o)
		return -ENOMEM;
	o->settings = *settings;
	o->worth.price = 1;
	r = add_matrix(o, ROLE_EMBED, 0, reason);
	if (r == 0 && !is_tied(o))
		r = add_head(o, reason);
	if (r < 0)
		return r;
	o->values = malloc((n_numbers(&o->matrices[0]) + 1) * sizeof(*o->values));
	if (!o->values)
		return -ENOMEM;
	values_of(o, &o->matrices[0], o->values);
	*ret = take_ptr(o);
	return 0;
}

const uint16_t *outer_embedding(const struct outer *o)
{
	return o->values;
}

int outer_install(const struct outer *o, float *embedding, float *head)
{
	for (size_t i = 0; i < o->n; i++) {
		const struct outer_matrix *m = &o->matrices[i];
		_cleanup_(freep) uint16_t *values = malloc((n_numbers(m) + 1) * sizeof(*values));
		float *to = m->role == ROLE_EMBED ? embedding : head;

		if (!values)
			return -ENOMEM;
		values_of(o, m, values);
		for (size_t k = 0; k < n_numbers(m); k++)
			to[k] = bf16_to_f32(values[k]);
	}
	return 0;
}

static int add_weights(const struct outer *o, const struct outer_matrix *m,
	const struct outer_use *use, double *ret)
{
	_cleanup_(freep) double *weights = weigh(o, m, use->ids, use->n);

	if (!weights)
		return -ENOMEM;
	for (uint32_t row = 0; row < m->rows.base_rows; row++)
		ret[row] += use->share * weights[row];
	return 0;
}

int outer_weigh(struct outer *o, const struct outer_use *uses, size_t n)
{
	for (size_t i = 0; i < o->n; i++) {
		struct outer_matrix *m = &o->matrices[i];
		_cleanup_(freep) double *weights =
			calloc((size_t)m->rows.base_rows + 1, sizeof(*weights));
		int r = weights ? 0 : -ENOMEM;

		for (size_t k = 0; r == 0 && k < n; k++)
			r = add_weights(o, m, &uses[k], weights);
		if (r < 0)
			return r;
		if (m->coarse)
			embedding_reweigh(m->coarse, weights);
	}
	return 0;
}

double outer_loss(const struct outer *o)
{
	double sum = 0;

	for (size_t i = 0; i < o->n; i++)
		if (o->matrices[i].coarse)
			sum += embedding_loss(o->matrices[i].coarse);
	return sum;
}

static int parts_of(
	const struct outer *o, const struct outer_matrix *m, struct part *ret, uint32_t *ret_n)
{
	const struct embedding_place place = {
		.role = m->role, .layer = m->layer, .coded = o->settings.choice.coded};

	return embedding_parts(m->coarse, &place, ret, ret_n);
}

/* What the present choice really takes. */
static int add_bytes(const struct outer *o, const struct outer_matrix *m, double *sum)
{
	struct part parts[EMBEDDING_MAX_PARTS] = {0};
	uint32_t n = 0;
	int r = parts_of(o, m, parts, &n);

	if (r < 0)
		return r;
	for (uint32_t i = 0; i < n; i++) {
		*sum += (double)(part_file_bytes(&parts[i]) + sizeof(struct tensor_quality));
		part_done(&parts[i]);
	}
	return 0;
}

/* The choice has been made: what follows from it. */
static int settle(struct outer *o, double *ret_bytes)
{
	double sum = 0;
	int r = 0;

	o->chosen = true;
	values_of(o, &o->matrices[0], o->values);
	for (size_t i = 0; r == 0 && i < o->n; i++)
		if (o->matrices[i].coarse)
			r = add_bytes(o, &o->matrices[i], &sum);
	if (r == 0)
		*ret_bytes = sum;
	return r;
}

int outer_choose_size(struct outer *o, double bits, struct measured_point *ret)
{
	struct embedding *coarse[MAX_MATRICES];
	struct measured_point point = {0};
	size_t n = 0;
	int r;

	for (size_t i = 0; i < o->n; i++)
		if (o->matrices[i].coarse)
			coarse[n++] = o->matrices[i].coarse;
	point.lambda = embedding_choose_size(coarse, n, bits);
	r = settle(o, &point.bytes);
	if (r == 0 && ret)
		*ret = point;
	return r;
}

void outer_learn(struct outer *o, const struct outer_worth *worth)
{
	o->worth = *worth;
}

int outer_encode(void *self, double lambda, struct rate_loss *ret, struct reason *reason)
{
	struct outer *o = self;
	double guess = measured_curve_lambda(&o->worth.curve, lambda * o->worth.price), bytes;
	int r;

	(void)reason;
	for (size_t i = 0; i < o->n; i++)
		if (o->matrices[i].coarse)
			embedding_choose(o->matrices[i].coarse, guess);
	r = settle(o, &bytes);
	if (r == 0)
		*ret = (struct rate_loss){
			bytes, o->worth.curve.n ? measured_curve_loss(&o->worth.curve, bytes)
						: outer_loss(o)};
	return r;
}

static int add_parts(const struct outer *o, const struct outer_matrix *m, struct delta_file *f)
{
	struct part parts[EMBEDDING_MAX_PARTS] = {0};
	uint32_t n = 0;
	int r = parts_of(o, m, parts, &n);

	for (uint32_t i = 0; i < n; i++) {
		if (r == 0)
			r = delta_file_add(f, &parts[i]);
		else
			part_done(&parts[i]);
	}
	return r;
}

static int add_final_norm(const struct pair *pair, struct delta_file *f, struct reason *reason)
{
	uint32_t last = pair->base_config.n_layers - 1;
	_cleanup_(freep) float *norm = NULL;
	bool changed;
	int r;

	r = pair_read_vector(pair, ROLE_FINAL_NORM, last, &norm, &changed, reason);
	if (r < 0 || !changed)
		return r;
	return exact_vector(f, ROLE_FINAL_NORM, last, norm, pair->base_config.hidden);
}

int outer_add(struct outer *o, struct delta_file *f, struct reason *reason)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < o->n; i++) {
		const struct outer_matrix *m = &o->matrices[i];

		r = is_coarse(o, m) ? add_parts(o, m, f)
				    : exact_rows(f, m->role, m->layer, &m->rows);
	}
	if (r == 0 && o->adapter.payload) {
		struct part part = part_take(&o->adapter);

		part.quality.weight_error = part.quality.activation_error = 0;
		r = delta_file_add(f, &part);
	}
	return r == 0 ? add_final_norm(o->settings.pair, f, reason) : r;
}
