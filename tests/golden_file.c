#include "tests/golden_file.h"

#include "foreign/safetensors.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

const char *tiny_name(size_t i)
{
	static const char *const names[] = {
		"llama-gqa", "llama-mha-tied", "llama3-rope", "mistral-window", "qwen2", "qwen3"};

	return i < array_len(names) ? names[i] : NULL;
}

const char *tiny_folder(const char *name, char ret[static 128])
{
	snprintf(ret, 128, "tests/golden/data/tiny/%s", name);
	return ret;
}

static void *read_values(const struct safetensors *s, size_t i, const char *what, size_t *ret_n)
{
	const struct safetensors_tensor *t;
	struct reason reason = {0};
	char name[64];
	void *values;

	snprintf(name, sizeof(name), "%zu.%s", i, what);
	t = safetensors_find(s, name);
	assert_non_null(t);
	values = malloc(t->bytes + 1);
	assert_non_null(values);
	assert_int_equal(safetensors_read(s, t, 0, values, t->bytes, &reason), 0);
	*ret_n = t->bytes / 4;
	return values;
}

void golden_values_read(const char *name, size_t i, struct golden_values *ret)
{
	struct safetensors *s;
	struct reason reason = {0};
	char folder[128], path[160];

	snprintf(path, sizeof(path), "%s/golden.safetensors", tiny_folder(name, folder));
	if (safetensors_open(path, &s, &reason) < 0)
		fail_msg("%s: %s", path, reason.text);
	ret->ids = read_values(s, i, "ids", &ret->n_ids);
	ret->greedy = read_values(s, i, "greedy", &ret->n_greedy);
	ret->last_logits = read_values(s, i, "last_logits", &ret->n_logits);
	safetensors_free(s);
}

void golden_values_done(struct golden_values *v)
{
	free(v->ids);
	free(v->greedy);
	free(v->last_logits);
}

double largest_difference(const float *got, const float *expected, size_t n)
{
	double worst = 0, largest = 0;

	for (size_t i = 0; i < n; i++) {
		double difference = fabs((double)got[i] - (double)expected[i]);

		if (!(difference <= worst))
			worst = difference;
		largest = fmax(largest, fabs((double)expected[i]));
	}
	return worst / largest;
}
