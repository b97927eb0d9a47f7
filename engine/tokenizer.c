/*
 * Encoding, in the reference's order: added tokens that are looked for in the text as it is; the
 * runs between them normalised; added tokens that are looked for in normalised text; the runs
 * between those cut into words; each word merged.
 */
#include "engine/tokenizer.h"
#include "engine/added_tokens.h"
#include "engine/bpe.h"
#include "engine/byte_alphabet.h"
#include "engine/detokenizer.h"
#include "engine/normalizer.h"
#include "engine/pretokenizer.h"
#include "engine/tokenizer_view.h"
#include "engine/utf8.h"

#define MAX_TEXT_BYTES ((size_t)INT32_MAX / TOKENIZER_MAX_GROWTH)

struct tokenizer {
	struct vocabulary vocabulary;
	struct bpe bpe;
	struct normalizer normalizer;
	struct pretokenizer pretokenizer;
	struct detokenizer detokenizer;
	struct added_tokens plain;      /* looked for in the text as it is */
	struct added_tokens normalized; /* looked for in normalised text */
	struct text normal_spellings;   /* of the latter */
	struct id_list prefix, suffix;
	uint32_t n_ids;
	struct spelling *spellings; /* n_ids */
};

struct tokenizer *tokenizer_free(struct tokenizer *t)
{
	if (!t)
		return NULL;
	vocabulary_done(&t->vocabulary);
	bpe_done(&t->bpe);
	pretokenizer_done(&t->pretokenizer);
	detokenizer_done(&t->detokenizer);
	added_tokens_done(&t->plain);
	added_tokens_done(&t->normalized);
	text_done(&t->normal_spellings);
	id_list_done(&t->prefix);
	id_list_done(&t->suffix);
	free(t->spellings);
	free(t);
	return NULL;
}

static inline void tokenizer_freep(struct tokenizer **t)
{
	tokenizer_free(*t);
}

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

static int bind_tables(struct tokenizer *t, const struct tokenizer_view *base,
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

int tokenizer_new(const uint8_t *tables, uint64_t n_tables, const uint8_t *extra, uint64_t n_extra,
	struct tokenizer **ret, struct reason *reason)
{
	_cleanup_(tokenizer_freep) struct tokenizer *t = calloc(1, sizeof(*t));
	struct tokenizer_view base, addition;
	int r;

	if (!t)
		return -ENOMEM;
	r = tokenizer_view_init(&base, TOKENIZER_MAGIC, tables, n_tables, reason);
	if (r == 0 && extra)
		r = tokenizer_view_init(&addition, TOKENIZER_EXTRA_MAGIC, extra, n_extra, reason);
	if (r == 0 && extra && addition.head.n_added == 0)
		r = reason_set(
			reason, -EBADMSG, "tokenizer: a delta's section without added tokens");
	if (r == 0)
		r = bind_tables(t, &base, extra ? &addition : NULL, reason);
	if (r < 0)
		return r;
	*ret = take_ptr(t);
	return 0;
}

int tokenizer_of(const struct image *base, const struct image *delta, struct tokenizer **ret,
	struct reason *reason)
{
	uint64_t n_tables = 0, n_extra = 0;
	const uint8_t *tables = image_section(base, SECTION_TOKENIZER, &n_tables);
	const uint8_t *extra = delta ? image_section(delta, SECTION_TOKENIZER, &n_extra) : NULL;

	if (!tables)
		return reason_set(reason, -EOPNOTSUPP,
			"the base has no tokenizer: its folder had no tokenizer.json when it was "
			"imported");
	return tokenizer_new(tables, n_tables, extra, n_extra, ret, reason);
}

uint32_t tokenizer_size(const struct tokenizer *t)
{
	return t->n_ids;
}

size_t tokenizer_max_token_bytes(const struct tokenizer *t)
{
	return t->detokenizer.max_bytes;
}

bool tokenizer_is_special(const struct tokenizer *t, uint32_t id)
{
	return id < t->n_ids && t->spellings[id].special;
}

const uint32_t *tokenizer_prefix(const struct tokenizer *t, size_t *ret_n)
{
	*ret_n = t->prefix.n;
	return t->prefix.items;
}

int64_t tokenizer_find(const struct tokenizer *t, const char *token, size_t n)
{
	uint32_t id;

	/* Added tokens first, as they may be spelled like one of the vocabulary; those looked for
	 * in normalised text are found by their own spelling. */
	for (size_t set = 0; set < 2; set++) {
		const struct added_tokens *added = set ? &t->normalized : &t->plain;

		for (size_t i = 0; i < added->n_items; i++) {
			const struct spelling *s = &t->spellings[added->items[i].id];

			if (s->n == n && memcmp(s->text, token, n) == 0)
				return added->items[i].id;
		}
	}
	id = n ? vocabulary_find(&t->vocabulary, token, n) : TOKENIZER_NONE;
	return id == TOKENIZER_NONE ? -1 : (int64_t)id;
}

/* One encoding under way. */
struct encoder {
	const struct tokenizer *t;
	struct bpe_scratch scratch;
	struct id_list ids;
	struct reason *reason;
};

static void encoder_done(struct encoder *e)
{
	bpe_scratch_done(&e->scratch);
	id_list_done(&e->ids);
}

static int encode_words(struct encoder *e, const char *text, size_t n, bool at_start)
{
	_cleanup_(words_done) struct words words = {0};
	size_t start = 0;
	int r;

	if (n == 0)
		return 0;
	r = pretokenizer_apply(&e->t->pretokenizer, text, n, at_start, &words, e->reason);
	for (size_t i = 0; r == 0 && i < words.n_words; i++) {
		r = bpe_encode(&e->t->bpe, &e->scratch, words.text.items + start,
			words.ends[i] - start, &e->ids);
		start = words.ends[i];
	}
	return r;
}

/* A run of text between the tokens of the first pass. */
static int encode_run(struct encoder *e, const char *text, size_t n, bool at_start, bool guarded)
{
	_cleanup_(text_done) struct text normal = {0};
	struct guard whole;
	size_t at = 0;
	int r;

	if (n == 0)
		return 0;
	r = normalizer_apply(&e->t->normalizer, text, n, &normal, e->reason);
	if (r < 0 || normal.n == 0)
		return r;
	whole = (struct guard){.start = 0, .end = normal.n};
	while (r == 0 && at < normal.n) {
		struct added_match match;

		if (!added_tokens_find(&e->t->normalized, normal.items, normal.n, at, &whole,
			    guarded ? 1 : 0, &match))
			break;
		r = encode_words(e, normal.items + at, match.start - at, at_start && at == 0);
		if (r == 0)
			r = id_list_append(&e->ids, match.token->id);
		at = match.end;
	}
	return r < 0 ? r : encode_words(e, normal.items + at, normal.n - at, at_start && at == 0);
}

static int encode_text(struct encoder *e, const struct tokenizer_input *in)
{
	size_t at = 0;
	int r = 0;

	while (r == 0 && at < in->n) {
		struct added_match match;

		if (!added_tokens_find(
			    &e->t->plain, in->text, in->n, at, in->guards, in->n_guards, &match))
			break;
		r = encode_run(e, in->text + at, match.start - at, at == 0,
			guards_touch(in->guards, in->n_guards, at, match.start));
		if (r == 0)
			r = id_list_append(&e->ids, match.token->id);
		at = match.end;
	}
	if (r < 0)
		return r;
	return encode_run(e, in->text + at, in->n - at, at == 0,
		guards_touch(in->guards, in->n_guards, at, in->n));
}

static int append_ids(struct id_list *ids, const struct id_list *more)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < more->n; i++)
		r = id_list_append(ids, more->items[i]);
	return r;
}

