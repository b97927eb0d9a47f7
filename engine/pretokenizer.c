/*
 * Each step reads all words of the one before and writes its own. A pattern runs on each word by
 * itself, as look-around must not see the neighbours.
 *
 * Patterns run interpreted, not just-in-time compiled: the daemon may not have memory that is both
 * writable and executable, and the results must not depend on that.
 */
#include "engine/pretokenizer.h"
#include "engine/normalizer.h"
#include "engine/utf8.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

/* Backtracking that one match may do: room for a run of the whole text, not for its square. */
#define MATCH_LIMIT_BASE 100000u
#define MATCH_LIMIT_PER_BYTE 16u
#define MATCH_HEAP_KIB (64u << 10)

void words_done(struct words *w)
{
	text_done(&w->text);
	free(w->ends);
	*w = (struct words){0};
}

void pretokenizer_done(struct pretokenizer *p)
{
	for (size_t i = 0; i < p->n_steps; i++)
		pcre2_code_free(p->steps[i].pattern);
	p->n_steps = 0;
}

int split_pattern_new(const char *pattern, size_t n, void **ret, struct reason *reason)
{
	int error;
	PCRE2_SIZE at;
	PCRE2_UCHAR words[128];
	pcre2_code *code = pcre2_compile((PCRE2_SPTR)pattern, n,
		PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &at, NULL);

	if (!code) {
		pcre2_get_error_message(error, words, array_len(words));
		return reason_set(reason, -EBADMSG, "tokenizer: split pattern at character %zu: %s",
			at, (const char *)words);
	}
	*ret = code;
	return 0;
}

void split_pattern_free(void *pattern)
{
	pcre2_code_free(pattern);
}

static int begin_word(struct words *w)
{
	void *ends = w->ends;
	int r = buffer_reserve(&ends, &w->capacity, w->n_words, 1, sizeof(*w->ends));

	if (r < 0)
		return r;
	w->ends = ends;
	w->ends[w->n_words++] = w->text.n;
	return 0;
}

/* Appends text as a word of its own, or to the last word. Empty words do not exist. */
static int add_word(struct words *w, const char *text, size_t n, bool join)
{
	int r = 0;

	if (n == 0)
		return 0;
	if (!join || w->n_words == 0)
		r = begin_word(w);
	if (r == 0)
		r = text_append(&w->text, text, n);
	if (r == 0)
		w->ends[w->n_words - 1] = w->text.n;
	return r;
}

/* How the parts of one word, separators and the rest by turns, become words. */
struct splitter {
	enum split_behaviour behaviour;
	struct words *out;
	bool any;      /* has this word given a part already? */
	bool last_was; /* was it a separator? */
};

static int add_part(struct splitter *s, const char *text, size_t n, bool separator)
{
	bool join = false;
	int r = 0;

	if (n == 0)
		return 0;
	switch (s->behaviour) {
	case SPLIT_ISOLATED:
		break;
	case SPLIT_REMOVED:
		if (separator)
			return 0;
		break;
	case SPLIT_MERGED_WITH_PREVIOUS:
		join = separator && s->any && !s->last_was;
		break;
	case SPLIT_MERGED_WITH_NEXT:
		join = !separator && s->any && s->last_was;
		break;
	case SPLIT_CONTIGUOUS:
		join = s->any && separator == s->last_was;
		break;
	}
	r = add_word(s->out, text, n, join);
	s->any = true;
	s->last_was = separator;
	return r;
}

static int match_failed(int error, struct reason *reason)
{
	PCRE2_UCHAR words[128];

	if (error == PCRE2_ERROR_NOMEMORY)
		return -ENOMEM;
	pcre2_get_error_message(error, words, array_len(words));
	return reason_set(reason, -EOPNOTSUPP,
		"the tokenizer's split pattern gives up on this text: %s", (const char *)words);
}

/* Finds all matches in one word and hands on what is in and between them. */
static int split_word(const struct pretokenize_step *step, const char *word, size_t n,
	pcre2_match_data *match, pcre2_match_context *limits, struct words *out,
	struct reason *reason)
{
	const pcre2_code *code = step->pattern;
	const PCRE2_SIZE *range = pcre2_get_ovector_pointer(match);
	bool invert = step->option & SPLIT_INVERT;
	struct splitter s = {.behaviour = step->option & ~SPLIT_INVERT, .out = out};
	size_t done = 0, at = 0;
	int r = 0;

	while (r == 0 && at < n) {
		int found = pcre2_match(
			code, (PCRE2_SPTR)word, n, at, PCRE2_NO_UTF_CHECK, match, limits);

		if (found == PCRE2_ERROR_NOMATCH)
			break;
		if (found < 0)
			return match_failed(found, reason);
		/* An empty match, or one that \K or look-behind bent backwards, separates nothing.
		 */
		if (range[1] <= range[0] || range[0] < at) {
			at += utf8_length(word[at]);
			continue;
		}
		r = add_part(&s, word + done, range[0] - done, invert);
		if (r == 0)
			r = add_part(&s, word + range[0], range[1] - range[0], !invert);
		done = at = range[1];
	}
	return r < 0 ? r : add_part(&s, word + done, n - done, invert);
}

static size_t word_start(const struct words *w, size_t i)
{
	return i ? w->ends[i - 1] : 0;
}

