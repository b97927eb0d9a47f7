#include "compress/calibration.h"

#include "common/random.h"
#include "compress/sequences.h"

#include <endian.h>
#include <string.h>

#define HELD_OUT_SHARE 8u /* at most one window in 8 */

struct stream {
	uint32_t *ids;
	size_t n, room;
};

static void stream_done(struct stream *s)
{
	free(s->ids);
}

struct calibration *calibration_free(struct calibration *c)
{
	if (!c)
		return NULL;
	free(c->ids);
	free(c->held_out);
	free(c);
	return NULL;
}

static int stream_append(struct stream *s, const uint32_t *ids, size_t n)
{
	if (n > s->room - s->n) {
		size_t room = 2 * s->room + n;
		uint32_t *grown = realloc(s->ids, room * sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		s->ids = grown;
		s->room = room;
	}
	memcpy(s->ids + s->n, ids, n * sizeof(*ids));
	s->n += n;
	return 0;
}

/* Bytes up to the next blank line (or the end), and in *ret_next where the text goes on. */
static size_t document_length(const char *text, size_t n, size_t *ret_next)
{
	for (size_t i = 0; i + 1 < n; i++) {
		size_t next = i;

		if (text[i] != '\n' || text[i + 1] != '\n')
			continue;
		while (next < n && text[next] == '\n')
			next++;
		*ret_next = next;
		return i;
	}
	*ret_next = n;
	return n;
}

static int stream_add_document(struct stream *s, const struct tokenizer *t, const char *text,
	size_t n, struct reason *reason)
{
	struct tokenizer_options options = {.add_specials = true, .parse_specials = true};
	_cleanup_(freep) uint32_t *ids = NULL;
	size_t n_ids;
	int r;

	if (n == 0)
		return 0;
	r = tokenizer_encode(t, text, n, options, &ids, &n_ids, reason);
	if (r < 0)
		return r;
	return stream_append(s, ids, n_ids);
}

/* Copies the windows whose numbers are marked (or not marked) in `held`. */
static void copy_windows(uint32_t *ret, const struct calibration *c, const struct stream *s,
	const uint8_t *marks, size_t n_all, uint8_t mark)
{
	size_t n = 0;

	for (size_t i = 0; i < n_all; i++)
		if (marks[i] == mark)
			memcpy(ret + n++ * c->window, s->ids + i * c->window,
				c->window * sizeof(*ret));
}

enum {
	WINDOW_LEFT,
	WINDOW_TAKEN,
	WINDOW_HELD_OUT,
};

/* Marks windows: held-out ones in the middle of equal parts, taken ones evenly among the rest. */
static void mark_windows(const struct calibration *c, uint8_t *marks, size_t n_all)
{
	size_t n_rest = n_all - c->n_held_out, rest = 0, taken = 0;

	for (size_t i = 0; i < c->n_held_out; i++)
		marks[(2 * i + 1) * n_all / (2 * c->n_held_out)] = WINDOW_HELD_OUT;
	for (size_t i = 0; i < n_all; i++) {
		if (marks[i] == WINDOW_HELD_OUT)
			continue;
		if (taken < c->n_windows && rest == taken * n_rest / c->n_windows) {
			marks[i] = WINDOW_TAKEN;
			taken++;
		}
		rest++;
	}
}

static struct digest ids_digest(const uint32_t *ids, size_t n)
{
	struct digest_state *state = digest_new();
	struct digest none = {0};

	if (!state)
		return none;
	for (size_t i = 0; i < n; i++) {
		uint32_t id = htole32(ids[i]);

		digest_add(state, &id, sizeof(id));
	}
	return digest_finish(state);
}

static int cut(const struct stream *s, const struct calibration_limits *limits,
	struct calibration **ret, struct reason *reason)
{
	_cleanup_(calibration_freep) struct calibration *c = calloc(1, sizeof(*c));
	_cleanup_(freep) uint8_t *marks = NULL;
	size_t n_all, n_held_out;

	if (!c)
		return -ENOMEM;
	c->window = (uint32_t)min_u64(limits->window, s->n / 2);
	if (c->window < 2)
		return reason_set(reason, -EBADMSG,
			"calibration text: %zu tokens, expected at least 4", s->n);
	n_all = s->n / c->window;
	n_held_out = min_u64(n_all / HELD_OUT_SHARE, CALIBRATION_HELD_OUT_TOKENS / c->window);
	c->n_held_out = (uint32_t)max_u64(1, n_held_out);
	c->n_windows = (uint32_t)min_u64(
		max_u64(1, limits->max_tokens / c->window), n_all - c->n_held_out);
	marks = calloc(n_all, 1);
	c->ids = malloc((size_t)c->n_windows * c->window * sizeof(*c->ids));
	c->held_out = malloc((size_t)c->n_held_out * c->window * sizeof(*c->held_out));
	if (!marks || !c->ids || !c->held_out)
		return -ENOMEM;
	mark_windows(c, marks, n_all);
	copy_windows(c->ids, c, s, marks, n_all, WINDOW_TAKEN);
	copy_windows(c->held_out, c, s, marks, n_all, WINDOW_HELD_OUT);
	c->digest = ids_digest(c->ids, (size_t)c->n_windows * c->window);
	*ret = take_ptr(c);
	return 0;
}

int calibration_of_text(const struct tokenizer *t, const char *text, size_t n,
	const struct calibration_limits *limits, struct calibration **ret, struct reason *reason)
{
	_cleanup_(stream_done) struct stream s = {0};
	int r;

	while (n > 0) {
		size_t next, length = document_length(text, n, &next);

		r = stream_add_document(&s, t, text, length, reason);
		if (r < 0)
			return reason_prefix(reason, r, "calibration text");
		text += next;
		n -= next;
	}
	return cut(&s, limits, ret, reason);
}

int calibration_of_ids(const uint32_t *ids, size_t n, const struct calibration_limits *limits,
	struct calibration **ret, struct reason *reason)
{
	_cleanup_(stream_done) struct stream s = {0};
	int r = stream_append(&s, ids, n);

	return r < 0 ? r : cut(&s, limits, ret, reason);
}

int calibration_of_vocabulary(
	uint32_t vocab, const struct calibration_limits *limits, struct calibration **ret)
{
	_cleanup_(stream_done) struct stream s = {0};
	size_t n =
		(size_t)limits->max_tokens + limits->max_tokens / HELD_OUT_SHARE + limits->window;

	s.ids = malloc(n * sizeof(*s.ids));
	if (!s.ids)
		return -ENOMEM;
	s.n = s.room = n;
	for (size_t i = 0; i < n; i++)
		s.ids[i] = (uint32_t)(mix64_at(0, i) % vocab);
	return cut(&s, limits, ret, NULL);
}

int calibration_check(const struct calibration *c, uint32_t vocab, struct reason *reason)
{
	int r = ids_check(c->ids, (size_t)c->n_windows * c->window, vocab, reason);

	return r < 0 ? r : ids_check(c->held_out, (size_t)c->n_held_out * c->window, vocab, reason);
}
