/*
 * Method "k-bit": GPTQ (arXiv 2210.17323) directly on the delta, one step a row.
 *
 * With --bits all matrices have that width. With --ratio, widths are mixed: each matrix has 0 to 8
 * bits, so that the sum over the matrices of  (||D|| / ||W||)^2 c(bits)  is small for all bytes
 * together, c being the squared error of the best uniform quantiser of Gaussian numbers. The
 * bits go, one at a time, to the matrix where they bring most for their bytes. A change of the
 * same relative size is taken to matter as much in every matrix; no text is needed for that.
 */
#include "compress/methods.h"
#include "compress/row_codes.h"
#include "store/base.h"

#include <math.h>

#define DEFAULT_BITS 2u
#define MAX_BITS 8u

/* Mean squared error of the best uniform quantiser for a standard normal variable. */
static const double distortion[MAX_BITS + 1] = {
	1, 0.3634, 0.1188, 0.03744, 0.01154, 0.003495, 0.001041, 0.0003035, 0.0000869};

struct choice {
	enum tensor_role role;
	uint32_t layer, rows, cols;
	double weight; /* (||D|| / ||W||)^2 */
	uint8_t bits;
	bool full; /* another bit does not fit */
};

struct widths {
	struct choice *choices; /* NULL: `bits` for all */
	size_t n;
	uint8_t bits;
};

static void done(void *state)
{
	struct widths *w = state;

	free(w->choices);
	free(w);
}

static void widthsp(struct widths **w)
{
	if (*w)
		done(*w);
}

static int check(const struct method_options *o, struct reason *reason)
{
	if (o->bits == 0 || o->ratio != 0)
		return method_check_ratio(o, reason);
	if (o->bits >= 1 && o->bits <= MAX_BITS && o->bits == rint(o->bits))
		return 0;
	return reason_set(
		reason, -EINVAL, "bits are %g, expected a whole number from 1 to 8", o->bits);
}

static uint64_t bytes_of(const struct choice *c, uint8_t bits)
{
	return bits ? method_codes_bytes(c->rows, c->cols, bits, GRID_ROW) : 0;
}

static double energy(const float *values, size_t n)
{
	double sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += (double)values[i] * (double)values[i];
	return sum;
}

/* Adds a choice for the matrix if it changed. */
static int look_at(struct widths *w, const struct pair *pair, enum tensor_role role, uint32_t layer,
	struct reason *reason)
{
	struct pair_matrix m;
	int r;

	r = pair_read_matrix(pair, role, layer, &m, reason);
	if (r < 0)
		return r;
	if (m.delta && !m.all_zero) {
		size_t n = (size_t)m.rows * m.cols;
		double base = energy(m.base, n);

		w->choices[w->n++] = (struct choice){
			.role = role,
			.layer = layer,
			.rows = m.rows,
			.cols = m.cols,
			.weight = base > 0 ? energy(m.delta, n) / base : 1,
		};
	}
	free(m.base);
	free(m.delta);
	return 0;
}

static int look_at_all(struct widths *w, const struct method_model *model, struct reason *reason)
{
	uint32_t n_layers = model->pair->base_config.n_layers;
	int r = 0;

	w->choices = calloc((size_t)n_layers * N_ROLES + 1, sizeof(*w->choices));
	if (!w->choices)
		return -ENOMEM;
	for (uint32_t layer = 0; layer < n_layers; layer++) {
		progress_update(model->progress, "choosing widths", layer, n_layers);
		for (uint32_t role = 0; r == 0 && role < N_ROLES; role++)
			if (tensor_role_is_projection((enum tensor_role)role))
				r = look_at(w, model->pair, (enum tensor_role)role, layer, reason);
	}
	return r;
}

static uint64_t price(const struct choice *c)
{
	return bytes_of(c, c->bits + 1) - bytes_of(c, c->bits);
}

/* The matrix where one more bit brings most for its bytes; NULL: none has room for one. */
static struct choice *best_choice(struct widths *w)
{
	struct choice *best = NULL;
	double best_gain = 0;

	for (struct choice *c = w->choices; c < w->choices + w->n; c++) {
		double gain;

		if (c->full || c->bits == MAX_BITS)
			continue;
		gain = c->weight * (distortion[c->bits] - distortion[c->bits + 1]) /
		       (double)price(c);
		if (!best || gain > best_gain) {
			best = c;
			best_gain = gain;
		}
	}
	return best;
}

static void spend(struct widths *w, uint64_t bytes)
{
	struct choice *c;

	while ((c = best_choice(w))) {
		uint64_t more = price(c);

		if (more > bytes) {
			c->full = true;
			continue;
		}
		bytes -= more;
		c->bits++;
	}
}

static int prepare(const struct method_model *model, void **ret_state, struct reason *reason)
{
	_cleanup_(widthsp) struct widths *w = calloc(1, sizeof(*w));
	const struct method_options *o = model->options;
	double whole = 0;
	int r;

	if (!w)
		return -ENOMEM;
	w->bits = o->bits > 0 ? (uint8_t)o->bits : DEFAULT_BITS;
	if (o->ratio > 0) {
		r = look_at_all(w, model, reason);
		if (r < 0)
			return r;
		for (size_t i = 0; i < w->n; i++)
			whole += 2.0 * w->choices[i].rows * w->choices[i].cols;
		spend(w, (uint64_t)(whole / o->ratio));
	}
	*ret_state = take_ptr(w);
	return 0;
}

static uint8_t bits_for(const struct widths *w, const struct method_matrix *m)
{
	if (!w->choices)
		return w->bits;
	for (size_t i = 0; i < w->n; i++)
		if (w->choices[i].role == m->role && w->choices[i].layer == m->layer)
			return w->choices[i].bits;
	return 0;
}

static int quantise_one(const struct method_group *group, const struct gptq *gptq,
	struct method_matrix *m, uint8_t bits)
{
	const struct row_codes_problem problem = {
		.pool = group->pool,
		.gptq = gptq,
		.moments = group->moments,
		.matrix = m->delta,
		.rows = m->rows,
		.cols = m->cols,
		.bits = bits,
	};
	const struct part_place place = method_matrix_place(m, 0);
	_cleanup_(code_matrix_freep) struct code_matrix *codes = NULL;
	struct part part;
	double loss;
	int r;

	r = row_codes_fit(&problem, &codes, &loss);
	if (r == 0)
		r = part_codes(&place, codes, NULL, false, &part);
	return r < 0 ? r : method_matrix_add(m, &part);
}

static int quantise(void *state, struct method_group *group, struct reason *reason)
{
	const struct widths *w = state;
	_cleanup_(gptq_freep) struct gptq *gptq = NULL;
	int r;

	r = gptq_new(group->pool, group->moments, group->cols, &gptq, reason);
	for (size_t i = 0; r == 0 && i < group->n_matrices; i++) {
		struct method_matrix *m = &group->matrices[i];
		uint8_t bits = bits_for(w, m);

		if (bits > 0)
			r = quantise_one(group, gptq, m, bits);
	}
	return r;
}

const struct method method_k_bit = {
	.name = "k-bit",
	.summary = "codes of --bits 1 to 8 (2) by GPTQ, one scale a row; --ratio mixes widths",
	.needs = METHOD_NEEDS_CALIBRATION,
	.against_served = true,
	.check = check,
	.prepare = prepare,
	.quantise = quantise,
	.done = done,
};