static int apply_split(const struct pretokenize_step *step, const struct words *in,
	struct words *out, struct reason *reason)
{
	pcre2_match_data *match = pcre2_match_data_create_from_pattern(step->pattern, NULL);
	pcre2_match_context *limits = pcre2_match_context_create(NULL);
	uint64_t limit = MATCH_LIMIT_BASE + MATCH_LIMIT_PER_BYTE * (uint64_t)in->text.n;
	int r = match && limits ? 0 : -ENOMEM;

	if (r == 0) {
		pcre2_set_match_limit(limits, (uint32_t)min_u64(limit, UINT32_MAX));
		pcre2_set_heap_limit(limits, MATCH_HEAP_KIB);
	}
	for (size_t i = 0; r == 0 && i < in->n_words; i++)
		r = split_word(step, in->text.items + word_start(in, i),
			in->ends[i] - word_start(in, i), match, limits, out, reason);
	pcre2_match_context_free(limits);
	pcre2_match_data_free(match);
	return r;
}

static int apply_prefix_space(const struct words *in, struct words *out)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < in->n_words; i++) {
		const char *word = in->text.items + word_start(in, i);
		bool spaced = *word == ' ';

		if (!spaced)
			r = add_word(out, " ", 1, false);
		if (r == 0)
			r = add_word(out, word, in->ends[i] - word_start(in, i), !spaced);
	}
	return r;
}

static int append_byte_character(struct text *out, uint16_t c)
{
	char utf8[2] = {(char)(0xc0 | c >> 6), (char)(0x80 | (c & 0x3f))};
	char ascii = (char)c;

	return c < 0x80 ? text_append(out, &ascii, 1) : text_append(out, utf8, 2);
}

static int apply_bytes(const struct pretokenizer *p, const struct words *in, struct words *out)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < in->n_words; i++) {
		r = begin_word(out);
		for (size_t at = word_start(in, i); r == 0 && at < in->ends[i]; at++)
			r = append_byte_character(
				&out->text, p->byte_characters[(uint8_t)in->text.items[at]]);
		if (r == 0)
			out->ends[i] = out->text.n;
	}
	return r;
}

/* Cuts before every `a` of a word. */
static int cut_metaspace(
	const struct pretokenize_step *step, const char *word, size_t n, struct words *out)
{
	const char *end = word + n, *at = word;
	int r = 0;

	while (r == 0 && at < end) {
		const char *next =
			at + 1 < end ? memmem(at + 1, (size_t)(end - at - 1), step->a, step->n_a)
				     : NULL;

		if (!next)
			next = end;
		r = add_word(out, at, (size_t)(next - at), false);
		at = next;
	}
	return r;
}

static int apply_metaspace(const struct pretokenize_step *step, const struct words *in,
	bool at_start, struct words *out)
{
	enum metaspace_scheme scheme = step->option & ~METASPACE_SPLIT;
	int r = 0;

	for (size_t i = 0; r == 0 && i < in->n_words; i++) {
		_cleanup_(text_done) struct text word = {0};
		_cleanup_(text_done) struct text marked = {0};
		bool mark = scheme == METASPACE_ALWAYS ||
			    (scheme == METASPACE_FIRST && at_start && i == 0);

		r = text_replace(&word, in->text.items + word_start(in, i),
			in->ends[i] - word_start(in, i), " ", 1, step->a, step->n_a);
		if (r < 0)
			break;
		mark = mark && (word.n < step->n_a || memcmp(word.items, step->a, step->n_a) != 0);
		if (mark)
			r = text_append(&marked, step->a, step->n_a);
		if (r == 0)
			r = text_append(&marked, word.items, word.n);
		if (r == 0 && (step->option & METASPACE_SPLIT))
			r = cut_metaspace(step, marked.items, marked.n, out);
		else if (r == 0)
			r = add_word(out, marked.items, marked.n, false);
	}
	return r;
}

static int apply_step(const struct pretokenizer *p, const struct pretokenize_step *step,
	const struct words *in, bool at_start, struct words *out, struct reason *reason)
{
	switch (step->kind) {
	case PRETOKENIZE_SPLIT:
		return apply_split(step, in, out, reason);
	case PRETOKENIZE_PREFIX_SPACE:
		return apply_prefix_space(in, out);
	case PRETOKENIZE_BYTES:
		return apply_bytes(p, in, out);
	case PRETOKENIZE_METASPACE:
		return apply_metaspace(step, in, at_start, out);
	}
	return -EINVAL;
}

int pretokenizer_apply(const struct pretokenizer *p, const char *text, size_t n, bool at_start,
	struct words *ret, struct reason *reason)
{
	_cleanup_(words_done) struct words current = {0};
	int r = add_word(&current, text, n, false);

	for (size_t i = 0; r == 0 && i < p->n_steps; i++) {
		_cleanup_(words_done) struct words next = {0};

		r = apply_step(p, &p->steps[i], &current, at_start, &next, reason);
		if (r == 0 && next.text.n / TOKENIZER_MAX_GROWTH > n + 256)
			r = reason_set(reason, -EOPNOTSUPP,
				"the tokenizer makes %zu bytes of text out of %zu", next.text.n, n);
		if (r == 0) {
			struct words swap = current;

			current = next;
			next = swap;
		}
	}
	if (r < 0)
		return r;
	*ret = current;
	current = (struct words){0};
	return 0;
}
