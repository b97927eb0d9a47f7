#include "engine/chat.h"
#include "common/cursor.h"
#include "engine/added_tokens.h"
#include "engine/buffer.h"
#include "engine/utf8.h"

#include <string.h>

#define THINK_END "</think>"

struct chat_format {
	struct chat_format_head head; /* in host order */
	char *stop;                   /* zero-terminated, or NULL */
	char text[];
};

struct chat_format *chat_format_free(struct chat_format *f)
{
	if (f)
		free(f->stop);
	free(f);
	return NULL;
}

static inline void chat_format_freep(struct chat_format **f)
{
	chat_format_free(*f);
}

static int read_head(struct chat_format_head *h, struct cursor *c, struct reason *reason)
{
	const uint8_t *magic = cursor_bytes(c, sizeof(h->magic));
	const uint8_t *name = cursor_bytes(c, sizeof(h->name));

	if (!magic || !name || memcmp(magic, CHAT_FORMAT_MAGIC, sizeof(h->magic)) != 0)
		return reason_set(
			reason, -EBADMSG, "chat format: does not begin with " CHAT_FORMAT_MAGIC);
	if (!is_printable_name((const char *)name, sizeof(h->name)))
		return reason_set(
			reason, -EBADMSG, "chat format: its name has no end, or is not ASCII");
	memcpy(h->name, name, sizeof(h->name));
	h->flags = cursor_u32(c);
	h->n_text = cursor_u32(c);
	for (size_t i = 0; i < N_CHAT_PIECES; i++) {
		h->pieces[i].offset = cursor_u32(c);
		h->pieces[i].bytes = cursor_u32(c);
	}
	if (c->failed || c->left != h->n_text || h->n_text > CHAT_FORMAT_MAX_TEXT)
		return reason_set(reason, -EBADMSG,
			"chat format: %zu bytes of text where its head says %u", c->left,
			h->n_text);
	if (h->flags & ~(uint32_t)CHAT_ALL_FLAGS)
		return reason_set(reason, -EBADMSG, "chat format: unknown flags %#x", h->flags);
	return 0;
}

static int check_pieces(const struct chat_format *f, struct reason *reason)
{
	for (size_t i = 0; i < N_CHAT_PIECES; i++) {
		const struct chat_text *piece = &f->head.pieces[i];

		if (!range_inside(piece->offset, piece->bytes, f->head.n_text) ||
			!utf8_valid(f->text + piece->offset, piece->bytes))
			return reason_set(reason, -EBADMSG,
				"chat format: piece %zu has %u bytes at %u of %u, or is not UTF-8",
				i, piece->bytes, piece->offset, f->head.n_text);
	}
	return 0;
}

int chat_format_new(
	const uint8_t *section, uint64_t n, struct chat_format **ret, struct reason *reason)
{
	_cleanup_(chat_format_freep) struct chat_format *f = NULL;
	struct cursor c = cursor_over(section, (size_t)n);
	struct chat_format_head head;
	const struct chat_text *stop = &head.pieces[CHAT_STOP];
	int r = read_head(&head, &c, reason);

	if (r < 0)
		return r;
	f = calloc(1, sizeof(*f) + head.n_text + 1);
	if (!f)
		return -ENOMEM;
	f->head = head;
	memcpy(f->text, c.at, head.n_text);
	r = check_pieces(f, reason);
	if (r < 0)
		return r;
	if (stop->bytes) {
		f->stop = strndup(f->text + stop->offset, stop->bytes);
		if (!f->stop)
			return -ENOMEM;
	}
	*ret = take_ptr(f);
	return 0;
}

int chat_format_of(const struct image *base, const struct image *delta, struct chat_format **ret,
	struct reason *reason)
{
	uint64_t n = 0;
	const uint8_t *section = delta ? image_section(delta, SECTION_CHAT, &n) : NULL;

	if (!section)
		section = image_section(base, SECTION_CHAT, &n);
	if (!section)
		return reason_set(reason, -EOPNOTSUPP,
			"this model has no chat format that deltad knows; give it plain text "
			"instead");
	return chat_format_new(section, n, ret, reason);
}

