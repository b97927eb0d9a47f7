/*
 * Normalizer, pre-tokenizer, decoder and post-processor of a tokenizer.json to lists of steps. Each
 * is an object with a "type"; a Sequence holds others, and is flattened.
 */
#include "engine/pretokenizer.h"
#include "foreign/tokenizer_pattern.h"
#include "foreign/tokenizer_source.h"

#include <string.h>

#define MAX_NESTING 8

/* GPT-2's own pattern, which a ByteLevel pre-tokenizer stands for. */
#define GPT2_PATTERN                                                                               \
	"'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
#define PUNCTUATION_PATTERN "[\\p{P}!-/:-@\\[-`{-~]"

typedef int (*read_step)(
	struct tokenizer_source *s, const json_t *j, const char *type, struct reason *reason);

static const char *type_of(const json_t *j)
{
	const char *type = json_string_value(json_object_get(j, "type"));

	return type ? type : "without a type";
}

/* Hands every step of a possibly nested Sequence to `read`. `list` is the name of its array. */
static int read_sequence(struct tokenizer_source *s, const json_t *j, const char *list,
	read_step read, int depth, struct reason *reason)
{
	const json_t *items = json_object_get(j, list);

	if (!j || json_is_null(j))
		return 0;
	if (!json_is_object(j))
		return reason_set(reason, -EBADMSG, "an entry of %s is not an object", list);
	if (strcmp(type_of(j), "Sequence") != 0)
		return read(s, j, type_of(j), reason);
	if (!json_is_array(items))
		return reason_set(reason, -EBADMSG, "a Sequence has no array \"%s\"", list);
	if (depth == MAX_NESTING)
		return reason_set(
			reason, -EOPNOTSUPP, "Sequences nest deeper than %d", MAX_NESTING);
	for (size_t i = 0; i < json_array_size(items); i++) {
		int r = read_sequence(s, json_array_get(items, i), list, read, depth + 1, reason);

		if (r < 0)
			return r;
	}
	return 0;
}

static int add_step(
	struct tokenizer_steps *steps, struct tokenizer_step step, struct reason *reason)
{
	if (steps->n == TOKENIZER_MAX_STEPS)
		return reason_set(
			reason, -EOPNOTSUPP, "more than %u steps in a row", TOKENIZER_MAX_STEPS);
	steps->items[steps->n++] = step;
	return 0;
}

/* A short string of a step into its text. */
static int read_string(struct tokenizer_source *s, const json_t *j, const char *type,
	const char *key, struct tokenizer_text *ret, struct reason *reason)
{
	const json_t *value = json_object_get(j, key);

	if (!json_is_string(value))
		return reason_set(reason, -EBADMSG, "%s: \"%s\" is not a string", type, key);
	if (json_string_length(value) > TOKENIZER_MAX_STEP_TEXT)
		return reason_set(reason, -EOPNOTSUPP, "%s: \"%s\" is longer than %u bytes", type,
			key, TOKENIZER_MAX_STEP_TEXT);
	return source_string(s, json_string_value(value), json_string_length(value), ret);
}

/* Replace, in normalizers and decoders: a literal pattern and what comes in its place. */
static int read_replace(struct tokenizer_source *s, const json_t *j, uint32_t kind,
	struct tokenizer_steps *steps, struct reason *reason)
{
	const json_t *pattern = json_object_get(j, "pattern");
	struct tokenizer_step step = {.kind = kind};
	int r;

	if (!json_is_string(json_object_get(pattern, "String")))
		return reason_set(
			reason, -EOPNOTSUPP, "Replace by a regular expression is not implemented");
	r = read_string(s, pattern, "Replace", "String", &step.a, reason);
	if (r == 0)
		r = read_string(s, j, "Replace", "content", &step.b, reason);
	if (r < 0)
		return r;
	if (step.a.bytes == 0)
		return reason_set(reason, -EBADMSG, "Replace: the pattern is empty");
	return add_step(steps, step, reason);
}

static int read_normalizer_step(
	struct tokenizer_source *s, const json_t *j, const char *type, struct reason *reason)
{
	static const struct {
		const char *type;
		enum normalize_kind kind;
	} forms[] = {
		{"NFC", NORMALIZE_NFC},
		{"NFD", NORMALIZE_NFD},
		{"NFKC", NORMALIZE_NFKC},
		{"NFKD", NORMALIZE_NFKD},
	};

	for (size_t i = 0; i < array_len(forms); i++)
		if (strcmp(type, forms[i].type) == 0)
			return add_step(&s->normalizers,
				(struct tokenizer_step){.kind = forms[i].kind}, reason);
	if (strcmp(type, "Prepend") == 0) {
		struct tokenizer_step step = {.kind = NORMALIZE_PREPEND};
		int r = read_string(s, j, type, "prepend", &step.a, reason);

		return r < 0 ? r : add_step(&s->normalizers, step, reason);
	}
	if (strcmp(type, "Replace") == 0)
		return read_replace(s, j, NORMALIZE_REPLACE, &s->normalizers, reason);
	return reason_set(reason, -EOPNOTSUPP, "normalizer %s is not implemented", type);
}

