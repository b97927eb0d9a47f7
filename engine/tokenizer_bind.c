/*
 * Tables to the parts of a tokenizer. Every number and string of a section is checked here, or by
 * the part that it becomes, before anything relies on it.
 */
#include "engine/tokenizer_parts.h"

#include "engine/byte_alphabet.h"

/* Added tokens of the base and the delta by id: the delta's replace. */
struct added_list {
	struct added_token *items;
	size_t n;
};

static void added_list_done(struct added_list *l)
{
	free(l->items);
}

/* Appends one section's added tokens, which may not take more text than there is. */
static int read_added(struct added_list *l, const struct tokenizer_view *v, struct reason *reason)
{
	uint64_t n_text = 0;

	for (uint32_t i = 0; i < v->head.n_added; i++) {
		struct tokenizer_added added;
		int r = tokenizer_view_added(v, i, &added, reason);

		if (r < 0)
			return r;
		n_text += added.text.bytes;
		if (n_text > v->head.n_text)
			return reason_set(reason, -EBADMSG, "tokenizer: added tokens share text");
		l->items[l->n++] = (struct added_token){
			.id = added.id,
			.flags = added.flags,
			.text = v->text + added.text.offset,
			.n = added.text.bytes,
		};
	}
	return 0;
}

static int compare_ids(const void *left, const void *right)
{
	const struct added_token *a = left, *b = right;

	return a->id < b->id ? -1 : a->id > b->id;
}

/* Sorts by id and demands that no id comes twice. */
static int sort_by_id(struct added_token *items, size_t n, struct reason *reason)
{
	if (n)
		qsort(items, n, sizeof(*items), compare_ids);
	for (size_t i = 1; i < n; i++)
		if (items[i].id == items[i - 1].id)
			return reason_set(
				reason, -EBADMSG, "tokenizer: added token %u twice", items[i].id);
	return 0;
}

/* Drops those of the first n_base tokens that one of the others replaces. Both parts are sorted. */
static void drop_replaced(struct added_list *l, size_t n_base)
{
	size_t kept = 0, extra = n_base;

	for (size_t i = 0; i < n_base; i++) {
		while (extra < l->n && l->items[extra].id < l->items[i].id)
			extra++;
		if (extra == l->n || l->items[extra].id != l->items[i].id)
			l->items[kept++] = l->items[i];
	}
	if (l->n > n_base)
		memmove(l->items + kept, l->items + n_base, (l->n - n_base) * sizeof(*l->items));
	l->n = kept + (l->n - n_base);
}

static int merge_added(struct added_list *l, const struct tokenizer_view *base,
	const struct tokenizer_view *extra, struct reason *reason)
{
	size_t n = (size_t)base->head.n_added + (extra ? extra->head.n_added : 0), n_base;
	int r;

	l->items = calloc(n + 1, sizeof(*l->items));
	if (!l->items)
		return -ENOMEM;
	r = read_added(l, base, reason);
	n_base = l->n;
	if (r == 0 && extra)
		r = read_added(l, extra, reason);
	if (r == 0)
		r = sort_by_id(l->items, n_base, reason);
	if (r == 0)
		r = sort_by_id(l->items + n_base, l->n - n_base, reason);
	if (r == 0)
		drop_replaced(l, n_base);
	return r;
}

static int bind_spellings(struct tokenizer *t, const struct added_list *l, struct reason *reason)
{
	uint64_t limit = (uint64_t)t->vocabulary.n_tokens + l->n + TOKENIZER_MAX_ID_GAP;

	t->n_ids = t->vocabulary.n_tokens;
	for (size_t i = 0; i < l->n; i++) {
		if (l->items[i].id >= limit)
			return reason_set(reason, -EBADMSG,
				"tokenizer: added token has id %u beside %u tokens", l->items[i].id,
				t->vocabulary.n_tokens);
		if (l->items[i].id >= t->n_ids)
			t->n_ids = l->items[i].id + 1;
	}
	t->spellings = calloc((size_t)t->n_ids + 1, sizeof(*t->spellings));
	if (!t->spellings)
		return -ENOMEM;
	for (uint32_t id = 0; id < t->vocabulary.n_tokens; id++) {
		size_t n;

		t->spellings[id].text = vocabulary_token(&t->vocabulary, id, &n);
		t->spellings[id].n = (uint32_t)n;
	}
	for (size_t i = 0; i < l->n; i++)
		t->spellings[l->items[i].id] = (struct spelling){
			.text = l->items[i].text,
			.n = (uint32_t)l->items[i].n,
			.special = l->items[i].flags & TOKENIZER_ADDED_SPECIAL,
		};
	return 0;
}

