#include "compress/exam.h"

#include "compress/backward.h"

#include <math.h>

struct exam {
	struct exam_settings settings;
	struct batch batch;
	struct backward *backward;
	float *states; /* the teacher's, of all judged tokens */
	double *each;  /* losses of them */
};

struct exam *exam_free(struct exam *e)
{
	if (!e)
		return NULL;
	backward_free(e->backward);
	free(e->states);
	free(e->each);
	free(e);
	return NULL;
}

int exam_new(const struct exam_settings *settings, struct exam **ret, struct reason *reason)
{
	const struct model_config *config = &settings->teacher->config;
	const struct sequences *s = settings->sequences;
	_cleanup_(examp) struct exam *e = calloc(1, sizeof(*e));
	size_t judged = sequences_judged(s);
	int r;

	if (!e)
		return -ENOMEM;
	e->settings = *settings;
	e->batch = (struct batch){.sequences = s, .n = s->n};
	e->states = reallocarray(NULL, judged * config->hidden + 1, sizeof(*e->states));
	e->each = calloc(judged + 1, sizeof(*e->each));
	if (!e->states || !e->each)
		return -ENOMEM;
	r = backward_new(config, settings->pool, sequences_longest(s), &e->backward, reason);
	if (r == 0)
		r = backward_states(e->backward, settings->teacher, &e->batch, e->states, reason);
	if (r < 0)
		return r;
	*ret = take_ptr(e);
	return 0;
}

int exam_kl(struct exam *e, struct dense_model *candidate, double *ret, struct reason *reason)
{
	const struct loss loss = {
		.kind = LOSS_TEACHER,
		.weight = 1,
		.teacher_states = e->states,
		.teacher_head = dense_head(e->settings.teacher),
		.each = e->each,
	};
	struct loss_sums sums;
	int r = backward_loss(e->backward, candidate, &e->batch, &loss, &sums, reason);

	if (r == 0)
		*ret = sums.sum / (double)sums.n;
	return r;
}

void exam_marks_done(struct exam_marks *m)
{
	free(m->roots);
	*m = (struct exam_marks){0};
}

int exam_marks(struct exam *e, struct dense_model *candidate, struct exam_marks *ret,
	struct reason *reason)
{
	const struct sequences *s = e->settings.sequences;
	const double *each = e->each;
	struct exam_marks m = {.roots = calloc(s->n + 1, sizeof(*m.roots))};
	int r = m.roots ? exam_kl(e, candidate, &m.kl, reason) : -ENOMEM;

	if (r < 0) {
		exam_marks_done(&m);
		return r;
	}
	for (size_t i = 0; i < s->n; i++) {
		uint32_t n = s->items[i].n - s->items[i].answer;
		double sum = 0;

		for (uint32_t k = 0; k < n; k++)
			sum += *each++;
		m.roots[i] = sqrt(sum / n);
	}
	*ret = m;
	return 0;
}

struct exam_change exam_compare(
	const struct exam *e, const struct exam_marks *before, const struct exam_marks *after)
{
	size_t n = e->settings.sequences->n;
	double sum = 0, squares = 0, mean;

	for (size_t i = 0; i < n; i++)
		sum += after->roots[i] - before->roots[i];
	mean = sum / (double)n;
	for (size_t i = 0; i < n; i++) {
		double rest = after->roots[i] - before->roots[i] - mean;

		squares += rest * rest;
	}
	return (struct exam_change){
		.mean = mean,
		.error = n > 1 ? sqrt(squares / (double)(n - 1) / (double)n) : INFINITY,
	};
}