int source_read_normalizer(struct tokenizer_source *s, const json_t *j, struct reason *reason)
{
	return read_sequence(s, j, "normalizers", read_normalizer_step, 0, reason);
}

static int add_split(struct tokenizer_source *s, const char *pattern, size_t n, uint32_t option,
	struct reason *reason)
{
	struct tokenizer_step step = {.kind = PRETOKENIZE_SPLIT, .option = option};
	void *compiled;
	int r;

	if (n == 0 || n > TOKENIZER_MAX_TOKEN_BYTES)
		return reason_set(reason, -EOPNOTSUPP, "split pattern of %zu bytes", n);
	r = split_pattern_new(pattern, n, &compiled, reason);
	if (r == -EBADMSG)
		return -EOPNOTSUPP;
	if (r < 0)
		return r;
	split_pattern_free(compiled);
	r = source_string(s, pattern, n, &step.a);
	return r < 0 ? r : add_step(&s->pretokenizers, step, reason);
}

static int add_translated_split(
	struct tokenizer_source *s, const json_t *regex, uint32_t option, struct reason *reason)
{
	_cleanup_(text_done) struct text pattern = {0};
	int r = pattern_translate(
		json_string_value(regex), json_string_length(regex), &pattern, reason);

	return r < 0 ? r : add_split(s, pattern.items, pattern.n, option, reason);
}

static int read_behaviour(const json_t *j, const char *type, uint32_t *ret, struct reason *reason)
{
	static const char *const names[] = {
		[SPLIT_ISOLATED] = "Isolated",
		[SPLIT_REMOVED] = "Removed",
		[SPLIT_MERGED_WITH_PREVIOUS] = "MergedWithPrevious",
		[SPLIT_MERGED_WITH_NEXT] = "MergedWithNext",
		[SPLIT_CONTIGUOUS] = "Contiguous",
	};
	const char *name = json_string_value(json_object_get(j, "behavior"));

	for (uint32_t i = 0; name && i < array_len(names); i++)
		if (strcmp(name, names[i]) == 0) {
			*ret = i;
			return 0;
		}
	return reason_set(reason, -EOPNOTSUPP, "%s: behavior %s is not implemented", type,
		name ? name : "(none)");
}

static int read_split(struct tokenizer_source *s, const json_t *j, struct reason *reason)
{
	_cleanup_(text_done) struct text pattern = {0};
	const json_t *spec = json_object_get(j, "pattern");
	const json_t *literal = json_object_get(spec, "String");
	const json_t *regex = json_object_get(spec, "Regex");
	uint32_t option;
	int r = read_behaviour(j, "Split", &option, reason);

	if (r < 0)
		return r;
	if (json_is_true(json_object_get(j, "invert")))
		option |= SPLIT_INVERT;
	if (json_is_string(regex))
		return add_translated_split(s, regex, option, reason);
	if (!json_is_string(literal))
		return reason_set(
			reason, -EBADMSG, "Split: \"pattern\" is neither String nor Regex");
	r = pattern_quote(json_string_value(literal), json_string_length(literal), &pattern);
	return r < 0 ? r : add_split(s, pattern.items, pattern.n, option, reason);
}

static int read_byte_level(struct tokenizer_source *s, const json_t *j, struct reason *reason)
{
	const json_t *use_regex = json_object_get(j, "use_regex");
	int r = 0;

	if (json_is_true(json_object_get(j, "add_prefix_space")))
		r = add_step(&s->pretokenizers,
			(struct tokenizer_step){.kind = PRETOKENIZE_PREFIX_SPACE}, reason);
	/* Files from before the field existed mean true. */
	if (r == 0 && !json_is_false(use_regex)) {
		_cleanup_(text_done) struct text pattern = {0};

		r = pattern_translate(GPT2_PATTERN, strlen(GPT2_PATTERN), &pattern, reason);
		if (r == 0)
			r = add_split(s, pattern.items, pattern.n, SPLIT_ISOLATED, reason);
	}
	return r < 0 ? r
		     : add_step(&s->pretokenizers,
			       (struct tokenizer_step){.kind = PRETOKENIZE_BYTES}, reason);
}

