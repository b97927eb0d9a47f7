#include "foreign/chat_fit.h"

#include "foreign/arena.h"
#include "foreign/chat_probe.h"
#include "foreign/span.h"

#include <stdio.h>
#include <string.h>

/* White space that no template writes. */
#define PAD "\t \t"
#define N_SLOTS 3

/* What is known so far. Pieces are cut out of renderings, which live as long. */
struct fit {
	const struct chat_template *t;
	struct span pieces[N_CHAT_PIECES];
	uint32_t flags;
	const char *name;
	struct arena arena;
	struct reason *reason;
};

int chat_unfit(struct reason *reason, const char *what)
{
	return reason_set(reason, -EOPNOTSUPP,
		"the chat template does what deltad's formats cannot express: %s", what);
}

static int unfit(const struct fit *f, const char *what)
{
	return chat_unfit(f->reason, what);
}

/* The same, kept as a zero-terminated string in the arena. */
static int render(struct fit *f, const struct probe *p, bool generation, struct span *ret)
{
	_cleanup_(text_done) struct text out = {0};
	char *copy;
	int r = probe_run(f->t, p, generation, &out, f->reason);

	if (r)
		return r;
	copy = arena_take(&f->arena, out.n + 1);
	if (!copy)
		return f->arena.full ? unfit(f, "it writes too much") : -ENOMEM;
	if (out.n)
		memcpy(copy, out.items, out.n);
	*ret = (struct span){.s = copy, .n = out.n};
	return 0;
}

static int render_roles(struct fit *f, const char *roles, bool generation, struct span *ret)
{
	struct probe p = probe_make(roles, PROBE_SYSTEM, PROBE_USER, PROBE_ANSWER);

	return render(f, &p, generation, ret);
}

/* A rendering that must succeed for the template to be a chat format at all. */
static int render_needed(struct fit *f, const char *roles, bool generation, struct span *ret)
{
	int r = render_roles(f, roles, generation, ret);

	if (r == JINJA_RAISED)
		return unfit(f, "it refuses a plain conversation of user and assistant");
	return r;
}

/* The end of `whole` without the rest of a token in angle brackets that begins before it. */
static struct span without_cut_token(struct span whole, struct span end)
{
	size_t n_before = whole.n - end.n;
	const char *open = memrchr(whole.s, '<', n_before), *close;

	if (!open || memchr(open, '>', (size_t)(whole.s + n_before - open)))
		return end;
	close = memchr(whole.s + n_before, '>', end.n);
	return close ? span_between(close + 1, whole.s + whole.n) : end;
}

/* Where the assistant's suffix ends and the user's prefix begins in `back`, what comes between
 * their texts. Two users in a row show it; if they are refused, the end of a conversation may; else
 * the user's prefix is as much as also comes before the first turn, of whole tokens. */
static int fit_border(struct fit *f, struct span head, struct span back)
{
	struct span prefix = span_common_suffix(head, back), out;
	const char *u, *u2, *a;
	int r = render_roles(f, "uu", true, &out);

	if (r < 0)
		return r;
	u = r == 0 ? span_find(out, PROBE_USER) : NULL;
	u2 = r == 0 ? span_find(out, PROBE_USER_2) : NULL;
	if (u && u2 && u < u2) {
		struct span seam = span_between(u + strlen(PROBE_USER), u2);

		if (span_has_prefix(seam, f->pieces[CHAT_USER_SUFFIX]))
			seam = span_without_prefix(seam, f->pieces[CHAT_USER_SUFFIX]);
		if (span_has_suffix(prefix, seam))
			prefix = span_without_prefix(prefix, span_without_suffix(prefix, seam));
	} else {
		r = render_roles(f, "ua", false, &out);
		if (r < 0)
			return r;
		a = r == 0 ? span_find(out, PROBE_ANSWER) : NULL;
		if (a) {
			struct span bare = span_between(a + strlen(PROBE_ANSWER), out.s + out.n);

			if (span_has_prefix(back, bare) &&
				span_has_suffix(prefix, span_without_prefix(back, bare)))
				prefix = span_without_prefix(back, bare);
		} else {
			prefix = without_cut_token(back, prefix);
		}
	}
	f->pieces[CHAT_USER_PREFIX] = prefix;
	f->pieces[CHAT_ASSISTANT_SUFFIX] = span_without_suffix(back, prefix);
	return 0;
}

