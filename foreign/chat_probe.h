/*
 * Conversations made up to find out what a chat template does.
 */
#pragma once

#include "foreign/chat_fit.h"

#define PROBE_MAX_MESSAGES 8

/* Texts that no template contains. */
#define PROBE_SYSTEM "Qs1Q"
#define PROBE_USER "Qu1Q"
#define PROBE_USER_2 "Qu2Q"
#define PROBE_ANSWER "Qa1Q"

struct probe {
	struct chat_message messages[PROBE_MAX_MESSAGES];
	size_t n;
};

/* Roles as letters of "sua", at most PROBE_MAX_MESSAGES; texts by role, where users after the first
 * say PROBE_USER_2. */
struct probe probe_make(
	const char *roles, const char *system, const char *user, const char *answer);

/* Runs the template as the reference would: with `tools` being none, and where a template cannot
 * bear that, without it. Appends; 0, JINJA_RAISED or an error. */
int probe_run(const struct chat_template *t, const struct probe *p, bool generation,
	struct text *out, struct reason *reason) _must_check_;