/* Where a spelling lies in normal_spellings while that may still move. */
struct normal_range {
	size_t offset, n;
};

/* Tokens that are looked for in normalised text are normalised themselves. */
static int normalize_spellings(struct tokenizer *t, struct reason *reason)
{
	_cleanup_(freep) struct normal_range *ranges =
		calloc(t->normalized.n_items + 1, sizeof(*ranges));
	size_t kept = 0;

	if (!ranges)
		return -ENOMEM;
	for (size_t i = 0; i < t->normalized.n_items; i++) {
		struct added_token *token = &t->normalized.items[i];
		int r;

		ranges[i].offset = t->normal_spellings.n;
		r = normalizer_apply(
			&t->normalizer, token->text, token->n, &t->normal_spellings, reason);
		if (r < 0)
			return r;
		ranges[i].n = t->normal_spellings.n - ranges[i].offset;
	}
	for (size_t i = 0; i < t->normalized.n_items; i++) {
		struct added_token token = t->normalized.items[i];

		token.text = t->normal_spellings.items + ranges[i].offset;
		token.n = ranges[i].n;
		if (token.n)
			t->normalized.items[kept++] = token;
	}
	t->normalized.n_items = kept;
	return 0;
}

static int bind_added(struct tokenizer *t, const struct added_list *l, struct reason *reason)
{
	int r;

	t->plain.items = calloc(l->n + 1, sizeof(*t->plain.items));
	t->normalized.items = calloc(l->n + 1, sizeof(*t->normalized.items));
	if (!t->plain.items || !t->normalized.items)
		return -ENOMEM;
	for (size_t i = 0; i < l->n; i++) {
		struct added_tokens *set =
			l->items[i].flags & TOKENIZER_ADDED_NORMALIZED ? &t->normalized : &t->plain;

		set->items[set->n_items++] = l->items[i];
	}
	r = normalize_spellings(t, reason);
	added_tokens_sort(&t->plain);
	added_tokens_sort(&t->normalized);
	return r;
}

static int bad_step(const char *list, const struct tokenizer_step *step, struct reason *reason)
{
	return reason_set(reason, -EBADMSG,
		"tokenizer: %s step of kind %u has option %#x and strings of %u and %u bytes", list,
		step->kind, step->option, step->a.bytes, step->b.bytes);
}

static int bind_normalizers(
	struct tokenizer *t, const struct tokenizer_view *v, struct reason *reason)
{
	for (uint32_t i = 0; i < v->head.n_normalizers; i++) {
		struct tokenizer_step step;
		int r = tokenizer_view_step(v, v->normalizers, i, &step, reason);

		if (r < 0)
			return r;
		if (step.kind < NORMALIZE_NFC || step.kind > NORMALIZE_REPLACE || step.option ||
			step.a.bytes > TOKENIZER_MAX_STEP_TEXT ||
			step.b.bytes > TOKENIZER_MAX_STEP_TEXT ||
			(step.kind == NORMALIZE_REPLACE && step.a.bytes == 0))
			return bad_step("normalizer", &step, reason);
		t->normalizer.steps[t->normalizer.n_steps++] = (struct normalize_step){
			.kind = step.kind,
			.a = v->text + step.a.offset,
			.n_a = step.a.bytes,
			.b = v->text + step.b.offset,
			.n_b = step.b.bytes,
		};
	}
	return 0;
}

static bool pretokenize_step_is_sound(const struct tokenizer_step *step)
{
	switch ((enum pretokenize_kind)step->kind) {
	case PRETOKENIZE_SPLIT:
		return (step->option & ~SPLIT_INVERT) <= SPLIT_CONTIGUOUS && step->a.bytes &&
		       step->a.bytes <= TOKENIZER_MAX_TOKEN_BYTES;
	case PRETOKENIZE_PREFIX_SPACE:
	case PRETOKENIZE_BYTES:
		return step->option == 0;
	case PRETOKENIZE_METASPACE:
		return (step->option & ~METASPACE_SPLIT) <= METASPACE_ALWAYS && step->a.bytes &&
		       step->a.bytes <= TOKENIZER_MAX_STEP_TEXT;
	}
	return false;
}