/* "prepend_scheme", or what older files say by "add_prefix_space". */
static int read_scheme(const json_t *j, uint32_t *ret, struct reason *reason)
{
	const json_t *scheme = json_object_get(j, "prepend_scheme");
	const char *name = json_string_value(scheme);

	if (!scheme)
		*ret = json_is_false(json_object_get(j, "add_prefix_space")) ? METASPACE_NEVER
									     : METASPACE_ALWAYS;
	else if (name && strcmp(name, "always") == 0)
		*ret = METASPACE_ALWAYS;
	else if (name && strcmp(name, "first") == 0)
		*ret = METASPACE_FIRST;
	else if (name && strcmp(name, "never") == 0)
		*ret = METASPACE_NEVER;
	else
		return reason_set(reason, -EOPNOTSUPP,
			"Metaspace: prepend_scheme %s is not implemented",
			name ? name : "(no string)");
	return 0;
}

static int read_metaspace(struct tokenizer_source *s, const json_t *j, struct reason *reason)
{
	struct tokenizer_step step = {.kind = PRETOKENIZE_METASPACE};
	int r = read_scheme(j, &step.option, reason);

	if (r == 0)
		r = read_string(s, j, "Metaspace", "replacement", &step.a, reason);
	if (r < 0)
		return r;
	if (step.a.bytes == 0)
		return reason_set(reason, -EBADMSG, "Metaspace: \"replacement\" is empty");
	if (!json_is_false(json_object_get(j, "split")))
		step.option |= METASPACE_SPLIT;
	return add_step(&s->pretokenizers, step, reason);
}

static int read_pretokenizer_step(
	struct tokenizer_source *s, const json_t *j, const char *type, struct reason *reason)
{
	uint32_t behaviour;
	int r;

	if (strcmp(type, "ByteLevel") == 0)
		return read_byte_level(s, j, reason);
	if (strcmp(type, "Split") == 0)
		return read_split(s, j, reason);
	if (strcmp(type, "Metaspace") == 0)
		return read_metaspace(s, j, reason);
	if (strcmp(type, "Digits") == 0) {
		bool each = json_is_true(json_object_get(j, "individual_digits"));

		return each ? add_split(s, "\\p{N}", 5, SPLIT_ISOLATED, reason)
			    : add_split(s, "\\p{N}", 5, SPLIT_CONTIGUOUS, reason);
	}
	if (strcmp(type, "WhitespaceSplit") == 0)
		return add_split(s, "\\p{White_Space}", 15, SPLIT_REMOVED, reason);
	if (strcmp(type, "Punctuation") == 0) {
		r = read_behaviour(j, type, &behaviour, reason);
		return r < 0 ? r
			     : add_split(s, PUNCTUATION_PATTERN, strlen(PUNCTUATION_PATTERN),
				       behaviour, reason);
	}
	return reason_set(reason, -EOPNOTSUPP, "pre_tokenizer %s is not implemented", type);
}

int source_read_pretokenizer(struct tokenizer_source *s, const json_t *j, struct reason *reason)
{
	return read_sequence(s, j, "pretokenizers", read_pretokenizer_step, 0, reason);
}

static int read_decoder_strip(struct tokenizer_source *s, const json_t *j, struct reason *reason)
{
	struct tokenizer_step step = {.kind = DECODE_STRIP};
	json_int_t start = json_integer_value(json_object_get(j, "start"));
	json_int_t stop = json_integer_value(json_object_get(j, "stop"));
	int r = read_string(s, j, "Strip", "content", &step.a, reason);

	if (r < 0)
		return r;
	if (stop != 0 || start < 0 || start > UINT8_MAX)
		return reason_set(reason, -EOPNOTSUPP,
			"decoder Strip with start %lld and stop %lld is not implemented",
			(long long)start, (long long)stop);
	step.option = (uint32_t)start;
	return add_step(&s->decoders, step, reason);
}

static int read_decoder_metaspace(
	struct tokenizer_source *s, const json_t *j, struct reason *reason)
{
	struct tokenizer_step step = {.kind = DECODE_REPLACE};
	uint32_t scheme;
	int r = read_scheme(j, &scheme, reason);

	if (r == 0)
		r = read_string(s, j, "Metaspace", "replacement", &step.a, reason);
	if (r == 0)
		r = source_string(s, " ", 1, &step.b);
	if (r == 0)
		r = add_step(&s->decoders, step, reason);
	if (r == 0 && scheme != METASPACE_NEVER)
		r = add_step(&s->decoders,
			(struct tokenizer_step){.kind = DECODE_FIRST, .a = step.a}, reason);
	return r;
}

