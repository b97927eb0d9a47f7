/*
 * Bytes that make no character become U+FFFD: in byte-level vocabularies one for each longest
 * beginning of a character (Unicode's recommended practice), with byte fallback one for each byte.
 * The reference turns a run of fallback bytes into U+FFFD as a whole if anything in it is
 * malformed; a stream cannot, as it has shown the well-formed beginning already.
 */
#include "engine/detokenizer.h"
#include "engine/buffer.h"
#include "engine/byte_alphabet.h"
#include "engine/normalizer.h"
#include "engine/utf8.h"

#include <assert.h>

#define REPLACEMENT "\xef\xbf\xbd"
#define REPLACEMENT_BYTES 3
#define LAST_BYTE_CHARACTER 0x143

void detokenizer_done(struct detokenizer *d)
{
	free(d->ends);
	free(d->bytes);
	free(d->raw);
	d->ends = NULL;
	d->bytes = NULL;
	d->raw = NULL;
}

static bool is_byte_level(const struct detokenizer *d)
{
	return d->n_steps && d->steps[0].kind == DECODE_BYTES;
}

static const struct decode_step *find_step(const struct detokenizer *d, enum decode_kind kind)
{
	for (size_t i = 0; i < d->n_steps; i++)
		if (d->steps[i].kind == kind)
			return &d->steps[i];
	return NULL;
}

static int check_steps(const struct detokenizer *d, struct reason *reason)
{
	for (size_t i = 0; i < d->n_steps; i++) {
		enum decode_kind kind = d->steps[i].kind;
		bool again = i && kind == d->steps[i - 1].kind && kind != DECODE_REPLACE;
		bool back = i && kind < d->steps[i - 1].kind;

		if (again || back || (kind == DECODE_BYTES && d->n_steps > 1) ||
			(i && d->steps[i - 1].kind == DECODE_BYTES))
			return reason_set(reason, -EBADMSG,
				"tokenizer: decoder step %zu is of kind %u after kind %u", i,
				(unsigned)kind, i ? (unsigned)d->steps[i - 1].kind : 0);
		if (kind == DECODE_STRIP &&
			(d->steps[i].n_a == 0 || utf8_length(d->steps[i].a[0]) != d->steps[i].n_a ||
				d->steps[i].option > UINT8_MAX))
			return reason_set(reason, -EBADMSG,
				"tokenizer: decoder strips %u times %zu bytes, not one character",
				d->steps[i].option, d->steps[i].n_a);
	}
	return 0;
}

/* Characters of GPT-2's alphabet to bytes; a token with any other character stays as it is. */
static int decode_alphabet(const uint8_t *byte_of, const struct spelling *s, struct text *out)
{
	size_t start = out->n;
	int r = 0;

	for (size_t at = 0; r == 0 && at < s->n; at += utf8_length(s->text[at])) {
		uint32_t c = utf8_decode(s->text + at);

		if (c > LAST_BYTE_CHARACTER || (byte_of[c] == 0 && c != 0x100)) {
			out->n = start;
			return text_append(out, s->text, s->n);
		}
		r = text_append(out, &byte_of[c], 1);
	}
	return r;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return -1;
}

