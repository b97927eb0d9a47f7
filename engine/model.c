#include "engine/variant.h"

#include <math.h>

/* Wavelengths longer than the original context are interpolated, short ones kept, those between
 * blended. Source: Llama 3.1 model card and its reference code. */
static double llama3_frequency(const struct model_config *c, double frequency)
{
	double wavelength = 2 * M_PI / frequency;
	double original = c->rope_original_positions;
	double blend;

	if (wavelength < original / c->rope_high_freq_factor)
		return frequency;
	if (wavelength > original / c->rope_low_freq_factor)
		return frequency / c->rope_factor;
	blend = (original / wavelength - c->rope_low_freq_factor) /
		((double)c->rope_high_freq_factor - c->rope_low_freq_factor);
	return (1 - blend) * frequency / c->rope_factor + blend * frequency;
}

/* The dimension whose pair makes `rotations` turns in the original context. */
static double yarn_dimension(const struct model_config *c, double rotations)
{
	double turns = c->rope_original_positions / (rotations * 2 * M_PI);

	return c->head_dim * log(turns) / (2 * log(c->rope_theta));
}

/* YaRN (arXiv 2309.00071) section 3.2, "NTK-by-parts". */
static double yarn_frequency(const struct model_config *c, double frequency, uint32_t pair)
{
	double low = fmax(floor(yarn_dimension(c, c->rope_beta_fast)), 0);
	double high = fmin(ceil(yarn_dimension(c, c->rope_beta_slow)), c->head_dim - 1);
	double ramp;

	if (low == high)
		high += 0.001;
	ramp = fmin(fmax((pair - low) / (high - low), 0), 1);
	return frequency / c->rope_factor * ramp + frequency * (1 - ramp);
}

static double rope_frequency(const struct model_config *c, uint32_t pair)
{
	double frequency = pow(c->rope_theta, -2.0 * pair / c->head_dim);

	switch ((enum rope_kind)c->rope_kind) {
	case ROPE_KIND_DEFAULT:
		return frequency;
	case ROPE_KIND_LINEAR:
		return frequency / c->rope_factor;
	case ROPE_KIND_LLAMA3:
		return llama3_frequency(c, frequency);
	case ROPE_KIND_YARN:
		return yarn_frequency(c, frequency, pair);
	}
	return frequency;
}

int model_new(const struct base *base, const struct kernels *kernels, struct model **ret,
	struct reason *reason)
{
	_cleanup_(modelp) struct model *model = calloc(1, sizeof(*model));
	const struct model_config *c = &base->config;

	if (model)
		model->inv_freq = calloc(c->head_dim / 2, sizeof(*model->inv_freq));
	if (!model || !model->inv_freq)
		return reason_set(reason, -ENOMEM, "no memory for the model");
	model->base = base;
	model->kernels = kernels;
	model->attention_factor = c->rope_kind == ROPE_KIND_YARN ? c->rope_attention_factor : 1;
	for (uint32_t pair = 0; pair < c->head_dim / 2; pair++)
		model->inv_freq[pair] = rope_frequency(c, pair);
	*ret = take_ptr(model);
	return 0;
}

struct model *model_free(struct model *model)
{
	if (!model)
		return NULL;
	free(model->inv_freq);
	free(model);
	return NULL;
}

const struct model_config *model_config(const struct model *model)
{
	return &model->base->config;
}

uint32_t model_logits_stride(const struct model *model)
{
	return (uint32_t)align_up(model->base->config.vocab, MAT_BLOCK) + VARIANT_MAX_ADDED_TOKENS;
}

void model_rotation(
	const struct model *model, uint32_t position, float *ret_cosines, float *ret_sines)
{
	for (uint32_t pair = 0; pair < model->base->config.head_dim / 2; pair++) {
		double angle = position * model->inv_freq[pair];

		ret_cosines[pair] = (float)cos(angle) * model->attention_factor;
		ret_sines[pair] = (float)sin(angle) * model->attention_factor;
	}
}
