/*
 * What method "auto" learns a fine-tune's sensitivities from, best first:
 *
 *   tasks     prompts of the user's, with the reference answers and, where these are few, an
 *             answer that the fine-tune draws for each
 *   own words conversations that a fine-tune with a chat format makes up; a model that was never
 *             taught to write prompts makes up poor ones, so generic text is mixed in
 *   generic   the calibration text
 *   none      random tokens
 *
 * A fifth is kept back to judge by, or less of much text; all answers to a prompt go together.
 */
#pragma once

#include "compress/method.h"
#include "compress/sequences.h"

#define AUTO_TEXT_SENSED_TOKENS 65536u /* give steady Fisher factors */

enum auto_text_kind {
	AUTO_TEXT_NONE,
	AUTO_TEXT_GENERIC,
	AUTO_TEXT_OWN_WORDS,
	AUTO_TEXT_TASKS,
};

struct auto_text {
	enum auto_text_kind kind;
	struct sequences learn, kept_back; /* neither is empty, but for auto_text_read() */
	struct sequences general;          /* beside tasks: the calibration text; else empty */
};

int auto_text_make(const struct method_model *model, struct auto_text *ret, struct reason *reason)
	_must_check_;
/* The same without running the fine-tune, which needs no memory to speak of: references of tasks,
 * or the calibration text. */
int auto_text_read(const struct method_model *model, struct auto_text *ret, struct reason *reason)
	_must_check_;
/* The references that auto_text_make() keeps back of tasks, appended. */
int auto_text_kept_back(const struct method_model *model, struct sequences *ret,
	struct reason *reason) _must_check_;
/* Of `learn`, evenly spread, as much as the Fisher factors want; appended. */
int auto_text_sample(const struct auto_text *t, struct sequences *ret) _must_check_;
/* About n_tokens to read, half of them general text where there is some (compress/auto_sense.c says
 * why); appended. */
int auto_text_mix(const struct auto_text *t, size_t n_tokens, struct sequences *ret) _must_check_;
void auto_text_done(struct auto_text *t);

/* Of all that is learnt from. `general` may be empty. */
struct method_tokens auto_text_told(const struct sequences *learn, const struct sequences *general);

const char *auto_text_name(enum auto_text_kind kind);
