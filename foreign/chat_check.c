/*
 * Is a format what a template does? Both write many conversations: every order of roles that makes
 * sense, and texts chosen to trip over: white space, nothing at all, and every string literal of
 * the template, as those are what it may look for.
 */
#include "foreign/chat_probe.h"

#include <stdio.h>
#include <string.h>

#define MAX_LITERALS 400
#define N_SLOTS 3

enum verdict {
	VERDICT_AGREES,
	VERDICT_DIFFERS,
	VERDICT_STRICTER, /* the format refuses what the template renders */
};

/* A format on trial. */
struct trial {
	const struct chat_template *t;
	const struct chat_format *format;
	uint32_t flags; /* of the format */
	struct reason *reason;
};

static int compare(const struct trial *t, const struct probe *p, enum verdict *ret)
{
	_cleanup_(text_done) struct text wanted = {0};
	_cleanup_(text_done) struct text found = {0};
	int r = probe_run(t->t, p, true, &wanted, t->reason), ours;

	if (r < 0)
		return r;
	ours = chat_format_text(t->format, p->messages, p->n, true, &found, NULL, NULL, NULL);
	if (ours == -ENOMEM)
		return ours;
	if (ours < 0)
		*ret = r == JINJA_RAISED ? VERDICT_AGREES : VERDICT_STRICTER;
	else if (r == JINJA_RAISED || wanted.n != found.n ||
		 (wanted.n && memcmp(wanted.items, found.items, wanted.n) != 0))
		*ret = VERDICT_DIFFERS;
	else
		*ret = VERDICT_AGREES;
	return 0;
}

/* Texts that templates treat in special ways, besides their own literals. */
static const char *const hard_texts[] = {"x", "", " ", "\n", "  x \n", "\n\n<think>y</think>\n\nz ",
	"a\nb\n\nc", "caf\xc3\xa9 \xc2\xa0", "{{ x }}{% y %}", "</think>", "<think>"};

static const char *const user_last[] = {
	"u", "su", "uau", "suau", "uu", "au", "sau", "uauau", "suauau", "uuau", "uaau", "suu"};
static const char *const late_system[] = {"usu", "ssu", "uasu", "asu", "suasu"};
static const char *const other_last[] = {"", "s", "ua", "sua", "a"};

static int check_one(const struct trial *t, const char *roles, const char *const texts[N_SLOTS],
	enum verdict *ret)
{
	struct probe p = probe_make(roles, texts[0], texts[1], texts[2]);

	return compare(t, &p, ret);
}

/* The role orders of `list` on plain texts; how many are not rendered alike. */
static int count_disagreements(
	const struct trial *t, const char *const *list, size_t n, bool strict_is_fine, size_t *ret)
{
	static const char *const texts[N_SLOTS] = {PROBE_SYSTEM, PROBE_USER, PROBE_ANSWER};

	*ret = 0;
	for (size_t i = 0; i < n; i++) {
		enum verdict verdict;
		int r = check_one(t, list[i], texts, &verdict);

		if (r < 0)
			return r;
		if (verdict == VERDICT_DIFFERS || (verdict == VERDICT_STRICTER && !strict_is_fine))
			(*ret)++;
	}
	return 0;
}

/* One special text at a time in each slot of a longer conversation, alone and inside other text. */
static int check_text(const struct trial *t, const char *text, size_t n)
{
	_cleanup_(freep) char *inside = malloc(n + 3);
	_cleanup_(freep) char *alone = malloc(n + 1);
	int r = 0;

	if (!inside || !alone)
		return -ENOMEM;
	memcpy(alone, text, n);
	alone[n] = '\0';
	snprintf(inside, n + 3, "x%sy", alone);
	for (size_t slot = 0; r == 0 && slot < 2 * N_SLOTS; slot++) {
		const char *texts[N_SLOTS] = {PROBE_SYSTEM, PROBE_USER, PROBE_ANSWER};
		bool plain = t->flags & CHAT_SYSTEM_REFUSED;
		enum verdict long_one, short_one;

		texts[slot % N_SLOTS] = slot < N_SLOTS ? alone : inside;
		r = check_one(t, plain ? "uau" : "suau", texts, &long_one);
		if (r == 0)
			r = check_one(t, plain ? "u" : "su", texts, &short_one);
		if (r == 0 && (long_one != VERDICT_AGREES || short_one != VERDICT_AGREES))
			return reason_set(t->reason, -EOPNOTSUPP,
				"the chat template treats messages with the text \"%.40s\" in a "
				"way "
				"that deltad's formats cannot express",
				alone);
	}
	return r;
}

static int check_texts(const struct trial *t)
{
	struct jinja_literal literals[MAX_LITERALS];
	size_t n = jinja_literals(t->t->jinja, literals, MAX_LITERALS);
	int r = 0;

	if (n == MAX_LITERALS)
		return chat_unfit(t->reason, "it is too long to be checked");
	for (size_t i = 0; r == 0 && i < array_len(hard_texts); i++)
		r = check_text(t, hard_texts[i], strlen(hard_texts[i]));
	for (size_t i = 0; r == 0 && i < n; i++)
		r = check_text(t, literals[i].text, strlen(literals[i].text));
	return r;
}

int chat_check(const struct chat_template *template, const struct chat_format *format,
	uint32_t *flags, struct reason *reason)
{
	const struct trial t = {.t = template, .format = format, .flags = *flags, .reason = reason};
	size_t n_user_last, n_late, n_other_last;
	int r = count_disagreements(&t, user_last, array_len(user_last), false, &n_user_last);

	if (r == 0)
		r = count_disagreements(&t, late_system, array_len(late_system), true, &n_late);
	if (r == 0)
		r = count_disagreements(&t, other_last, array_len(other_last),
			*flags & CHAT_END_WITH_USER, &n_other_last);
	if (r < 0)
		return r;
	if (n_user_last)
		return chat_unfit(reason, "how turns follow each other");
	if (n_late)
		*flags &= ~(uint32_t)CHAT_LATE_SYSTEM;
	if (n_other_last) {
		*flags &= ~(uint32_t)CHAT_EMPTY_ALLOWED;
		*flags |= CHAT_END_WITH_USER;
	}
	if (*flags != t.flags)
		return 0;
	if (n_late || n_other_last)
		return chat_unfit(reason, "system messages in the middle");
	return check_texts(&t);
}
