#include "compress/adam.h"

#include <math.h>

struct adam {
	size_t n;
	uint64_t n_steps;
	float *first, *second; /* moments of the gradient */
};

struct adam *adam_free(struct adam *a)
{
	if (!a)
		return NULL;
	free(a->first);
	free(a->second);
	free(a);
	return NULL;
}

int adam_new(size_t n, struct adam **ret)
{
	_cleanup_(adamp) struct adam *a = calloc(1, sizeof(*a));

	if (!a)
		return -ENOMEM;
	a->n = n;
	a->first = calloc(n + 1, sizeof(float));
	a->second = calloc(n + 1, sizeof(float));
	if (!a->first || !a->second)
		return -ENOMEM;
	*ret = take_ptr(a);
	return 0;
}

void adam_step(struct adam *a, const struct adam_settings *s, double rate, const float *gradient,
	float *values)
{
	double correct1 = 1 - pow(s->beta1, (double)++a->n_steps);
	double correct2 = 1 - pow(s->beta2, (double)a->n_steps);

	for (size_t i = 0; i < a->n; i++) {
		double g = (double)gradient[i], value = (double)values[i];
		double first = s->beta1 * (double)a->first[i] + (1 - s->beta1) * g;
		double second = s->beta2 * (double)a->second[i] + (1 - s->beta2) * g * g;
		double step = first / correct1 / (sqrt(second / correct2) + s->epsilon);

		a->first[i] = (float)first;
		a->second[i] = (float)second;
		values[i] = (float)(value - rate * (step + s->decay * value));
	}
}