/* The byte of "<0xHH>", or -1. */
static int fallback_byte(const char *text, size_t n)
{
	int high, low;

	if (n != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>')
		return -1;
	high = hex_digit(text[3]);
	low = hex_digit(text[4]);
	return high < 0 || low < 0 ? -1 : high << 4 | low;
}

static int decode_spelling(struct detokenizer *d, uint32_t id, struct text *out)
{
	const struct spelling *s = &d->spellings[id];
	_cleanup_(text_done) struct text current = {0};
	int r = text_append(&current, s->text, s->n), byte;

	for (size_t i = 0; r == 0 && i < d->n_steps; i++) {
		const struct decode_step *step = &d->steps[i];
		struct text next = {0};

		if (step->kind != DECODE_REPLACE)
			continue;
		r = text_replace(
			&next, current.items, current.n, step->a, step->n_a, step->b, step->n_b);
		text_done(&current);
		current = next;
		if (r == 0 && current.n > TOKENIZER_MAX_TOKEN_BYTES)
			return -EBADMSG;
	}
	if (r < 0)
		return r;
	byte = find_step(d, DECODE_FALLBACK) ? fallback_byte(current.items, current.n) : -1;
	if (byte >= 0) {
		uint8_t value = (uint8_t)byte;

		d->raw[id / 8] |= (uint8_t)(1u << id % 8);
		return text_append(out, &value, 1);
	}
	return text_append(out, current.items, current.n);
}

static int decode_all(struct detokenizer *d, struct text *out, struct reason *reason)
{
	uint8_t byte_of[LAST_BYTE_CHARACTER + 1] = {0};
	uint16_t characters[256];
	bool has_first = find_step(d, DECODE_FIRST);
	uint64_t n_spelled = 0;

	byte_alphabet(characters);
	for (unsigned byte = 0; byte < 256; byte++)
		byte_of[characters[byte]] = (uint8_t)byte;
	for (uint32_t id = 0; id < d->n_ids; id++) {
		size_t start = out->n;
		int r = is_byte_level(d) ? decode_alphabet(byte_of, &d->spellings[id], out)
					 : decode_spelling(d, id, out);

		n_spelled += d->spellings[id].n;
		if (r == -ENOMEM)
			return r;
		if (r < 0 || out->n > UINT32_MAX ||
			out->n / TOKENIZER_MAX_GROWTH > n_spelled + 4096)
			return reason_set(reason, -EBADMSG,
				"tokenizer: token %u decodes to more than is reasonable", id);
		d->ends[id] = (uint32_t)out->n;
		d->max_bytes = max_u64(d->max_bytes, out->n - start);
		/* The first token of a text is written as it is spelled. */
		if (has_first)
			d->max_bytes = max_u64(d->max_bytes, d->spellings[id].n);
	}
	return 0;
}

int detokenizer_init(struct detokenizer *d, const struct spelling *spellings, uint32_t n_ids,
	struct reason *reason)
{
	_cleanup_(text_done) struct text bytes = {0};
	int r;

	r = check_steps(d, reason);
	if (r < 0)
		return r;
	d->spellings = spellings;
	d->n_ids = n_ids;
	d->ends = calloc((size_t)n_ids + 1, sizeof(*d->ends));
	d->raw = calloc((size_t)n_ids / 8 + 1, 1);
	if (!d->ends || !d->raw)
		return -ENOMEM;
	r = decode_all(d, &bytes, reason);
	if (r < 0)
		return r;
	if (!bytes.items) {
		/* Room for the tokens that decode to nothing, when all do. */
		r = text_append(&bytes, "", 1);
		if (r < 0)
			return r;
	}
	d->bytes = take_ptr(bytes.items);
	/* A malformed byte takes the room of a U+FFFD. */
	d->max_bytes = is_byte_level(d) ? REPLACEMENT_BYTES * d->max_bytes : d->max_bytes;
	return 0;
}

/* Where a push writes, and the leading characters it has to drop on the way. */
struct sink {
	const struct decode_step *strip; /* or NULL */
	struct token_stream *stream;
	char *at;
	size_t n, room;
};

static void sink_write(struct sink *k, const char *text, size_t n)
{
	const struct decode_step *strip = k->strip;

	while (strip && !k->stream->has_text && k->stream->n_stripped < strip->option &&
		n >= strip->n_a && memcmp(text, strip->a, strip->n_a) == 0) {
		text += strip->n_a;
		n -= strip->n_a;
		k->stream->n_stripped++;
	}
	if (n == 0)
		return;
	assert(n <= k->room - k->n);
	memcpy(k->at + k->n, text, n);
	k->n += n;
	k->stream->has_text = true;
}

static void drop_pending(struct token_stream *s, size_t n)
{
	s->n_pending = (uint8_t)(s->n_pending - n);
	memmove(s->pending, s->pending + n, s->n_pending);
}

/* Adds a byte to the unfinished character and writes what that decides. */
static void push_byte(struct sink *k, uint8_t byte, bool one_for_each)
{
	struct token_stream *s = k->stream;

	s->pending[s->n_pending++] = byte;
	while (s->n_pending) {
		size_t bad, length;
		bool unfinished;

		length = utf8_scan(s->pending, s->n_pending, &bad, &unfinished);
		if (unfinished)
			return;
		if (length) {
			sink_write(k, (const char *)s->pending, length);
			drop_pending(s, length);
			continue;
		}
		sink_write(k, REPLACEMENT, REPLACEMENT_BYTES);
		drop_pending(s, one_for_each ? 1 : bad);
	}
}

/* Nothing will finish the character that has begun. */
static void flush_pending(struct sink *k, bool one_for_each)
{
	size_t times = one_for_each ? k->stream->n_pending : k->stream->n_pending > 0;

	for (size_t i = 0; i < times; i++)
		sink_write(k, REPLACEMENT, REPLACEMENT_BYTES);
	k->stream->n_pending = 0;
}

/* The first token of a text, under a decoder that drops its marks of word beginnings. */
static void push_first(const struct detokenizer *d, struct sink *k, uint32_t id)
{
	const struct decode_step *drop = find_step(d, DECODE_FIRST);
	const char *at = d->spellings[id].text;
	const char *end = at ? at + d->spellings[id].n : at; /* no text for ids between tokens */

	while (at < end) {
		const char *mark = memmem(at, (size_t)(end - at), drop->a, drop->n_a);

		sink_write(k, at, (size_t)((mark ? mark : end) - at));
		at = mark ? mark + drop->n_a : end;
	}
}

size_t detokenizer_push(const struct detokenizer *d, struct token_stream *s, uint32_t id,
	char *ret_text, size_t room)
{
	struct sink k = {
		.strip = find_step(d, DECODE_STRIP), .stream = s, .at = ret_text, .room = room};
	bool first = !s->started;
	uint32_t start;

	if (id >= d->n_ids)
		return 0;
	start = id ? d->ends[id - 1] : 0;
	s->started = true;
	if (is_byte_level(d)) {
		for (uint32_t at = start; at < d->ends[id]; at++)
			push_byte(&k, (uint8_t)d->bytes[at], false);
	} else if (d->raw[id / 8] >> id % 8 & 1) {
		push_byte(&k, (uint8_t)d->bytes[start], true);
	} else {
		flush_pending(&k, true);
		if (first && find_step(d, DECODE_FIRST))
			push_first(d, &k, id);
		else
			sink_write(&k, d->bytes + start, d->ends[id] - start);
	}
	return k.n;
}

size_t detokenizer_end(
	const struct detokenizer *d, struct token_stream *s, char *ret_text, size_t room)
{
	struct sink k = {
		.strip = find_step(d, DECODE_STRIP), .stream = s, .at = ret_text, .room = room};

	flush_pending(&k, !is_byte_level(d));
	return k.n;
}
