#include "engine/selftest.h"
#include "engine/score.h"
#include "engine/variant.h"

#include "common/cursor.h"

#include <math.h>

#define N_LARGEST 16u
#define N_SPREAD 48u

struct logit {
	uint32_t id;
	float value;
};

struct selftest_view {
	struct selftest head;
	const uint8_t *ids;    /* little-endian, unaligned */
	const uint8_t *logits; /* pairs of id and f32 */
};

static void ignore_position(void *user, size_t position, const float *logits)
{
	(void)user;
	(void)position;
	(void)logits;
}

/* Runs a prompt; *ret_logits are those after its last id and belong to the scorer. */
static int run_prompt(const struct variant *v, struct pool *pool, const uint32_t *ids, size_t n,
	struct scorer **ret, const float **ret_logits, struct reason *reason)
{
	_cleanup_(scorerp) struct scorer *s = NULL;
	int r;

	if (n == 0 || n > v->model->base->config.max_positions)
		return reason_set(reason, -EBADMSG,
			"self-test: %zu prompt tokens, the model takes 1 to %u", n,
			v->model->base->config.max_positions);
	r = scorer_new(v->model, pool, (uint32_t)n, &s, reason);
	if (r < 0)
		return r;
	r = score_sequence(s, v, ids, n, ignore_position, NULL, reason);
	if (r < 0)
		return reason_prefix(reason, r, "self-test");
	*ret_logits = scorer_logits(s, (n - 1) % SCORE_CHUNK);
	*ret = take_ptr(s);
	return 0;
}

/* Keeps `largest` sorted, largest first. */
static void keep_largest(struct logit *largest, uint32_t *n, struct logit candidate)
{
	uint32_t at = *n < N_LARGEST ? (*n)++ : N_LARGEST;

	for (; at > 0 && largest[at - 1].value < candidate.value; at--)
		if (at < N_LARGEST)
			largest[at] = largest[at - 1];
	if (at < N_LARGEST)
		largest[at] = candidate;
}

static uint32_t choose_logits(
	const float *logits, uint32_t vocab, struct logit ret[static N_LARGEST + N_SPREAD])
{
	uint32_t n = 0, n_spread = (uint32_t)min_u64(N_SPREAD, vocab);

	for (uint32_t i = 0; i < vocab; i++)
		keep_largest(ret, &n, (struct logit){i, logits[i]});
	for (uint32_t i = 0; i < n_spread; i++) {
		uint32_t id = (uint32_t)((uint64_t)i * vocab / n_spread);

		ret[n++] = (struct logit){id, logits[id]};
	}
	return n;
}

static void put_u32(uint8_t **at, uint32_t value)
{
	uint32_t little = htole32(value);

	memcpy(*at, &little, sizeof(little));
	*at += sizeof(little);
}

static void put_f32(uint8_t **at, float value)
{
	uint32_t bits;

	memcpy(&bits, &value, sizeof(bits));
	put_u32(at, bits);
}

int selftest_make(const struct variant *variant, struct pool *pool, const uint32_t *ids, size_t n,
	float tolerance, uint8_t **ret, size_t *ret_n, struct reason *reason)
{
	_cleanup_(scorerp) struct scorer *s = NULL;
	struct logit chosen[N_LARGEST + N_SPREAD];
	const float *logits;
	uint32_t n_chosen;
	uint8_t *bytes, *at;
	size_t n_bytes;
	int r = run_prompt(variant, pool, ids, n, &s, &logits, reason);

	if (r < 0)
		return r;
	n_chosen = choose_logits(logits, variant->config.vocab, chosen);
	n_bytes = sizeof(struct selftest) + 4 * n + 8 * n_chosen;
	at = bytes = malloc(n_bytes);
	if (!bytes)
		return reason_set(reason, -ENOMEM, "no memory for the self-test");
	put_u32(&at, (uint32_t)n);
	put_u32(&at, n_chosen);
	put_f32(&at, tolerance);
	put_u32(&at, 0);
	for (size_t i = 0; i < n; i++)
		put_u32(&at, ids[i]);
	for (uint32_t i = 0; i < n_chosen; i++) {
		put_u32(&at, chosen[i].id);
		put_f32(&at, chosen[i].value);
	}
	*ret = bytes;
	*ret_n = n_bytes;
	return 0;
}