/* What comes after the user's text before any turn of the assistant is the longest that the suffix
 * can be. Without the generation prompt it shows bare, unless the template then writes something
 * else; two users in a row show it before the prefix. */
static int fit_user_suffix(struct fit *f, struct span head)
{
	struct span *suffix = &f->pieces[CHAT_USER_SUFFIX];
	struct span one, two, seam;
	const char *u, *u2;
	int r = render_needed(f, "u", false, &one);

	if (r < 0)
		return r;
	u = span_find(one, PROBE_USER);
	if (!u)
		return unfit(f, "it drops the user's message");
	seam = span_between(u + strlen(PROBE_USER), one.s + one.n);
	if (span_has_prefix(*suffix, seam)) {
		suffix->n = seam.n;
		return 0;
	}
	r = render_roles(f, "uu", true, &two);
	u = r == 0 ? span_find(two, PROBE_USER) : NULL;
	u2 = r == 0 ? span_find(two, PROBE_USER_2) : NULL;
	if (r < 0 || !u || !u2 || u > u2)
		return r < 0 ? r : 0;
	seam = span_between(u + strlen(PROBE_USER), u2);
	seam = span_without_suffix(seam, span_common_suffix(seam, head));
	if (span_has_prefix(*suffix, seam))
		suffix->n = seam.n;
	return 0;
}

/* user_prefix, user_suffix and the assistant's, from [u] and [u, a, u]. *ret_head is all that comes
 * before the first user's text. */
static int fit_turns(struct fit *f, struct span *ret_head)
{
	struct span two, open, tail, seam, back;
	const char *u, *a, *u2, *at;
	int r = render_needed(f, "u", true, &open);

	if (r == 0)
		r = render_needed(f, "uau", true, &two);
	if (r)
		return r;
	u = span_find(two, PROBE_USER);
	a = span_find(two, PROBE_ANSWER);
	u2 = span_find(two, PROBE_USER_2);
	at = span_find(open, PROBE_USER);
	if (!u || !a || !u2 || !at || u > a || a > u2)
		return unfit(f, "messages are dropped or come in another order");
	*ret_head = span_between(open.s, at);
	tail = span_between(at + strlen(PROBE_USER), open.s + open.n);
	seam = span_between(u + strlen(PROBE_USER), a);
	back = span_between(a + strlen(PROBE_ANSWER), u2);
	f->pieces[CHAT_USER_SUFFIX] = span_common_prefix(tail, seam);
	r = fit_user_suffix(f, *ret_head);
	if (r < 0)
		return r;
	f->pieces[CHAT_ASSISTANT_PREFIX] = span_without_prefix(seam, f->pieces[CHAT_USER_SUFFIX]);
	f->pieces[CHAT_GENERATION] = span_without_prefix(tail, f->pieces[CHAT_USER_SUFFIX]);
	return fit_border(f, *ret_head, back);
}

/* A system text inside the first or last user turn. */
static int fit_fold(struct fit *f, struct span head, struct span whole)
{
	const char *s = span_find(whole, PROBE_SYSTEM), *u = span_find(whole, PROBE_USER),
		   *a = span_find(whole, PROBE_ANSWER);
	const char *u2 = span_find(whole, PROBE_USER_2);
	struct span back, before;

	if (s < u) {
		f->flags |= CHAT_FOLD_FIRST;
		before = span_between(whole.s, s);
		if (!span_has_prefix(before, head))
			return unfit(f, "what comes before a system message");
		f->pieces[CHAT_SYSTEM_PREFIX] = span_without_prefix(before, head);
		f->pieces[CHAT_SYSTEM_SUFFIX] = span_between(s + strlen(PROBE_SYSTEM), u);
	} else if (s < a) {
		return unfit(f, "a system message after the user's");
	} else {
		f->flags |= CHAT_FOLD_LAST;
		before = span_between(a + strlen(PROBE_ANSWER), s);
		back = (struct span){.s = f->pieces[CHAT_ASSISTANT_SUFFIX].s,
			.n = f->pieces[CHAT_ASSISTANT_SUFFIX].n + f->pieces[CHAT_USER_PREFIX].n};
		if (!span_has_prefix(before, back))
			return unfit(f, "where a system message goes");
		f->pieces[CHAT_SYSTEM_PREFIX] = span_without_prefix(before, back);
		f->pieces[CHAT_SYSTEM_SUFFIX] = span_between(s + strlen(PROBE_SYSTEM), u2);
	}
	f->pieces[CHAT_BEGIN] = span_without_suffix(head, f->pieces[CHAT_USER_PREFIX]);
	f->pieces[CHAT_NO_SYSTEM] = span_of("");
	return 0;
}

