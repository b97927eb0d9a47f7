#include "engine/score.h"
#include "engine/forward.h"
#include "engine/variant.h"

#include <math.h>
#include <string.h>

struct scorer {
	const struct model_config *config; /* of the model */
	const struct variant *variant;
	struct forward *forward;
	struct kv_pool *kv;
	struct kv_seq *seq;
	uint32_t max_positions;
	uint32_t position; /* of the next id */
	size_t n_pushed;   /* ids of the last push */
};

int scorer_set_kv(struct scorer *s, enum kv_type type, struct reason *reason)
{
	uint64_t pages = div_up(s->max_positions, KV_PAGE_TOKENS);
	int r;

	s->seq = kv_seq_free(s->seq);
	s->kv = kv_pool_free(s->kv);
	r = kv_pool_new(s->config, type, pages * kv_page_bytes(s->config, type), &s->kv, reason);
	if (r < 0)
		return r;
	r = kv_seq_new(s->kv, s->max_positions, &s->seq);
	return r == 0 ? 0
		      : reason_set(reason, -ENOMEM, "no memory for %u tokens", s->max_positions);
}

int scorer_new(const struct model *model, struct pool *pool, uint32_t max_positions,
	struct scorer **ret, struct reason *reason)
{
	_cleanup_(scorerp) struct scorer *s = calloc(1, sizeof(*s));
	const struct model_config *c = model_config(model);
	int r;

	if (!s)
		return reason_set(reason, -ENOMEM, "no memory to score");
	if (max_positions == 0 || max_positions > c->max_positions)
		return reason_set(reason, -EBADMSG, "%u tokens, the model takes 1 to %u",
			max_positions, c->max_positions);
	s->config = c;
	s->max_positions = max_positions;
	r = forward_new(model, pool, SCORE_CHUNK, &s->forward, reason);
	if (r == 0)
		r = scorer_set_kv(s, KV_TYPE_F32, reason);
	if (r < 0)
		return r;
	*ret = take_ptr(s);
	return 0;
}

struct scorer *scorer_free(struct scorer *s)
{
	if (!s)
		return NULL;
	kv_seq_free(s->seq);
	kv_pool_free(s->kv);
	forward_free(s->forward);
	free(s);
	return NULL;
}

void scorer_begin(struct scorer *s, const struct variant *variant)
{
	s->variant = variant;
	s->position = 0;
	s->n_pushed = 0;
}

static int check_ids(const struct scorer *s, const uint32_t *ids, size_t n, struct reason *reason)
{
	if (n == 0 || n > SCORE_CHUNK)
		return reason_set(
			reason, -EINVAL, "a push takes 1 to %u ids, not %zu", SCORE_CHUNK, n);
	if (n > s->max_positions - s->position)
		return reason_set(reason, -EBADMSG, "%zu tokens, at most %u fit", s->position + n,
			s->max_positions);
	for (size_t i = 0; i < n; i++)
		if (ids[i] >= s->variant->config.vocab)
			return reason_set(reason, -EBADMSG,
				"token %zu is %u, the vocabulary has %u", s->position + i, ids[i],
				s->variant->config.vocab);
	return 0;
}

int scorer_push(struct scorer *s, const uint32_t *ids, size_t n, struct reason *reason)
{
	struct batch_row rows[SCORE_CHUNK];
	int r = check_ids(s, ids, n, reason);

	if (r < 0)
		return r;
	for (size_t i = 0; i < n; i++)
		rows[i] = (struct batch_row){
			.variant = s->variant,
			.seq = s->seq,
			.token = ids[i],
			.position = s->position++,
			.want_logits = true,
		};
	forward_step(s->forward, rows, n);
	s->n_pushed = n;
	return 0;
}

const float *scorer_logits(const struct scorer *s, size_t i)
{
	return forward_logits(s->forward, i);
}

double logits_logprob(const float *logits, uint32_t vocab, uint32_t token)
{
	double largest = logits[logits_argmax(logits, vocab)], sum = 0;

	for (uint32_t i = 0; i < vocab; i++)
		sum += exp(logits[i] - largest);
	return logits[token] - largest - log(sum);
}

uint32_t logits_argmax(const float *logits, uint32_t vocab)
{
	uint32_t best = 0;

	for (uint32_t i = 1; i < vocab; i++)
		if (logits[i] > logits[best])
			best = i;
	return best;
}

int score_sequence(struct scorer *s, const struct variant *variant, const uint32_t *ids, size_t n,
	score_visit_fn *visit, void *user, struct reason *reason)
{
	scorer_begin(s, variant);
	for (size_t at = 0; at < n; at += SCORE_CHUNK) {
		size_t chunk = min_u64(SCORE_CHUNK, n - at);
		int r = scorer_push(s, ids + at, chunk, reason);

		if (r < 0)
			return r;
		for (size_t i = 0; i < chunk; i++)
			visit(user, at + i, scorer_logits(s, i));
	}
	return 0;
}

static bool is_eos(const struct model_config *c, uint32_t token)
{
	for (uint32_t i = 0; i < c->n_eos; i++)
		if (c->eos[i] >= 0 && (uint32_t)c->eos[i] == token)
			return true;
	return false;
}

int score_greedy(struct scorer *s, size_t max_tokens, bool ignore_eos, uint32_t *ret_ids,
	size_t *ret_n, struct reason *reason)
{
	const struct model_config *c = &s->variant->config;
	size_t n = 0;

	if (s->n_pushed == 0)
		return reason_set(reason, -EINVAL, "nothing to continue");
	while (n < max_tokens) {
		uint32_t token = logits_argmax(scorer_logits(s, s->n_pushed - 1), c->vocab);
		int r;

		ret_ids[n++] = token;
		if (n == max_tokens || (!ignore_eos && is_eos(c, token)))
			break;
		r = scorer_push(s, &token, 1, reason);
		if (r < 0)
			return r;
	}
	*ret_n = n;
	return 0;
}
