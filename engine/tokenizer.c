/*
 * Encoding, in the reference's order: added tokens that are looked for in the text as it is; the
 * runs between them normalised; added tokens that are looked for in normalised text; the runs
 * between those cut into words; each word merged.
 */
#include "engine/tokenizer.h"

#include "engine/tokenizer_parts.h"
#include "engine/utf8.h"

#define MAX_TEXT_BYTES ((size_t)INT32_MAX / TOKENIZER_MAX_GROWTH)

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
		r = tokenizer_bind(t, &base, extra ? &addition : NULL, reason);
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
		if (text.n > MAX_TEXT_BYTES)
			return reason_set(reason, -E2BIG, "the tokens make more than %zu bytes",
				MAX_TEXT_BYTES);
		r = text_reserve(&text, room);
		if (r < 0)
			return r;
		text.n += detokenizer_push(
			&t->detokenizer, &stream, ids[i], text.items + text.n, room);
	}
	r = text_reserve(&text, room);
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