/* A system turn of its own. `pre` and `mid` are what comes before and after its text. */
static int fit_system_turn(struct fit *f, struct span head, struct span pre, struct span mid)
{
	struct span late, seam, opening = span_without_suffix(head, f->pieces[CHAT_USER_PREFIX]);
	const char *a, *s;
	int r = render_roles(f, "uasu", true, &late);

	if (r < 0)
		return r;
	f->pieces[CHAT_SYSTEM_SUFFIX] = span_without_suffix(mid, f->pieces[CHAT_USER_PREFIX]);
	s = r == 0 ? span_find(late, PROBE_SYSTEM) : NULL;
	a = r == 0 ? span_find(late, PROBE_ANSWER) : NULL;
	if (s && a && a < s) {
		seam = span_between(a + strlen(PROBE_ANSWER), s);
		if (span_has_prefix(seam, f->pieces[CHAT_ASSISTANT_SUFFIX])) {
			seam = span_without_prefix(seam, f->pieces[CHAT_ASSISTANT_SUFFIX]);
			if (span_has_suffix(pre, seam) &&
				span_has_prefix(opening, span_without_suffix(pre, seam))) {
				f->flags |= CHAT_LATE_SYSTEM;
				f->pieces[CHAT_SYSTEM_PREFIX] = seam;
				f->pieces[CHAT_BEGIN] = span_without_suffix(pre, seam);
			}
		}
	}
	if (!(f->flags & CHAT_LATE_SYSTEM)) {
		f->pieces[CHAT_BEGIN] = span_common_prefix(opening, pre);
		f->pieces[CHAT_SYSTEM_PREFIX] = span_without_prefix(pre, f->pieces[CHAT_BEGIN]);
	}
	f->pieces[CHAT_NO_SYSTEM] = span_without_prefix(opening, f->pieces[CHAT_BEGIN]);
	return 0;
}

static int fit_system(struct fit *f, struct span head)
{
	struct span whole, pre, mid;
	const char *s, *u, *u2;
	int r = render_roles(f, "suau", true, &whole);

	if (r < 0)
		return r;
	if (r == JINJA_RAISED) {
		f->flags |= CHAT_SYSTEM_REFUSED;
		f->pieces[CHAT_BEGIN] = span_without_suffix(head, f->pieces[CHAT_USER_PREFIX]);
		return 0;
	}
	s = span_find(whole, PROBE_SYSTEM);
	u = span_find(whole, PROBE_USER);
	u2 = span_find(whole, PROBE_USER_2);
	if (!s || !u || !u2 || !span_find(whole, PROBE_ANSWER) || u > u2)
		return unfit(f, "it drops the system message");
	if (s > u)
		return s < u2 ? fit_fold(f, head, whole) : unfit(f, "where a system message goes");
	pre = span_between(whole.s, s);
	mid = span_between(s + strlen(PROBE_SYSTEM), u);
	if (span_has_suffix(mid, f->pieces[CHAT_USER_PREFIX]))
		return fit_system_turn(f, head, pre, mid);
	return fit_fold(f, head, whole);
}

