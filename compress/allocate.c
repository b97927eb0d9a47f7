#include "compress/allocate.h"

#include <math.h>
#include <string.h>

#define MAX_TRIALS 24u
#define FARTHEST 16.0 /* factor of lambda in one step while only one side is known */
#define NEAREST 1.3
#define LAMBDA_RANGE 1e12 /* how far from the first lambda is worth looking */

struct encode_work {
	const struct allocate_settings *settings;
	double lambda;
	struct encoded {
		struct rate_loss point;
		struct reason reason;
		int error;
	} * encoded;
};

static void encode_piece(void *arg, size_t piece, size_t worker)
{
	const struct encode_work *w = arg;
	const struct allocate_tensor *t = &w->settings->tensors[piece];
	struct encoded *e = &w->encoded[piece];

	(void)worker;
	e->error = t->encode(t->self, w->lambda, &e->point, &e->reason);
}

int allocate_at(const struct allocate_settings *s, double lambda, struct rate_loss *ret,
	struct reason *reason)
{
	_cleanup_(freep) struct encoded *encoded = calloc(s->n + 1, sizeof(*encoded));
	struct encode_work work = {.settings = s, .lambda = lambda, .encoded = encoded};
	struct rate_loss sum = {0};

	if (!encoded)
		return -ENOMEM;
	pool_run(s->pool, encode_piece, &work, s->n);
	for (size_t i = 0; i < s->n; i++) {
		if (encoded[i].error < 0)
			return reason_set(reason, encoded[i].error, "%s", encoded[i].reason.text);
		sum.bytes += encoded[i].point.bytes;
		sum.loss += encoded[i].point.loss;
	}
	*ret = sum;
	return 0;
}

/*
 * The search: `value` is what is limited, the size or the measure. On one side of the wanted lambda
 * it is within the limit, on the other not.
 */
struct end {
	bool known;
	double lambda, value;
};

struct search {
	const struct allocate_settings *settings;
	allocate_measure_fn *measure; /* NULL: bytes */
	void *user;
	double limit;
	struct end good, bad;
	struct allocation at; /* what stands coded */
	uint32_t n_trials;
	double stride; /* least factor of the next step beyond; grows */
};

static int try_lambda(struct search *s, double lambda, double *ret_value, struct reason *reason)
{
	int r;

	progress_update(s->settings->progress, s->settings->stage, s->n_trials, 0);
	s->n_trials++;
	s->at.lambda = lambda;
	r = allocate_at(s->settings, lambda, &s->at.sum, reason);
	if (r < 0)
		return r;
	*ret_value = s->at.sum.bytes;
	return s->measure ? s->measure(s->user, ret_value, reason) : 0;
}

/* Size falls about as a power of lambda, and KL rises so; every other time the middle, because a
 * curve that bends would be approached from one side only. Aims a little inside the limit. */
static double between(const struct search *s)
{
	const struct end *a = &s->good, *b = &s->bad;
	double aim = s->limit * (1 - s->settings->slack / 2), share = .5;

	if (a->value > 0 && b->value > a->value && s->n_trials % 2 == 0)
		share = log(aim / a->value) / log(b->value / a->value);
	share = fmin(fmax(share, .03), .97);
	return a->lambda * pow(b->lambda / a->lambda, share);
}

/* Towards the side that is not known yet. A finer code has a smaller lambda. */
static double beyond(struct search *s)
{
	const struct end *e = s->good.known ? &s->good : &s->bad;
	bool finer = s->good.known != (s->measure != NULL);
	double farther = e->value > 0 ? fabs(log(e->value / s->limit)) : log(FARTHEST);
	double factor = fmin(fmax(exp(1.7 * farther), s->stride), FARTHEST);

	s->stride *= s->stride;
	return finer ? e->lambda / factor : e->lambda * factor;
}

/* Nothing is near a limit of nothing: there lambdas that are near end the search. */
static bool near_enough(const struct search *s)
{
	return s->limit > 0 && s->good.known &&
	       s->good.value >= s->limit * (1 - s->settings->slack);
}

static int search(struct search *s, struct reason *reason)
{
	double first = s->settings->first, lambda = first;
	double nearest = s->settings->nearest > 0 ? s->settings->nearest : 1.0001;

	while (s->n_trials < MAX_TRIALS && !near_enough(s)) {
		struct end e = {.known = true, .lambda = lambda};
		int r = try_lambda(s, lambda, &e.value, reason);

		if (r < 0)
			return r;
		*(e.value <= s->limit ? &s->good : &s->bad) = e;
		if (s->good.known && s->bad.known) {
			if (fabs(log(s->good.lambda / s->bad.lambda)) < log(nearest))
				break;
			lambda = between(s);
		} else {
			lambda = beyond(s);
			if (lambda > first * LAMBDA_RANGE || lambda < first / LAMBDA_RANGE)
				break;
		}
	}
	return 0;
}

static int finish(struct search *s, struct allocation *ret, struct reason *reason)
{
	double value;
	int r;

	if (!s->good.known)
		return reason_set(reason, -ERANGE, "%g after %u trials, expected at most %g",
			s->bad.value, s->n_trials, s->limit);
	if (s->at.lambda != s->good.lambda) {
		r = try_lambda(s, s->good.lambda, &value, reason);
		if (r < 0)
			return r;
	}
	*ret = s->at;
	ret->n_trials = s->n_trials;
	return 0;
}

int allocate_bytes(const struct allocate_settings *settings, double bytes, struct allocation *ret,
	struct reason *reason)
{
	struct search s = {.settings = settings, .limit = bytes, .stride = NEAREST};
	int r = search(&s, reason);

	if (r == 0)
		r = finish(&s, ret, reason);
	return r == -ERANGE ? reason_prefix(reason, r, "bytes of all tensors") : r;
}

int allocate_quality(const struct allocate_settings *settings, allocate_measure_fn *measure,
	void *user, double limit, struct allocation *ret, struct reason *reason)
{
	struct search s = {.settings = settings,
		.measure = measure,
		.user = user,
		.limit = limit,
		.stride = NEAREST};
	int r = search(&s, reason);

	return r == 0 ? finish(&s, ret, reason) : r;
}
