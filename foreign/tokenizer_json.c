/*
 * A tokenizer.json that has been read, written as the section that engine/tokenizer_tables.h lays
 * out.
 */
#include "foreign/tokenizer_json.h"
#include "engine/tokenizer.h"
#include "foreign/tokenizer_source.h"

#include <string.h>

/* All records are made of 32-bit numbers. */
static int put_records(struct text *out, const void *records, size_t bytes)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < bytes; i += sizeof(uint32_t)) {
		uint32_t value;

		memcpy(&value, (const uint8_t *)records + i, sizeof(value));
		r = text_append_u32(out, value);
	}
	return r;
}

static int put_head(
	struct text *out, const struct tokenizer_source *s, const char *magic, uint32_t n_text)
{
	struct tokenizer_tables head = {
		.flags = s->flags,
		.unk = s->unk,
		.n_tokens = s->n_tokens,
		.n_merges = s->n_merges,
		.n_added = s->n_added,
		.n_normalizers = s->normalizers.n,
		.n_pretokenizers = s->pretokenizers.n,
		.n_decoders = s->decoders.n,
		.n_prefix = (uint32_t)s->prefix.n,
		.n_suffix = (uint32_t)s->suffix.n,
		.n_text = n_text,
	};
	int r = text_append(out, magic, sizeof(head.magic));

	return r < 0 ? r
		     : put_records(out, &head.flags,
			       sizeof(head) - offsetof(struct tokenizer_tables, flags));
}

static int put_added(struct text *out, const struct tokenizer_source *s, uint32_t base)
{
	int r = 0;

	for (uint32_t i = 0; r == 0 && i < s->n_added; i++) {
		struct tokenizer_added added = s->added[i];

		added.text.offset += base;
		r = put_records(out, &added, sizeof(added));
	}
	return r;
}

static int put_steps(struct text *out, const struct tokenizer_steps *steps, uint32_t base)
{
	int r = 0;

	for (uint32_t i = 0; r == 0 && i < steps->n; i++) {
		struct tokenizer_step step = steps->items[i];

		step.a.offset += base;
		step.b.offset += base;
		r = put_records(out, &step, sizeof(step));
	}
	return r;
}

static int put_tokens(struct text *out, const struct tokenizer_source *s)
{
	int r = 0;

	for (uint32_t i = 0; r == 0 && i < s->n_tokens; i++)
		if (s->tokens[i])
			r = text_append(out, s->tokens[i], strlen(s->tokens[i]));
	return r;
}

static int put_ends(struct text *out, const struct tokenizer_source *s)
{
	uint32_t end = 0;
	int r = 0;

	for (uint32_t i = 0; r == 0 && i < s->n_tokens; i++) {
		end += s->tokens[i] ? (uint32_t)strlen(s->tokens[i]) : 0;
		r = text_append_u32(out, end);
	}
	return r;
}

static int write_section(const struct tokenizer_source *s, const char *magic, struct text *out,
	struct reason *reason)
{
	uint64_t n_tokens_text = 0, n_text;
	uint32_t base;
	int r;

	for (uint32_t i = 0; i < s->n_tokens; i++)
		n_tokens_text += s->tokens[i] ? strlen(s->tokens[i]) : 0;
	n_text = n_tokens_text + s->strings.n;
	if (n_text > INT32_MAX)
		return reason_set(
			reason, -EOPNOTSUPP, "%llu bytes of tokens", (unsigned long long)n_text);
	base = (uint32_t)n_tokens_text;
	r = put_head(out, s, magic, (uint32_t)n_text);
	if (r == 0)
		r = put_ends(out, s);
	if (r == 0)
		r = put_records(out, s->merges, s->n_merges * sizeof(*s->merges));
	if (r == 0)
		r = put_added(out, s, base);
	if (r == 0)
		r = put_steps(out, &s->normalizers, base);
	if (r == 0)
		r = put_steps(out, &s->pretokenizers, base);
	if (r == 0)
		r = put_steps(out, &s->decoders, base);
	if (r == 0)
		r = put_records(out, s->prefix.items, s->prefix.n * sizeof(uint32_t));
	if (r == 0)
		r = put_records(out, s->suffix.items, s->suffix.n * sizeof(uint32_t));
	if (r == 0)
		r = put_tokens(out, s);
	return r < 0 ? r : text_append(out, s->strings.items, s->strings.n);
}

/* The engine's own checks on what was written, so that a bad file is refused here. */
static int check_section(
	const struct text *section, const struct text *extra, struct reason *reason)
{
	struct tokenizer *t;
	int r = tokenizer_new((const uint8_t *)section->items, section->n,
		extra ? (const uint8_t *)extra->items : NULL, extra ? extra->n : 0, &t, reason);

	if (r < 0)
		return r;
	tokenizer_free(t);
	return 0;
}

int tokenizer_compile(const char *folder, uint8_t **ret, size_t *ret_n, struct reason *reason)
{
	_cleanup_(source_done) struct tokenizer_source s = {0};
	_cleanup_(text_done) struct text section = {0};
	int r = source_open(&s, folder, reason);

	if (r == 0)
		r = write_section(&s, TOKENIZER_MAGIC, &section, reason);
	if (r == 0)
		r = check_section(&section, NULL, reason);
	if (r < 0)
		return r;
	*ret_n = section.n;
	*ret = (uint8_t *)take_ptr(section.items);
	return 0;
}