const char *chat_format_name(const struct chat_format *f)
{
	return f->head.name;
}

uint32_t chat_format_flags(const struct chat_format *f)
{
	return f->head.flags;
}

const char *chat_format_piece(const struct chat_format *f, enum chat_piece piece, size_t *ret_n)
{
	*ret_n = f->head.pieces[piece].bytes;
	return f->text + f->head.pieces[piece].offset;
}

const char *chat_format_stop(const struct chat_format *f)
{
	return f->stop;
}

/* A conversation being written. */
struct writer {
	const struct chat_format *f;
	const struct chat_message *system;  /* to be folded into a user turn, or NULL */
	const struct chat_message *fold_at; /* the message that it goes into, or NULL */
	struct text *out;
	struct guard *guards; /* or NULL */
	size_t n_guards;
	uint64_t n_pieces; /* bytes of pieces until now */
};

static int write_piece(struct writer *w, enum chat_piece piece)
{
	const struct chat_text *t = &w->f->head.pieces[piece];

	w->n_pieces += t->bytes;
	if (w->n_pieces > CHAT_FORMAT_MAX_PIECES)
		return -E2BIG;
	return text_append(w->out, w->f->text + t->offset, t->bytes);
}

/* The part of an assistant's text that stays in the history. */
static void drop_thinking(const char **s, size_t *n)
{
	const char *end = *s + *n, *found;

	while ((found = memmem(*s, (size_t)(end - *s), THINK_END, strlen(THINK_END)))) {
		*s = found + strlen(THINK_END);
		while (*s < end && **s == '\n')
			(*s)++;
	}
	*n = (size_t)(end - *s);
}

static void trim(const char **s, size_t *n, bool left, bool right)
{
	while (left && *n && utf8_is_python_space(utf8_decode(*s))) {
		size_t length = utf8_length(**s);

		*s += length;
		*n -= length;
	}
	while (right && *n && utf8_is_python_space(utf8_decode(*s + utf8_previous(*s, *n))))
		*n = utf8_previous(*s, *n);
}

static bool is_folded_as_one(const struct writer *w, const struct chat_message *m)
{
	return m == w->fold_at && w->system && (w->f->head.flags & CHAT_FOLDED_AS_ONE);
}

/* The text of a message as the format wants it. */
static void message_text(
	const struct writer *w, const struct chat_message *m, const char **ret, size_t *ret_n)
{
	static const struct {
		uint32_t left, right;
	} flags[] = {
		[CHAT_ROLE_SYSTEM] = {CHAT_SYSTEM_LTRIM, CHAT_SYSTEM_RTRIM},
		[CHAT_ROLE_USER] = {CHAT_USER_LTRIM, CHAT_USER_RTRIM},
		[CHAT_ROLE_ASSISTANT] = {CHAT_ASSISTANT_LTRIM, CHAT_ASSISTANT_RTRIM},
	};
	uint32_t set = w->f->head.flags;
	bool keep_left = is_folded_as_one(w, m);

	*ret = m->text;
	*ret_n = m->n_text;
	if (m->role == CHAT_ROLE_ASSISTANT && (set & CHAT_DROP_THINKING))
		drop_thinking(ret, ret_n);
	trim(ret, ret_n, (set & flags[m->role].left) && !keep_left, set & flags[m->role].right);
}

static int write_text(struct writer *w, const struct chat_message *m)
{
	size_t n, start = w->out->n;
	const char *s;
	int r;

	message_text(w, m, &s, &n);
	r = text_append(w->out, s, n);
	if (r == 0 && w->guards && n)
		w->guards[w->n_guards++] = (struct guard){.start = start, .end = w->out->n};
	return r;
}

