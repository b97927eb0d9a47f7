/*
 * Settings that leave the logits as they are (the usual greedy case) cost no copy. Otherwise the
 * changed logits stand in `work`. Where top-k, top-p or min-p cut, candidates leave a heap in
 * falling order until one of the limits says enough, so a large vocabulary is never sorted whole.
 *
 * The draw uses a counter: number i of a seed is a function of (seed, i) alone.
 */
#include "engine/sampler.h"

#include "common/random.h"

#include <math.h>
#include <string.h>

struct candidate {
	float logit;
	uint32_t token;
};

struct seen_token {
	uint32_t token;
	uint32_t n_generated; /* 0: only in the prompt */
};

struct sampler {
	struct sampler_settings settings;
	uint32_t vocab;
	uint64_t n_drawn;
	float *work;                  /* vocab; NULL if nothing changes logits */
	struct candidate *candidates; /* vocab; NULL if greedy */
	/* Tokens that a penalty may concern, each once, and where each stands: index + 1, or 0. */
	struct seen_token *seen;
	uint32_t *seen_at;
	uint32_t n_seen;
};

const struct sampler_settings sampler_defaults = {
	.top_p = 1,
	.repetition_penalty = 1,
};

static int check_range(
	const char *name, float value, float least, float most, struct reason *reason)
{
	if (value >= least && value <= most)
		return 0;
	return reason_set(
		reason, -EBADMSG, "%s is %g, expected %g to %g", name, value, least, most);
}

static int check_bias(const struct sampler_settings *s, struct reason *reason)
{
	if (s->n_logit_bias > SAMPLER_MAX_LOGIT_BIAS)
		return reason_set(reason, -EBADMSG, "%u logit biases, expected at most %u",
			s->n_logit_bias, SAMPLER_MAX_LOGIT_BIAS);
	for (uint32_t i = 0; i < s->n_logit_bias; i++)
		if (isnan(s->logit_bias[i].bias) || s->logit_bias[i].bias > 1e6f)
			return reason_set(reason, -EBADMSG, "logit bias of token %u is %g",
				s->logit_bias[i].token, s->logit_bias[i].bias);
	return 0;
}

int sampler_settings_check(const struct sampler_settings *s, struct reason *reason)
{
	const struct {
		const char *name;
		float value, least, most;
	} ranges[] = {
		{"temperature", s->temperature, 0, 100},
		{"top_p", s->top_p, 0, 1},
		{"min_p", s->min_p, 0, 1},
		{"repetition_penalty", s->repetition_penalty, 0.01f, 100},
		{"presence_penalty", s->presence_penalty, -100, 100},
		{"frequency_penalty", s->frequency_penalty, -100, 100},
		{"logprobs", (float)s->n_logprobs, 0, SAMPLER_MAX_LOGPROBS},
	};

	for (size_t i = 0; i < array_len(ranges); i++) {
		int r = check_range(
			ranges[i].name, ranges[i].value, ranges[i].least, ranges[i].most, reason);

		if (r < 0)
			return r;
	}
	return check_bias(s, reason);
}

static bool has_penalties(const struct sampler_settings *s)
{
	return s->repetition_penalty != 1 || s->presence_penalty != 0 || s->frequency_penalty != 0;
}

static void note_token(struct sampler *s, uint32_t token, uint32_t n_generated)
{
	if (!s->seen || token >= s->vocab)
		return;
	if (!s->seen_at[token]) {
		s->seen[s->n_seen] = (struct seen_token){.token = token};
		s->seen_at[token] = ++s->n_seen;
	}
	s->seen[s->seen_at[token] - 1].n_generated += n_generated;
}

static inline void samplerp(struct sampler **s)
{
	sampler_free(*s);
}

static bool allocate(struct sampler *s)
{
	bool penalties = has_penalties(&s->settings);

	if (penalties || s->settings.n_logit_bias) {
		s->work = calloc(s->vocab, sizeof(*s->work));
		if (!s->work)
			return false;
	}
	if (penalties) {
		s->seen = calloc(s->vocab, sizeof(*s->seen));
		s->seen_at = calloc(s->vocab, sizeof(*s->seen_at));
		if (!s->seen || !s->seen_at)
			return false;
	}
	if (s->settings.temperature > 0) {
		s->candidates = calloc(s->vocab, sizeof(*s->candidates));
		if (!s->candidates)
			return false;
	}
	return true;
}