/* Which ends of the texts lose their white space. */
static int fit_trimming(struct fit *f)
{
	static const struct {
		const char *marker;
		uint32_t left, right;
	} slots[N_SLOTS] = {
		{PROBE_SYSTEM, CHAT_SYSTEM_LTRIM, CHAT_SYSTEM_RTRIM},
		{PROBE_USER, CHAT_USER_LTRIM, CHAT_USER_RTRIM},
		{PROBE_ANSWER, CHAT_ASSISTANT_LTRIM, CHAT_ASSISTANT_RTRIM},
	};
	struct probe p =
		probe_make("suau", PAD PROBE_SYSTEM PAD, PAD PROBE_USER PAD, PAD PROBE_ANSWER PAD);
	struct probe plain = probe_make("uau", "", PAD PROBE_USER PAD, PAD PROBE_ANSWER PAD);
	bool no_system = f->flags & CHAT_SYSTEM_REFUSED;
	struct span out, with_system = {0};
	int r = render(f, &plain, true, &out);

	if (r == 0 && !no_system)
		r = render(f, &p, true, &with_system);
	if (r)
		return r == JINJA_RAISED ? unfit(f, "white space around messages") : r;
	for (size_t i = no_system ? 1 : 0; i < N_SLOTS; i++) {
		struct span in = i == 0 ? with_system : out;
		const char *at = span_find(in, slots[i].marker);
		size_t n = strlen(slots[i].marker);

		if (!at)
			return unfit(f, "white space around messages");
		if (!span_has_suffix(span_between(in.s, at), span_of(PAD)))
			f->flags |= slots[i].left;
		if (!span_has_prefix(span_between(at + n, in.s + in.n), span_of(PAD)))
			f->flags |= slots[i].right;
	}
	if ((f->flags & CHAT_FOLD_FIRST) && (f->flags & CHAT_USER_LTRIM)) {
		const char *at = span_find(with_system, PROBE_USER);

		if (at && span_has_suffix(span_between(with_system.s, at), span_of(PAD)))
			f->flags |= CHAT_FOLDED_AS_ONE;
	}
	return 0;
}

/* Does the template refuse these roles? Anything but an error of ours is an answer. */
static int refuses(struct fit *f, const char *roles, bool *ret)
{
	struct span out;
	int r = render_roles(f, roles, true, &out);

	*ret = r == JINJA_RAISED;
	return r < 0 ? r : 0;
}

static int fit_order(struct fit *f)
{
	bool two_users, answer_first, answer_last;
	struct span empty, open;
	int r = refuses(f, "uu", &two_users);

	if (r == 0)
		r = refuses(f, "au", &answer_first);
	if (r == 0)
		r = refuses(f, "ua", &answer_last);
	if (r < 0)
		return r;
	if (two_users != answer_first)
		return unfit(f, "which orders of roles it allows");
	if (two_users)
		f->flags |= CHAT_ALTERNATE;
	if (answer_last)
		f->flags |= CHAT_END_WITH_USER;
	r = render_roles(f, "", false, &empty);
	if (r == 0)
		r = render_roles(f, "", true, &open);
	if (r < 0)
		return r;
	if (r == 0 && span_has_prefix(open, empty) &&
		open.n - empty.n == f->pieces[CHAT_GENERATION].n &&
		span_has_suffix(open, f->pieces[CHAT_GENERATION])) {
		f->flags |= CHAT_EMPTY_ALLOWED;
		f->pieces[CHAT_EMPTY] = empty;
	}
	return 0;
}

static int fit_contents(struct fit *f)
{
	struct probe thought =
		probe_make("uau", "", PROBE_USER, "<think>\nx\n</think>\n\n" PROBE_ANSWER);
	struct probe silent = probe_make("su", "", PROBE_USER, "");
	struct span out, without;
	int r = render(f, &thought, true, &out);

	if (r == 0 && !span_find(out, "</think>\n\n" PROBE_ANSWER) && span_find(out, PROBE_ANSWER))
		f->flags |= CHAT_DROP_THINKING;
	if (r < 0 || (f->flags & CHAT_SYSTEM_REFUSED))
		return r < 0 ? r : 0;
	r = render(f, &silent, true, &out);
	if (r == 0)
		r = render_roles(f, "u", true, &without);
	if (r == 0 && out.n == without.n && memcmp(out.s, without.s, out.n) == 0)
		f->flags |= CHAT_EMPTY_SYSTEM_DROPPED;
	return r < 0 ? r : 0;
}