static bool same_ids(const struct id_list *a, const struct id_list *b)
{
	return a->n == b->n &&
	       (a->n == 0 || memcmp(a->items, b->items, a->n * sizeof(*a->items)) == 0);
}

/* Names the first part, other than added tokens, in which two tokenizers differ; NULL if none. */
static const char *first_difference(
	const struct tokenizer_source *a, const struct tokenizer_source *b)
{
	static const char *const parts[] = {
		"normalizer", "pre_tokenizer", "decoder", "post_processor"};

	if (a->n_tokens != b->n_tokens)
		return "vocabulary";
	for (uint32_t i = 0; i < a->n_tokens; i++)
		if ((a->tokens[i] == NULL) != (b->tokens[i] == NULL) ||
			(a->tokens[i] && strcmp(a->tokens[i], b->tokens[i]) != 0))
			return "vocabulary";
	if (a->n_merges != b->n_merges ||
		memcmp(a->merges, b->merges, a->n_merges * sizeof(*a->merges)) != 0)
		return "list of merges";
	if (a->flags != b->flags || a->unk != b->unk)
		return "model's options";
	if (!same_ids(&a->prefix, &b->prefix) || !same_ids(&a->suffix, &b->suffix))
		return "post_processor";
	for (size_t i = 0; i < array_len(parts); i++) {
		json_t *left = json_object_get(a->json, parts[i]);
		json_t *right = json_object_get(b->json, parts[i]);
		bool none = (!left || json_is_null(left)) && (!right || json_is_null(right));

		if (!none && !json_equal(left, right))
			return parts[i];
	}
	return NULL;
}

static bool same_added(const struct tokenizer_source *a, const struct tokenizer_added *x,
	const struct tokenizer_source *b, const struct tokenizer_added *y)
{
	return x->flags == y->flags && x->text.bytes == y->text.bytes &&
	       memcmp(a->strings.items + x->text.offset, b->strings.items + y->text.offset,
		       x->text.bytes) == 0;
}

/* Makes `extra` of the added tokens of `tuned` that `base` has not, or has otherwise. A token that
 * the fine-tune dropped is refused: the delta has no way to say so. */
static int subtract_added(const struct tokenizer_source *base, const struct tokenizer_source *tuned,
	struct tokenizer_source *extra, struct reason *reason)
{
	uint32_t at = 0;
	int r = 0;

	extra->added = calloc(tuned->n_added + 1, sizeof(*extra->added));
	if (!extra->added)
		return -ENOMEM;
	for (uint32_t i = 0; r == 0 && i < tuned->n_added; i++) {
		const struct tokenizer_added *here = &tuned->added[i], *there = &base->added[at];
		struct tokenizer_added *new = &extra->added[extra->n_added];

		if (at < base->n_added && there->id < here->id)
			break;
		if (at < base->n_added && there->id == here->id) {
			at++;
			if (same_added(base, there, tuned, here))
				continue;
		}
		*new = *here;
		r = source_string(extra, tuned->strings.items + here->text.offset, here->text.bytes,
			&new->text);
		extra->n_added++;
	}
	if (r == 0 && at < base->n_added)
		return reason_set(reason, -EOPNOTSUPP,
			"the fine-tune's tokenizer lacks added token %u of the base's",
			base->added[at].id);
	return r;
}

int tokenizer_compile_extra(const char *base_folder, const char *tuned_folder, uint8_t **ret,
	size_t *ret_n, struct reason *reason)
{
	_cleanup_(source_done) struct tokenizer_source base = {0};
	_cleanup_(source_done) struct tokenizer_source tuned = {0};
	_cleanup_(source_done) struct tokenizer_source extra = {0};
	_cleanup_(text_done) struct text section = {0};
	_cleanup_(text_done) struct text whole = {0};
	const char *difference;
	int r = source_open(&base, base_folder, reason);

	if (r == 0)
		r = source_open(&tuned, tuned_folder, reason);
	if (r == -ENOENT && base.json) {
		*ret_n = 0;
		*ret = NULL;
		return 0;
	}
	if (r < 0)
		return r;
	difference = first_difference(&base, &tuned);
	if (difference)
		return reason_set(reason, -EOPNOTSUPP,
			"%s/tokenizer.json: its %s is not the base's; only added tokens may differ",
			tuned_folder, difference);
	r = subtract_added(&base, &tuned, &extra, reason);
	if (r == 0 && extra.n_added) {
		r = write_section(&base, TOKENIZER_MAGIC, &whole, reason);
		if (r == 0)
			r = write_section(&extra, TOKENIZER_EXTRA_MAGIC, &section, reason);
		if (r == 0)
			r = check_section(&whole, &section, reason);
	}
	if (r < 0)
		return r;
	*ret_n = section.n;
	*ret = (uint8_t *)take_ptr(section.items);
	return 0;
}