int sampler_new(const struct sampler_settings *settings, uint32_t vocab, const uint32_t *prompt,
	size_t n_prompt, struct sampler **ret)
{
	_cleanup_(samplerp) struct sampler *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->settings = *settings;
	s->vocab = vocab;
	if (!allocate(s))
		return -ENOMEM;
	for (size_t i = 0; i < n_prompt; i++)
		note_token(s, prompt[i], 0);
	*ret = take_ptr(s);
	return 0;
}

struct sampler *sampler_free(struct sampler *s)
{
	if (!s)
		return NULL;
	free(s->work);
	free(s->candidates);
	free(s->seen);
	free(s->seen_at);
	free(s);
	return NULL;
}

static void apply_bias(const struct sampler_settings *set, float *logits, uint32_t vocab)
{
	for (uint32_t i = 0; i < set->n_logit_bias; i++)
		if (set->logit_bias[i].token < vocab)
			logits[set->logit_bias[i].token] += set->logit_bias[i].bias;
}

static void apply_penalties(const struct sampler *s, float *logits)
{
	const struct sampler_settings *set = &s->settings;

	for (uint32_t i = 0; i < s->n_seen; i++) {
		const struct seen_token *seen = &s->seen[i];
		float *logit = &logits[seen->token];

		if (*logit > 0)
			*logit /= set->repetition_penalty;
		else
			*logit *= set->repetition_penalty;
		if (seen->n_generated)
			*logit -= set->presence_penalty +
				  set->frequency_penalty * (float)seen->n_generated;
	}
}

/* The logits after bias and penalties: the caller's own where nothing changes them. */
static const float *changed_logits(struct sampler *s, const float *logits)
{
	if (!s->work)
		return logits;
	memcpy(s->work, logits, s->vocab * sizeof(*logits));
	apply_bias(&s->settings, s->work, s->vocab);
	apply_penalties(s, s->work);
	return s->work;
}

static uint32_t largest_of(const float *logits, uint32_t n)
{
	uint32_t best = 0;

	for (uint32_t i = 1; i < n; i++)
		if (logits[i] > logits[best])
			best = i;
	return best;
}

/* In [0, 1). Mixed twice, so that neighbouring seeds share nothing. */
static double uniform(uint64_t seed, uint64_t counter)
{
	return random_share(mix64_at(mix64_at(seed, counter), counter));
}

/* The larger logit goes first; of equal ones the smaller token. */
static bool goes_first(const struct candidate *a, const struct candidate *b)
{
	return a->logit > b->logit || (a->logit == b->logit && a->token < b->token);
}

static void sift_down(struct candidate *heap, size_t n, size_t at)
{
	struct candidate moving = heap[at];

	for (size_t child; (child = 2 * at + 1) < n; at = child) {
		if (child + 1 < n && goes_first(&heap[child + 1], &heap[child]))
			child++;
		if (!goes_first(&heap[child], &moving))
			break;
		heap[at] = heap[child];
	}
	heap[at] = moving;
}

static void build_heap(struct candidate *heap, size_t n)
{
	for (size_t i = n / 2; i-- > 0;)
		sift_down(heap, n, i);
}

/* Moves the first candidate behind the others and leaves a heap of n - 1. */
static void pop(struct candidate *heap, size_t n)
{
	struct candidate first = heap[0];

	heap[0] = heap[n - 1];
	heap[n - 1] = first;
	sift_down(heap, n - 1, 0);
}

/* Those that can be drawn at all, at the front of `candidates`. */
static size_t collect(struct sampler *s, const float *logits)
{
	size_t n = 0;

	for (uint32_t i = 0; i < s->vocab; i++)
		if (logits[i] > -INFINITY)
			s->candidates[n++] = (struct candidate){logits[i], i};
	return n;
}

/* Weight relative to the largest logit, which has 1. The difference comes first: a logit over a
 * tiny temperature would be infinite. */
static double weight_of(const struct sampler *s, float logit, float largest)
{
	return exp(((double)logit - largest) / s->settings.temperature);
}