int tokenizer_encode_guarded(const struct tokenizer *t, const struct tokenizer_input *input,
	uint32_t **ret_ids, size_t *ret_n, struct reason *reason)
{
	_cleanup_(encoder_done) struct encoder e = {.t = t, .reason = reason};
	int r = 0;

	if (input->n > MAX_TEXT_BYTES)
		return reason_set(reason, -E2BIG, "the text has %zu bytes, limit %zu", input->n,
			MAX_TEXT_BYTES);
	if (!utf8_valid(input->text, input->n))
		return reason_set(reason, -EBADMSG, "the text is not UTF-8");
	/* So that an empty result has memory, too. */
	e.ids.items = malloc(8 * sizeof(*e.ids.items));
	if (!e.ids.items)
		return -ENOMEM;
	e.ids.capacity = 8;
	if (input->add_specials)
		r = append_ids(&e.ids, &t->prefix);
	if (r == 0)
		r = encode_text(&e, input);
	if (r == 0 && input->add_specials)
		r = append_ids(&e.ids, &t->suffix);
	if (r < 0)
		return r;
	*ret_n = e.ids.n;
	*ret_ids = take_ptr(e.ids.items);
	return 0;
}

int tokenizer_encode(const struct tokenizer *t, const char *text, size_t n,
	struct tokenizer_options options, uint32_t **ret_ids, size_t *ret_n, struct reason *reason)
{
	struct guard whole = {.start = 0, .end = n};
	struct tokenizer_input input = {
		.text = text,
		.n = n,
		.guards = &whole,
		.n_guards = options.parse_specials ? 0 : 1,
		.add_specials = options.add_specials,
	};

	return tokenizer_encode_guarded(t, &input, ret_ids, ret_n, reason);
}

static int reserve_text(struct text *t, size_t room)
{
	void *items = t->items;
	int r = buffer_reserve(&items, &t->capacity, t->n, room, 1);

	t->items = items;
	return r;
}

int tokenizer_decode(const struct tokenizer *t, const uint32_t *ids, size_t n, bool skip_specials,
	char **ret_text, size_t *ret_n, struct reason *reason)
{
	_cleanup_(text_done) struct text text = {0};
	size_t room = t->detokenizer.max_bytes + 16;
	struct token_stream stream = {0};
	int r;

	for (size_t i = 0; i < n; i++) {
		if (ids[i] >= t->n_ids)
			return reason_set(reason, -EBADMSG, "token %zu is %u, the tokenizer has %u",
				i, ids[i], t->n_ids);
		if (skip_specials && t->spellings[ids[i]].special)
			continue;
		r = reserve_text(&text, room);
		if (r < 0)
			return r;
		text.n += detokenizer_push(
			&t->detokenizer, &stream, ids[i], text.items + text.n, room);
	}
	r = reserve_text(&text, room);
	if (r < 0)
		return r;
	text.n += detokenizer_end(&t->detokenizer, &stream, text.items + text.n, room);
	r = text_append(&text, "", 1);
	if (r < 0)
		return r;
	*ret_n = text.n - 1;
	*ret_text = take_ptr(text.items);
	return 0;
}

size_t token_stream_push(
	const struct tokenizer *t, struct token_stream *s, uint32_t id, char *ret_text, size_t room)
{
	return detokenizer_push(&t->detokenizer, s, id, ret_text, room);
}

size_t token_stream_end(
	const struct tokenizer *t, struct token_stream *s, char *ret_text, size_t room)
{
	return detokenizer_end(&t->detokenizer, s, ret_text, room);
}