/* Ids and logits are looked at where they are used; here are their counts and the bytes' end. */
static int parse(
	const uint8_t *bytes, uint64_t n_bytes, struct selftest_view *ret, struct reason *reason)
{
	struct cursor c = cursor_over(bytes, n_bytes);
	struct selftest_view view;

	view.head.n_ids = cursor_u32(&c);
	view.head.n_logits = cursor_u32(&c);
	view.head.tolerance = cursor_f32(&c);
	view.head.reserved = cursor_u32(&c);
	view.ids = cursor_bytes(&c, 4ull * view.head.n_ids);
	view.logits = cursor_bytes(&c, 8ull * view.head.n_logits);
	if (!cursor_end(&c))
		return reason_set(reason, -EBADMSG,
			"self-test: %llu bytes do not hold %u tokens and %u logits",
			(unsigned long long)n_bytes, view.head.n_ids, view.head.n_logits);
	if (view.head.n_ids == 0 || view.head.n_ids > SELFTEST_MAX_IDS)
		return reason_set(reason, -EBADMSG, "self-test: %u prompt tokens, expected 1 to %u",
			view.head.n_ids, SELFTEST_MAX_IDS);
	if (view.head.n_logits == 0)
		return reason_set(reason, -EBADMSG, "self-test: no logits");
	if (!(view.head.tolerance > 0 && view.head.tolerance <= SELFTEST_MAX_TOLERANCE))
		return reason_set(reason, -EBADMSG, "self-test: tolerance %g, expected at most %g",
			view.head.tolerance, SELFTEST_MAX_TOLERANCE);
	*ret = view;
	return 0;
}

static int compare(const struct selftest_view *view, const float *logits, uint32_t vocab,
	float *ret_error, struct reason *reason)
{
	struct cursor c = cursor_over(view->logits, 8ull * view->head.n_logits);
	float largest = 0, worst = 0, expected_worst = 0;
	uint32_t worst_id = 0;

	for (uint32_t i = 0; i < vocab; i++)
		largest = fmaxf(largest, fabsf(logits[i]));
	for (uint32_t i = 0; i < view->head.n_logits; i++) {
		uint32_t id = cursor_u32(&c);
		float expected = cursor_f32(&c), difference;

		if (id >= vocab)
			return reason_set(reason, -EBADMSG,
				"self-test: logit of token %u, the vocabulary has %u", id, vocab);
		difference = fabsf(logits[id] - expected);
		/* A NaN on either side counts as the worst there is. */
		if (difference <= worst)
			continue;
		worst = isnan(difference) ? INFINITY : difference;
		worst_id = id;
		expected_worst = expected;
	}
	/* Infinite logits would tolerate anything. */
	if (!isfinite(largest) || !(worst <= view->head.tolerance * largest))
		return reason_set(reason, -EMEDIUMTYPE,
			"self-test: the logit of token %u is %g, the file says %g; that is %.3g of "
			"the "
			"largest (%g), %.3g are allowed",
			worst_id, logits[worst_id], expected_worst, worst / largest, largest,
			view->head.tolerance);
	*ret_error = largest > 0 ? worst / largest : 0;
	return 0;
}

int selftest_run(const struct variant *variant, struct pool *pool, const uint8_t *bytes,
	uint64_t n_bytes, float *ret_error, struct reason *reason)
{
	_cleanup_(scorerp) struct scorer *s = NULL;
	_cleanup_(freep) uint32_t *ids = NULL;
	struct selftest_view view = {0};
	struct cursor c;
	const float *logits;
	int r = parse(bytes, n_bytes, &view, reason);

	if (r < 0)
		return r;
	ids = malloc(4ull * view.head.n_ids + 1);
	if (!ids)
		return reason_set(reason, -ENOMEM, "no memory for the self-test");
	c = cursor_over(view.ids, 4ull * view.head.n_ids);
	for (uint32_t i = 0; i < view.head.n_ids; i++)
		ids[i] = cursor_u32(&c);
	r = run_prompt(variant, pool, ids, view.head.n_ids, &s, &logits, reason);
	if (r < 0)
		return r;
	return compare(&view, logits, variant->config.vocab, ret_error, reason);
}
