#include "compress/decode.h"

#include "engine/forward.h"
#include "engine/score.h"

#define SLOTS 16u
#define PROMPT_CHUNK 32u
#define MAX_ROWS (SLOTS * PROMPT_CHUNK)

struct slot {
	struct decode_request *request; /* NULL: free */
	struct kv_seq *seq;
	uint32_t position;       /* of the next row */
	size_t last_row;         /* of this step */
	struct sampler *sampler; /* NULL: greedy */
};

struct decode {
	const struct decode_settings *settings;
	const struct sampler_settings *sampling; /* NULL: greedy */
	struct decode_request *requests;
	size_t n, n_started, n_finished;
	struct forward *forward;
	struct kv_pool *kv;
	uint32_t vocab;
	struct slot slots[SLOTS];
	struct batch_row rows[MAX_ROWS];
	size_t n_rows;
};

static void decode_done(struct decode *d)
{
	for (size_t i = 0; i < SLOTS; i++) {
		kv_seq_free(d->slots[i].seq);
		sampler_free(d->slots[i].sampler);
	}
	kv_pool_free(d->kv);
	forward_free(d->forward);
	free(d);
}

static inline void decode_donep(struct decode **d)
{
	if (*d)
		decode_done(*d);
}

static int decode_init(struct decode *d, struct reason *reason)
{
	const struct model_config *c = model_config(d->settings->model);
	uint64_t pages = div_up(c->max_positions, KV_PAGE_TOKENS);
	enum kv_type type = d->settings->kv_type;
	uint32_t longest = 0;
	int r;

	for (size_t i = 0; i < d->n; i++)
		longest = (uint32_t)max_u64(longest, d->requests[i].n_prompt);
	pages = min_u64(pages, div_up((uint64_t)longest + d->settings->max_tokens, KV_PAGE_TOKENS));
	d->vocab = variant_config(d->settings->variant)->vocab;
	r = forward_new(d->settings->model, d->settings->pool, MAX_ROWS, &d->forward, reason);
	if (r < 0)
		return r;
	return kv_pool_new(c, type, SLOTS * pages * kv_page_bytes(c, type), &d->kv, reason);
}

static int start_sampler(const struct decode *d, struct slot *slot)
{
	const struct decode_request *request = slot->request;
	struct sampler_settings settings;

	if (!d->sampling)
		return 0;
	settings = *d->sampling;
	settings.seed = request->seed;
	return sampler_new(&settings, d->vocab, request->prompt, request->n_prompt, &slot->sampler);
}

static int slot_start(struct decode *d, struct slot *slot, struct reason *reason)
{
	struct decode_request *request = &d->requests[d->n_started++];
	int r;

	r = kv_seq_new(d->kv, request->n_prompt + d->settings->max_tokens, &slot->seq);
	if (r != 0)
		return reason_set(reason, r < 0 ? r : -ENOMEM,
			"no room for a sequence of %u tokens",
			request->n_prompt + d->settings->max_tokens);
	request->n = 0;
	request->stop = -1;
	slot->request = request;
	slot->position = 0;
	return start_sampler(d, slot);
}

static void slot_end(struct decode *d, struct slot *slot)
{
	slot->seq = kv_seq_free(slot->seq);
	slot->sampler = sampler_free(slot->sampler);
	slot->request = NULL;
	d->n_finished++;
}

/* The next rows of a sequence: a chunk of its prompt, or the token that was made last. */
static void add_rows(struct decode *d, struct slot *slot)
{
	const struct decode_request *request = slot->request;
	uint32_t end = request->n_prompt;
	uint32_t known = end + request->n;
	uint32_t n = (uint32_t)min_u64(known - slot->position, PROMPT_CHUNK);

	for (uint32_t i = 0; i < n; i++, slot->position++)
		d->rows[d->n_rows++] = (struct batch_row){
			.variant = d->settings->variant,
			.seq = slot->seq,
			.token = slot->position < end ? request->prompt[slot->position]
						      : request->ids[slot->position - end],
			.position = slot->position,
			.want_logits = slot->position + 1 == known,
		};
	slot->last_row = d->n_rows - 1;
}

static bool is_stop(const struct decode_settings *s, uint32_t id)
{
	for (size_t i = 0; i < s->n_stops; i++)
		if (s->stops[i] >= 0 && (uint32_t)s->stops[i] == id)
			return true;
	return false;
}

static uint32_t choose(const struct decode *d, const struct slot *slot)
{
	const float *logits = forward_logits(d->forward, slot->last_row);
	struct sampled sampled;

	if (!slot->sampler)
		return logits_argmax(logits, d->vocab);
	sampler_pick(slot->sampler, logits, &sampled);
	return sampled.token;
}

/* Takes the token that the step gave a sequence, if its prompt is through. */
static void take_token(struct decode *d, struct slot *slot)
{
	struct decode_request *request = slot->request;
	uint32_t id;

	if (!d->rows[slot->last_row].want_logits)
		return;
	id = choose(d, slot);
	if (is_stop(d->settings, id)) {
		request->stop = (int32_t)id;
		slot_end(d, slot);
		return;
	}
	request->ids[request->n++] = id;
	if (request->n == d->settings->max_tokens)
		slot_end(d, slot);
}

static int step(struct decode *d, struct reason *reason)
{
	int r;

	d->n_rows = 0;
	for (size_t i = 0; i < SLOTS; i++) {
		struct slot *slot = &d->slots[i];

		if (!slot->request && d->n_started < d->n) {
			r = slot_start(d, slot, reason);
			if (r < 0)
				return r;
		}
		if (slot->request)
			add_rows(d, slot);
	}
	forward_step(d->forward, d->rows, d->n_rows);
	for (size_t i = 0; i < SLOTS; i++)
		if (d->slots[i].request)
			take_token(d, &d->slots[i]);
	return 0;
}

int decode_sampled(const struct decode_settings *settings, const struct sampler_settings *sampling,
	struct decode_request *requests, size_t n, struct reason *reason)
{
	_cleanup_(decode_donep) struct decode *d = calloc(1, sizeof(*d));
	int r;

	if (!d)
		return -ENOMEM;
	d->settings = settings;
	d->sampling = sampling;
	d->requests = requests;
	d->n = n;
	r = decode_init(d, reason);
	while (r == 0 && d->n_finished < n) {
		progress_update(settings->progress, settings->stage, d->n_finished, n);
		r = step(d, reason);
	}
	progress_update(settings->progress, settings->stage, d->n_finished, n);
	return r;
}

int decode_greedy(const struct decode_settings *settings, struct decode_request *requests, size_t n,
	struct reason *reason)
{
	return decode_sampled(settings, NULL, requests, n, reason);
}