static double total_weight(
	const struct sampler *s, const struct candidate *c, size_t n, float largest)
{
	double total = 0;

	for (size_t i = 0; i < n; i++)
		total += weight_of(s, c[i].logit, largest);
	return total;
}

/*
 * Pops what the limits keep, so that it stands in rising order at the end of the n candidates.
 * Returns how many that are, at least one, and the sum of their weights.
 */
static size_t keep(struct sampler *s, size_t n, double *ret_kept)
{
	const struct sampler_settings *set = &s->settings;
	struct candidate *c = s->candidates;
	size_t most = set->top_k ? min_u64(set->top_k, n) : n, n_kept = 0;
	float largest;
	double enough, kept = 0;

	build_heap(c, n);
	largest = c[0].logit;
	if (set->top_k)
		for (size_t i = 0; i < most; i++)
			pop(c, n - i);
	/* top-p is a share of what top-k left. */
	enough = set->top_p * total_weight(s, set->top_k ? c + n - most : c, most, largest);
	while (n_kept < most) {
		double weight;

		if (!set->top_k)
			pop(c, n - n_kept);
		weight = weight_of(s, c[n - 1 - n_kept].logit, largest);
		if (n_kept && (weight < set->min_p || (set->top_p < 1 && kept >= enough)))
			break;
		kept += weight;
		n_kept++;
	}
	*ret_kept = kept;
	return n_kept;
}

/* The candidate in whose share of the line the point lies that has `left` to the end; walks down
 * from there, where the likely ones stand after keep(). */
static uint32_t draw(
	const struct sampler *s, const struct candidate *c, size_t n, double left, float largest)
{
	for (size_t i = n; i-- > 1;) {
		left -= weight_of(s, c[i].logit, largest);
		if (left < 0)
			return c[i].token;
	}
	return c[0].token;
}

static uint32_t sample(struct sampler *s, const float *logits)
{
	const struct sampler_settings *set = &s->settings;
	double point = uniform(set->seed, s->n_drawn++), total;
	size_t n = collect(s, logits), n_kept;
	float largest;

	if (n == 0)
		return largest_of(logits, s->vocab);
	if (set->top_k || set->top_p < 1 || set->min_p > 0) {
		n_kept = keep(s, n, &total);
		largest = s->candidates[n - 1].logit;
		return draw(s, s->candidates + n - n_kept, n_kept, point * total, largest);
	}
	largest = logits[largest_of(logits, s->vocab)];
	total = total_weight(s, s->candidates, n, largest);
	return draw(s, s->candidates, n, point * total, largest);
}

/* Inserts into a list of at most `most` in falling order. */
static void keep_top(struct sampled *ret, uint32_t most, uint32_t token, float logit)
{
	uint32_t at = ret->n_top < most ? ret->n_top++ : most;

	for (; at > 0 && ret->top[at - 1].logprob < logit; at--)
		if (at < most)
			ret->top[at] = ret->top[at - 1];
	if (at < most)
		ret->top[at] = (struct token_logprob){token, logit};
}

/* Of the distribution as the model gave it. */
static void fill_logprobs(const struct sampler *s, const float *logits, struct sampled *ret)
{
	float largest = logits[largest_of(logits, s->vocab)];
	double sum = 0, log_sum;

	ret->n_top = 0;
	for (uint32_t i = 0; i < s->vocab; i++)
		sum += (double)expf(logits[i] - largest);
	log_sum = largest + log(sum);
	ret->logprob = (float)(logits[ret->token] - log_sum);
	if (!s->settings.n_logprobs)
		return;
	for (uint32_t i = 0; i < s->vocab; i++)
		keep_top(ret, s->settings.n_logprobs, i, logits[i]);
	for (uint32_t i = 0; i < ret->n_top; i++)
		ret->top[i].logprob = (float)(ret->top[i].logprob - log_sum);
}

void sampler_pick(struct sampler *s, const float *logits, struct sampled *ret)
{
	const float *changed = changed_logits(s, logits);

	ret->token =
		s->settings.temperature > 0 ? sample(s, changed) : largest_of(changed, s->vocab);
	fill_logprobs(s, logits, ret);
	note_token(s, ret->token, 1);
}