static int read_decoder_step(
	struct tokenizer_source *s, const json_t *j, const char *type, struct reason *reason)
{
	if (strcmp(type, "ByteLevel") == 0)
		return add_step(
			&s->decoders, (struct tokenizer_step){.kind = DECODE_BYTES}, reason);
	if (strcmp(type, "Replace") == 0)
		return read_replace(s, j, DECODE_REPLACE, &s->decoders, reason);
	if (strcmp(type, "ByteFallback") == 0)
		return add_step(
			&s->decoders, (struct tokenizer_step){.kind = DECODE_FALLBACK}, reason);
	if (strcmp(type, "Metaspace") == 0)
		return read_decoder_metaspace(s, j, reason);
	if (strcmp(type, "Strip") == 0)
		return read_decoder_strip(s, j, reason);
	if (strcmp(type, "Fuse") == 0)
		return 0;
	return reason_set(reason, -EOPNOTSUPP, "decoder %s is not implemented", type);
}

/* Fuse leaves no step, but only what comes after it may look at the text as a whole. */
static int check_fuse(const json_t *j, struct reason *reason)
{
	const json_t *items = json_object_get(j, "decoders");
	bool fused = false;

	if (strcmp(type_of(j), "Strip") == 0)
		return reason_set(reason, -EOPNOTSUPP, "decoder Strip alone is not implemented");
	for (size_t i = 0; i < json_array_size(items); i++) {
		const char *type = type_of(json_array_get(items, i));
		bool whole = strcmp(type, "Strip") == 0;

		if (strcmp(type, "Fuse") == 0)
			fused = true;
		else if (whole != fused)
			return reason_set(reason, -EOPNOTSUPP,
				"decoder %s %s Fuse is not implemented", type,
				fused ? "after" : "before");
	}
	return 0;
}

int source_read_decoder(struct tokenizer_source *s, const json_t *j, struct reason *reason)
{
	int r;

	if (!j || json_is_null(j))
		return reason_set(
			reason, -EOPNOTSUPP, "a tokenizer without decoder is not implemented");
	r = check_fuse(j, reason);
	if (r == 0)
		r = read_sequence(s, j, "decoders", read_decoder_step, 0, reason);
	if (r < 0)
		return r;
	for (uint32_t i = 1; i < s->decoders.n; i++) {
		enum decode_kind kind = s->decoders.items[i].kind;
		enum decode_kind before = s->decoders.items[i - 1].kind;

		if (kind < before || before == DECODE_BYTES ||
			(kind == before && kind != DECODE_REPLACE))
			return reason_set(reason, -EOPNOTSUPP,
				"this sequence of decoders is not implemented");
	}
	return 0;
}

static int append_special(struct tokenizer_source *s, const json_t *special, const char *name,
	bool before, struct reason *reason)
{
	const json_t *ids = json_object_get(json_object_get(special, name), "ids");
	int r = 0;

	if (!json_array_size(ids))
		return reason_set(
			reason, -EBADMSG, "TemplateProcessing: no ids for token %s", name);
	for (size_t i = 0; r == 0 && i < json_array_size(ids); i++) {
		const json_t *id = json_array_get(ids, i);
		json_int_t value = json_integer_value(id);

		if (!json_is_integer(id) || value < 0 || value >= TOKENIZER_MAX_IDS)
			return reason_set(reason, -EBADMSG,
				"TemplateProcessing: token %s has a bad id", name);
		r = id_list_append(before ? &s->prefix : &s->suffix, (uint32_t)value);
	}
	return r;
}

static int read_template(struct tokenizer_source *s, const json_t *j, struct reason *reason)
{
	const json_t *single = json_object_get(j, "single");
	const json_t *special = json_object_get(j, "special_tokens");
	size_t n_texts = 0;

	for (size_t i = 0; i < json_array_size(single); i++) {
		const json_t *item = json_array_get(single, i);
		const char *token = json_string_value(
			json_object_get(json_object_get(item, "SpecialToken"), "id"));
		int r = 0;

		if (json_object_get(item, "Sequence"))
			n_texts++;
		else if (token)
			r = append_special(s, special, token, n_texts == 0, reason);
		else
			return reason_set(reason, -EBADMSG,
				"TemplateProcessing: item %zu is neither token nor text", i);
		if (r < 0)
			return r;
	}
	if (n_texts != 1)
		return reason_set(reason, -EBADMSG,
			"TemplateProcessing: the text comes %zu times, not once", n_texts);
	return 0;
}

static int read_postprocessor_step(
	struct tokenizer_source *s, const json_t *j, const char *type, struct reason *reason)
{
	if (strcmp(type, "ByteLevel") == 0)
		return 0; /* it corrects offsets, which we do not have */
	if (strcmp(type, "TemplateProcessing") == 0) {
		if (s->prefix.n || s->suffix.n)
			return reason_set(reason, -EOPNOTSUPP,
				"two TemplateProcessing in a row are not implemented");
		return read_template(s, j, reason);
	}
	return reason_set(reason, -EOPNOTSUPP, "post_processor %s is not implemented", type);
}

int source_read_postprocessor(struct tokenizer_source *s, const json_t *j, struct reason *reason)
{
	return read_sequence(s, j, "processors", read_postprocessor_step, 0, reason);
}