/* Drops white space from the end of what was written, down to `start`. */
static void trim_written(struct writer *w, size_t start)
{
	const char *s;
	size_t n = w->out->n - start;

	if (n == 0)
		return;
	s = w->out->items + start;
	trim(&s, &n, false, true);
	w->out->n = start + n;
	while (w->guards && w->n_guards && w->guards[w->n_guards - 1].start >= w->out->n)
		w->n_guards--;
	if (w->guards && w->n_guards && w->guards[w->n_guards - 1].end > w->out->n)
		w->guards[w->n_guards - 1].end = w->out->n;
}

static int write_turn(struct writer *w, const struct chat_message *m)
{
	static const enum chat_piece prefixes[] = {
		[CHAT_ROLE_SYSTEM] = CHAT_SYSTEM_PREFIX,
		[CHAT_ROLE_USER] = CHAT_USER_PREFIX,
		[CHAT_ROLE_ASSISTANT] = CHAT_ASSISTANT_PREFIX,
	};
	int r = write_piece(w, prefixes[m->role]);
	size_t start = w->out->n;

	if (r == 0 && m == w->fold_at) {
		r = write_piece(w, w->system ? CHAT_SYSTEM_PREFIX : CHAT_NO_SYSTEM);
		if (r == 0 && w->system)
			r = write_text(w, w->system);
		if (r == 0 && w->system)
			r = write_piece(w, CHAT_SYSTEM_SUFFIX);
	}
	if (r == 0)
		r = write_text(w, m);
	if (r == 0 && is_folded_as_one(w, m) && (w->f->head.flags & CHAT_USER_RTRIM))
		trim_written(w, start);
	/* The suffix of a role follows its prefix in the enumeration. */
	return r < 0 ? r : write_piece(w, prefixes[m->role] + 1);
}

static int refuse(struct reason *reason, size_t i, const char *why)
{
	return reason_set(reason, -EBADMSG, "message %zu: this model's chat format %s", i + 1, why);
}

/* Is the order of roles one that the format can express? */
static int check_order(const struct chat_format *f, const struct chat_message *messages, size_t n,
	struct reason *reason)
{
	uint32_t flags = f->head.flags;
	size_t first = n && messages[0].role == CHAT_ROLE_SYSTEM;

	if (n == 0 && !(flags & CHAT_EMPTY_ALLOWED))
		return reason_set(reason, -EBADMSG, "a conversation without messages");
	if (first && (flags & CHAT_SYSTEM_REFUSED))
		return refuse(reason, 0, "has no system messages");
	for (size_t i = first; i < n; i++) {
		enum chat_role expected = (i - first) % 2 ? CHAT_ROLE_ASSISTANT : CHAT_ROLE_USER;

		if (messages[i].role == CHAT_ROLE_SYSTEM) {
			if (!(flags & CHAT_LATE_SYSTEM))
				return refuse(
					reason, i, "has a system message only at the beginning");
		} else if ((flags & CHAT_ALTERNATE) && messages[i].role != expected) {
			return refuse(reason, i,
				"lets user and assistant take turns, beginning with the user");
		}
	}
	if (n && (flags & CHAT_END_WITH_USER) && messages[n - 1].role != CHAT_ROLE_USER)
		return refuse(reason, n - 1, "asks for an answer to a user's message only");
	return 0;
}

static int check_messages(const struct chat_message *messages, size_t n, struct reason *reason)
{
	for (size_t i = 0; i < n; i++)
		if (!utf8_valid(messages[i].text, messages[i].n_text))
			return reason_set(reason, -EBADMSG, "message %zu is not UTF-8", i + 1);
	return 0;
}

/* The message whose turn takes the system text in, NULL if there is none. */
static const struct chat_message *find_fold(
	const struct chat_format *f, const struct chat_message *messages, size_t n)
{
	const struct chat_message *found = NULL;

	if (!(f->head.flags & (CHAT_FOLD_FIRST | CHAT_FOLD_LAST)))
		return NULL;
	for (size_t i = 0; i < n; i++)
		if (messages[i].role == CHAT_ROLE_USER &&
			(!found || (f->head.flags & CHAT_FOLD_LAST)))
			found = &messages[i];
	return found;
}