static int bind_pretokenizers(
	struct tokenizer *t, const struct tokenizer_view *v, struct reason *reason)
{
	struct pretokenizer *p = &t->pretokenizer;

	byte_alphabet(p->byte_characters);
	for (uint32_t i = 0; i < v->head.n_pretokenizers; i++) {
		struct tokenizer_step step;
		void *pattern = NULL;
		int r = tokenizer_view_step(v, v->pretokenizers, i, &step, reason);

		if (r < 0)
			return r;
		if (!pretokenize_step_is_sound(&step))
			return bad_step("pre-tokenizer", &step, reason);
		if (step.kind == PRETOKENIZE_SPLIT)
			r = split_pattern_new(
				v->text + step.a.offset, step.a.bytes, &pattern, reason);
		if (r < 0)
			return r;
		p->steps[p->n_steps++] = (struct pretokenize_step){
			.kind = step.kind,
			.option = step.option,
			.pattern = pattern,
			.a = v->text + step.a.offset,
			.n_a = step.a.bytes,
		};
	}
	return 0;
}

static int bind_decoders(struct tokenizer *t, const struct tokenizer_view *v, struct reason *reason)
{
	struct detokenizer *d = &t->detokenizer;

	for (uint32_t i = 0; i < v->head.n_decoders; i++) {
		struct tokenizer_step step;
		int r = tokenizer_view_step(v, v->decoders, i, &step, reason);
		bool empty;

		if (r < 0)
			return r;
		empty = (step.kind == DECODE_REPLACE || step.kind == DECODE_FIRST ||
				step.kind == DECODE_STRIP) &&
			step.a.bytes == 0;
		if (step.kind < DECODE_BYTES || step.kind > DECODE_STRIP || empty ||
			step.a.bytes > TOKENIZER_MAX_STEP_TEXT ||
			step.b.bytes > TOKENIZER_MAX_STEP_TEXT)
			return bad_step("decoder", &step, reason);
		d->steps[d->n_steps++] = (struct decode_step){
			.kind = step.kind,
			.option = step.option,
			.a = v->text + step.a.offset,
			.n_a = step.a.bytes,
			.b = v->text + step.b.offset,
			.n_b = step.b.bytes,
		};
	}
	return detokenizer_init(d, t->spellings, t->n_ids, reason);
}

static int bind_ids(const struct tokenizer *t, const uint8_t *ids, uint32_t n, struct id_list *ret,
	struct reason *reason)
{
	int r = 0;

	for (uint32_t i = 0; r == 0 && i < n; i++) {
		uint32_t id = tokenizer_view_id(ids, i);

		if (id >= t->n_ids)
			return reason_set(reason, -EBADMSG,
				"tokenizer: post-processor adds id %u of %u", id, t->n_ids);
		r = id_list_append(ret, id);
	}
	return r;
}

int tokenizer_bind(struct tokenizer *t, const struct tokenizer_view *base,
	const struct tokenizer_view *extra, struct reason *reason)
{
	_cleanup_(added_list_done) struct added_list added = {0};
	const struct tokenizer_tables *h = &base->head;
	int r;

	r = vocabulary_init(
		&t->vocabulary, base->token_ends, h->n_tokens, base->text, h->n_text, reason);
	if (r == 0)
		r = bpe_init(&t->bpe, &t->vocabulary, h->flags, h->unk, base->merges, h->n_merges,
			reason);
	if (r == 0)
		r = merge_added(&added, base, extra, reason);
	if (r == 0)
		r = bind_spellings(t, &added, reason);
	if (r == 0)
		r = bind_normalizers(t, base, reason);
	if (r == 0)
		r = bind_added(t, &added, reason);
	if (r == 0)
		r = bind_pretokenizers(t, base, reason);
	if (r == 0)
		r = bind_decoders(t, base, reason);
	if (r == 0)
		r = bind_ids(t, base->prefix, h->n_prefix, &t->prefix, reason);
	if (r == 0)
		r = bind_ids(t, base->suffix, h->n_suffix, &t->suffix, reason);
	return r;
}
