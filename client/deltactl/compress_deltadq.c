#include "client/deltactl/compress_deltadq.h"

#include "client/deltactl/number.h"
#include "client/deltactl/word.h"

#include <string.h>

/* 0 stands for what was not said. */
static bool set_number(const char *value, uint32_t *ret)
{
	return number_u32(value, ret) && *ret > 0;
}

static bool set_ratio(const char *value, double *ret)
{
	float ratio;

	if (!number_f32(value, &ratio) || !(ratio > 0))
		return false;
	*ret = (double)ratio;
	return true;
}

/* One of two names; the second is true. */
static bool set_name(const char *value, const char *no, const char *yes, bool *ret)
{
	*ret = strcmp(value, yes) == 0;
	return *ret || strcmp(value, no) == 0;
}

static bool set_rescale(const char *value, enum deltadq_rescale *ret)
{
	static const char *const names[] = {
		[DELTADQ_RESCALE_MODEL] = "model",
		[DELTADQ_RESCALE_TENSOR] = "tensor",
		[DELTADQ_RESCALE_ALPHA] = "alpha",
		NULL,
	};
	size_t i;

	if (!word_find(value, names, &i))
		return false;
	*ret = (enum deltadq_rescale)i;
	return true;
}

bool compress_deltadq_option(int option, const char *value, struct deltadq_options *o)
{
	bool first_layer;

	switch (option) {
	case OPTION_CLAIMED_RATIO:
		return set_ratio(value, &o->claimed_ratio);
	case OPTION_ALPHA:
		return set_number(value, &o->alpha);
	case OPTION_CODE_BITS:
		return set_number(value, &o->code_bits);
	case OPTION_PARTS:
		return set_number(value, &o->parts);
	case OPTION_GROUP:
		return set_number(value, &o->group);
	case OPTION_GROUP_SEARCH:
		if (!set_name(value, "each-tensor", "first-layer", &first_layer))
			return false;
		o->search = first_layer ? DELTADQ_SEARCH_FIRST_LAYER : DELTADQ_SEARCH_CLOSED_FORM;
		return true;
	case OPTION_GRID:
		return set_name(value, "clipped", "min-max", &o->min_max);
	case OPTION_RESCALE:
		return set_rescale(value, &o->rescale);
	case OPTION_SEEDS:
		return set_number(value, &o->seeds);
	case OPTION_SEED:
		return number_u64(value, UINT64_MAX, &o->seed);
	default:
		return false;
	}
}