static int write_messages(
	struct writer *w, const struct chat_message *messages, size_t n, struct reason *reason)
{
	uint32_t flags = w->f->head.flags;
	const struct chat_message *system =
		n && messages[0].role == CHAT_ROLE_SYSTEM ? &messages[0] : NULL;
	bool folds = flags & (CHAT_FOLD_FIRST | CHAT_FOLD_LAST);
	size_t i = system != NULL, n_system;
	const char *s;
	int r;

	w->fold_at = find_fold(w->f, messages, n);
	if (system) {
		message_text(w, system, &s, &n_system);
		if (n_system == 0 && (flags & CHAT_EMPTY_SYSTEM_DROPPED))
			system = NULL;
	}
	if (system && folds && !w->fold_at)
		return refuse(reason, 0, "puts a system message into a user's, and there is none");
	w->system = folds ? system : NULL;
	r = write_piece(w, CHAT_BEGIN);
	if (r == 0 && !folds)
		r = system ? write_turn(w, system) : write_piece(w, CHAT_NO_SYSTEM);
	for (; r == 0 && i < n; i++)
		r = write_turn(w, &messages[i]);
	return r;
}

int chat_format_text(const struct chat_format *f, const struct chat_message *messages,
	size_t n_messages, bool generation, struct text *out, struct guard *guards,
	size_t *ret_n_guards, struct reason *reason)
{
	struct writer w = {.f = f, .out = out, .guards = guards};
	int r = check_order(f, messages, n_messages, reason);

	if (r == 0)
		r = check_messages(messages, n_messages, reason);
	if (r == 0)
		r = n_messages ? write_messages(&w, messages, n_messages, reason)
			       : write_piece(&w, CHAT_EMPTY);
	if (r == 0 && generation)
		r = write_piece(&w, CHAT_GENERATION);
	if (r == -E2BIG)
		return reason_set(reason, r,
			"%zu messages need more than %u bytes of the chat format", n_messages,
			CHAT_FORMAT_MAX_PIECES);
	if (r == 0 && ret_n_guards)
		*ret_n_guards = w.n_guards;
	return r;
}

/* Puts the tokenizer's begin of text before ids that do not begin with it. */
static int prepend_begin(
	const struct tokenizer *t, uint32_t *ids, size_t n, uint32_t **ret_ids, size_t *ret_n)
{
	size_t n_prefix;
	const uint32_t *prefix = tokenizer_prefix(t, &n_prefix);
	uint32_t *both;

	if (n_prefix == 0 || (n >= n_prefix && memcmp(ids, prefix, n_prefix * sizeof(*ids)) == 0)) {
		*ret_ids = ids;
		*ret_n = n;
		return 0;
	}
	both = malloc((n_prefix + n) * sizeof(*both));
	if (!both)
		return -ENOMEM;
	memcpy(both, prefix, n_prefix * sizeof(*both));
	memcpy(both + n_prefix, ids, n * sizeof(*both));
	free(ids);
	*ret_ids = both;
	*ret_n = n_prefix + n;
	return 0;
}

int chat_render(const struct chat_format *f, const struct tokenizer *t,
	const struct chat_message *messages, size_t n_messages, uint32_t **ret_ids, size_t *ret_n,
	struct reason *reason)
{
	_cleanup_(freep) struct guard *guards = calloc(n_messages + 1, sizeof(*guards));
	_cleanup_(text_done) struct text text = {0};
	_cleanup_(freep) uint32_t *ids = NULL;
	struct tokenizer_input input = {.guards = guards};
	size_t n;
	int r;

	if (!guards)
		return -ENOMEM;
	r = chat_format_text(f, messages, n_messages, true, &text, guards, &input.n_guards, reason);
	if (r < 0)
		return r;
	input.text = text.items;
	input.n = text.n;
	r = tokenizer_encode_guarded(t, &input, &ids, &n, reason);
	if (r == 0)
		r = prepend_begin(t, ids, n, ret_ids, ret_n);
	if (r == 0)
		ids = NULL;
	return r;
}