/* By what only one family of formats writes. */
static int fit_name(struct fit *f)
{
	static const struct {
		const char *mark, *second, *name;
	} families[] = {
		{"<|start_header_id|>", "<|eot_id|>", "llama-3"},
		{"<|im_start|>", "<|im_end|>", "chatml"},
		{"<<SYS>>", "[INST]", "llama-2"},
		{"[INST]", "[/INST]", "mistral"},
		{"<|user|>", "<|end|>", "phi-3"},
		{"<|user|>\n", "<|assistant|>\n", "zephyr"},
		{"USER:", "ASSISTANT:", "vicuna"},
		{"### Instruction:", "### Response:", "alpaca"},
	};
	struct span out;
	int r = render_roles(f, "suau", true, &out);

	if (r == JINJA_RAISED)
		r = render_needed(f, "uau", true, &out);
	if (r)
		return r;
	for (size_t i = 0; i < array_len(families); i++)
		if (span_find(out, families[i].mark) && span_find(out, families[i].second)) {
			f->name = families[i].name;
			return 0;
		}
	return reason_set(f->reason, -EOPNOTSUPP,
		"the chat template is none of the known formats (ChatML, Llama-2, Llama-3, "
		"Mistral, "
		"Zephyr, Phi-3, Vicuna, Alpaca)");
}

/* What ends an answer: a token in angle brackets after it, else what opens the user's next turn. */
static void fit_stop(struct fit *f)
{
	struct span after = span_strip(f->pieces[CHAT_ASSISTANT_SUFFIX]);
	const char *close = after.n && *after.s == '<' ? memchr(after.s, '>', after.n) : NULL;

	if (close)
		after.n = (size_t)(close + 1 - after.s);
	else if (after.n == 0)
		after = span_strip(f->pieces[CHAT_USER_PREFIX]);
	f->pieces[CHAT_STOP] = after;
}

static int write_section(const struct fit *f, struct text *out)
{
	char name[sizeof(((struct chat_format_head *)0)->name)] = {0};
	uint32_t n_text = 0;
	int r;

	snprintf(name, sizeof(name), "%s", f->name);
	for (size_t i = 0; i < N_CHAT_PIECES; i++)
		n_text += (uint32_t)f->pieces[i].n;
	r = text_append(out, CHAT_FORMAT_MAGIC, 8);
	if (r == 0)
		r = text_append(out, name, sizeof(name));
	if (r == 0)
		r = text_append_u32(out, f->flags);
	if (r == 0)
		r = text_append_u32(out, n_text);
	n_text = 0;
	for (size_t i = 0; r == 0 && i < N_CHAT_PIECES; i++) {
		r = text_append_u32(out, n_text);
		if (r == 0)
			r = text_append_u32(out, (uint32_t)f->pieces[i].n);
		n_text += (uint32_t)f->pieces[i].n;
	}
	for (size_t i = 0; r == 0 && i < N_CHAT_PIECES; i++)
		r = text_append(out, f->pieces[i].s, f->pieces[i].n);
	return r;
}

/* Writes the section and puts it to the test; *ret_again if that changed the flags. */
static int try_format(struct fit *f, struct text *section, bool *ret_again)
{
	struct chat_format *format;
	uint32_t flags = f->flags;
	int r = write_section(f, section);

	if (r < 0)
		return r;
	r = chat_format_new((const uint8_t *)section->items, section->n, &format, f->reason);
	if (r < 0)
		return r == -EBADMSG ? unfit(f, "its texts are too long") : r;
	r = chat_check(f->t, format, &f->flags, f->reason);
	*ret_again = f->flags != flags;
	chat_format_free(format);
	return r;
}

static int fit_all(struct fit *f)
{
	struct span head = {0};
	int r = fit_name(f);

	if (r == 0)
		r = fit_turns(f, &head);
	if (r == 0)
		r = fit_system(f, head);
	if (r == 0)
		r = fit_trimming(f);
	if (r == 0)
		r = fit_order(f);
	if (r == 0)
		r = fit_contents(f);
	if (r == 0)
		fit_stop(f);
	return r;
}

int chat_fit(const struct chat_template *t, struct text *section, struct reason *reason)
{
	_cleanup_(text_done) struct text out = {0};
	struct fit f = {.t = t, .reason = reason};
	bool again = true;
	int r;

	for (size_t i = 0; i < N_CHAT_PIECES; i++)
		f.pieces[i] = span_of("");
	r = fit_all(&f);
	/* Each round sets or clears a flag for good, so there are few. */
	while (r == 0 && again) {
		again = false;
		out.n = 0;
		r = try_format(&f, &out, &again);
	}
	arena_done(&f.arena);
	return r ? r : text_append(section, out.items, out.n);
}
