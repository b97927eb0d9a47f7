/*
 * Writes models/calibration.txt: what a base model says when nobody asks. Documents are sampled
 * from the begin of text at temperature 1 with nothing cut off, so the text has the distribution
 * that the model learnt and needs no licence but the model's.
 *
 *   write_calibration BASE.base N_DOCUMENTS MAX_TOKENS >models/calibration.txt
 *
 * Documents are separated by blank lines; blank lines inside them become line ends.
 */
#include "engine/forward.h"
#include "engine/sampler.h"
#include "engine/tokenizer.h"

#include <stdio.h>
#include <string.h>

#define GROUP 16u /* documents that grow together */

struct document {
	struct kv_seq *seq;
	struct sampler *sampler;
	uint32_t *ids;
	uint32_t n;
	bool ended;
};

struct writer {
	struct base *base;
	struct kernels kernels;
	struct pool *pool;
	struct model *model;
	struct variant *variant;
	struct forward *forward;
	struct kv_pool *kv;
	struct tokenizer *tokenizer;
	uint32_t max_tokens;
	struct document documents[GROUP];
};

static int writer_open(struct writer *w, const char *path, struct reason *reason)
{
	int r;

	r = kernels_select(&w->kernels, getenv("DELTAD_ISA"), reason);
	if (r == 0)
		r = pool_new(0, &w->pool, reason);
	if (r == 0)
		r = base_open(path, &w->base, NULL, reason);
	if (r == 0)
		r = model_new(w->base, &w->kernels, &w->model, reason);
	if (r == 0)
		r = variant_new(w->model, NULL, &w->variant, reason);
	if (r == 0)
		r = forward_new(w->model, w->pool, GROUP, &w->forward, reason);
	if (r == 0)
		r = tokenizer_of(w->base->image, NULL, &w->tokenizer, reason);
	if (r < 0)
		return r;
	if (w->base->config.bos < 0)
		return reason_set(reason, -EOPNOTSUPP, "the model has no begin-of-text id");
	w->max_tokens = (uint32_t)min_u64(w->max_tokens, w->base->config.max_positions - 1);
	return kv_pool_new(&w->base->config, KV_TYPE_F32,
		(uint64_t)GROUP * (div_up(w->max_tokens + 1, KV_PAGE_TOKENS)) *
			kv_page_bytes(&w->base->config, KV_TYPE_F32),
		&w->kv, reason);
}

static int document_begin(struct writer *w, struct document *d, uint64_t seed)
{
	struct sampler_settings settings = sampler_defaults;
	uint32_t bos = (uint32_t)w->base->config.bos;
	int r;

	settings.temperature = 1;
	settings.seed = seed;
	d->ids = malloc((w->max_tokens + 1) * sizeof(*d->ids));
	if (!d->ids)
		return -ENOMEM;
	d->ids[0] = bos;
	d->n = 1;
	r = sampler_new(&settings, w->base->config.vocab, &bos, 1, &d->sampler);
	if (r < 0)
		return r;
	r = kv_seq_new(w->kv, w->max_tokens + 1, &d->seq);
	return r == 0 ? 0 : -ENOMEM;
}

static void document_done(struct document *d)
{
	kv_seq_free(d->seq);
	sampler_free(d->sampler);
	free(d->ids);
	*d = (struct document){0};
}

static bool is_end(const struct model_config *c, uint32_t id)
{
	for (uint32_t i = 0; i < c->n_eos; i++)
		if ((uint32_t)c->eos[i] == id)
			return true;
	return id == (uint32_t)c->bos;
}

/* One token more for each document that goes on; false when none does. */
static bool grow(struct writer *w)
{
	struct batch_row rows[GROUP];
	struct document *owners[GROUP];
	size_t n = 0;

	for (size_t i = 0; i < GROUP; i++) {
		struct document *d = &w->documents[i];

		if (d->ended || d->n > w->max_tokens)
			continue;
		owners[n] = d;
		rows[n++] = (struct batch_row){
			.variant = w->variant,
			.seq = d->seq,
			.token = d->ids[d->n - 1],
			.position = d->n - 1,
			.want_logits = true,
		};
	}
	if (n == 0)
		return false;
	forward_step(w->forward, rows, n);
	for (size_t i = 0; i < n; i++) {
		struct sampled sampled;

		sampler_pick(owners[i]->sampler, forward_logits(w->forward, i), &sampled);
		owners[i]->ended = is_end(&w->base->config, sampled.token);
		if (!owners[i]->ended && owners[i]->n <= w->max_tokens)
			owners[i]->ids[owners[i]->n++] = sampled.token;
	}
	return true;
}

static int print_document(const struct writer *w, const struct document *d, struct reason *reason)
{
	_cleanup_(freep) char *text = NULL;
	size_t n;
	char last = '\n';
	int r;

	r = tokenizer_decode(w->tokenizer, d->ids, d->n, true, &text, &n, reason);
	if (r < 0)
		return r;
	for (size_t i = 0; i < n; i++) {
		if (text[i] != '\n' || last != '\n')
			putchar(text[i]);
		last = text[i];
	}
	fputs(last == '\n' ? "\n" : "\n\n", stdout);
	return 0;
}

static int write_group(struct writer *w, uint64_t first, uint64_t n, struct reason *reason)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < GROUP; i++) {
		r = document_begin(w, &w->documents[i], first + i);
		w->documents[i].ended = i >= n;
	}
	while (r == 0 && grow(w))
		;
	for (size_t i = 0; r == 0 && i < n; i++)
		r = print_document(w, &w->documents[i], reason);
	for (size_t i = 0; i < GROUP; i++)
		document_done(&w->documents[i]);
	return r;
}

static void writer_close(struct writer *w)
{
	kv_pool_free(w->kv);
	tokenizer_free(w->tokenizer);
	forward_free(w->forward);
	variant_free(w->variant);
	model_free(w->model);
	pool_free(w->pool);
	base_free(w->base);
}

int main(int argc, char **argv)
{
	_cleanup_(writer_close) struct writer w = {0};
	struct reason reason = {0};
	uint64_t n_documents;
	int r;

	if (argc != 4) {
		fprintf(stderr, "usage: write_calibration BASE.base N_DOCUMENTS MAX_TOKENS\n");
		return 2;
	}
	n_documents = strtoull(argv[2], NULL, 10);
	w.max_tokens = (uint32_t)strtoul(argv[3], NULL, 10);
	r = writer_open(&w, argv[1], &reason);
	for (uint64_t i = 0; r == 0 && i < n_documents; i += GROUP)
		r = write_group(&w, i, min_u64(GROUP, n_documents - i), &reason);
	if (r < 0) {
		fprintf(stderr, "write_calibration: %s\n",
			reason.text[0] ? reason.text : strerror(-r));
		return 1;
	}
	return 0;
}
