#include "engine/normalizer.h"
#include "engine/utf8.h"

/* Far more than text has; Unicode's stream-safe format allows 30. */
#define MAX_COMBINING_RUN 128
#define MAX_DECOMPOSITION 32 /* the longest one has 18 characters */

int text_replace(struct text *out, const char *text, size_t n, const char *a, size_t n_a,
	const char *b, size_t n_b)
{
	const char *end = n ? text + n : text; /* empty text may be NULL */
	int r = 0;

	while (r == 0 && text < end) {
		const char *found = memmem(text, (size_t)(end - text), a, n_a);

		r = text_append(out, text, (size_t)((found ? found : end) - text));
		if (r == 0 && found)
			r = text_append(out, b, n_b);
		text = found ? found + n_a : end;
	}
	return r;
}

static bool is_ascii(const char *text, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if ((uint8_t)text[i] >= 0x80)
			return false;
	return true;
}

/*
 * Sorting a run of marks takes the square of its length, so the run is bounded. Counted are the
 * marks of the decomposed text: some characters that are no marks themselves decompose to marks.
 */
static bool has_long_combining_run(const char *text, size_t n, utf8proc_option_t options)
{
	utf8proc_int32_t parts[MAX_DECOMPOSITION];
	size_t run = 0;

	for (size_t at = 0; at < n; at += utf8_length(text[at])) {
		int boundary = 0;
		utf8proc_ssize_t n_parts =
			utf8proc_decompose_char((utf8proc_int32_t)utf8_decode(text + at), parts,
				array_len(parts), options | UTF8PROC_DECOMPOSE, &boundary);

		for (utf8proc_ssize_t i = 0; i < n_parts && i < MAX_DECOMPOSITION; i++) {
			run = utf8proc_get_property(parts[i])->combining_class ? run + 1 : 0;
			if (run > MAX_COMBINING_RUN)
				return true;
		}
	}
	return false;
}

static int normal_form(
	struct text *out, const char *text, size_t n, int options, struct reason *reason)
{
	utf8proc_uint8_t *normal;
	utf8proc_ssize_t length;
	int r;

	if (n == 0 || is_ascii(text, n))
		return text_append(out, text, n);
	if (has_long_combining_run(text, n, options))
		return reason_set(reason, -EOPNOTSUPP,
			"the text has more than %d combining marks in a row", MAX_COMBINING_RUN);
	length =
		utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)n, &normal, options);
	if (length == UTF8PROC_ERROR_NOMEM)
		return -ENOMEM;
	if (length < 0)
		return reason_set(reason, -EBADMSG, "the text cannot be normalised: %s",
			utf8proc_errmsg(length));
	r = text_append(out, normal, (size_t)length);
	free(normal);
	return r;
}

static int apply_step(const struct normalize_step *step, const char *text, size_t n,
	struct text *out, struct reason *reason)
{
	int r = 0;

	switch (step->kind) {
	case NORMALIZE_NFC:
		return normal_form(out, text, n, UTF8PROC_COMPOSE, reason);
	case NORMALIZE_NFD:
		return normal_form(out, text, n, UTF8PROC_DECOMPOSE, reason);
	case NORMALIZE_NFKC:
		return normal_form(out, text, n, UTF8PROC_COMPOSE | UTF8PROC_COMPAT, reason);
	case NORMALIZE_NFKD:
		return normal_form(out, text, n, UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT, reason);
	case NORMALIZE_PREPEND:
		if (n)
			r = text_append(out, step->a, step->n_a);
		return r < 0 ? r : text_append(out, text, n);
	case NORMALIZE_REPLACE:
		return text_replace(out, text, n, step->a, step->n_a, step->b, step->n_b);
	}
	return -EINVAL;
}

int normalizer_apply(const struct normalizer *z, const char *text, size_t n, struct text *out,
	struct reason *reason)
{
	_cleanup_(text_done) struct text current = {0};
	int r;

	r = text_append(&current, text, n);
	for (size_t i = 0; r == 0 && i < z->n_steps; i++) {
		_cleanup_(text_done) struct text next = {0};

		r = apply_step(&z->steps[i], current.items, current.n, &next, reason);
		if (r == 0 && next.n / TOKENIZER_MAX_GROWTH > n + 256)
			r = reason_set(reason, -EOPNOTSUPP,
				"the tokenizer makes %zu bytes of text out of %zu", next.n, n);
		if (r == 0) {
			struct text swap = current;

			current = next;
			next = swap;
		}
	}
	return r < 0 ? r : text_append(out, current.items, current.n);
}
