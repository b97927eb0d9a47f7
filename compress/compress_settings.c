#include "compress/compress.h"

struct embedding_choice compress_embedding(const struct compress_settings *s)
{
	struct embedding_choice choice = s->embedding;

	if (choice.kind != EMBEDDING_UNSAID)
		return choice;
	choice.kind =
		s->options.file_ratio > 0 || s->options.keep > 0 ? EMBEDDING_AUTO : EMBEDDING_EXACT;
	return choice;
}

/* Options that not every method takes; `names` for the reason. */
struct special_options {
	enum method_takes takes;
	bool said;
	const char *names;
};

static int check_special_options(
	const struct compress_settings *s, const struct method *method, struct reason *reason)
{
	const struct method_options *o = &s->options;
	const struct special_options special[] = {
		{METHOD_TAKES_DELTADQ, deltadq_options_said(&o->deltadq),
			"alpha, code bits, parts, groups, seeds and a claimed ratio"},
		{METHOD_TAKES_GOALS,
			o->max_kl != 0 || o->file_ratio != 0 || o->keep != 0 ||
				o->train_steps_given || o->text != METHOD_TEXT_BEST,
			"max-kl, keep, file-ratio, text and training steps"},
	};

	for (size_t i = 0; i < array_len(special); i++)
		if (special[i].said && !(method->takes & special[i].takes))
			return reason_set(reason, -EINVAL, "%s are for --method %s",
				special[i].names, method_taking(special[i].takes)->name);
	return 0;
}

int compress_settings_check(const struct compress_settings *s, struct reason *reason)
{
	const struct method *method = method_find(s->method);
	int r;

	if (!method)
		return reason_set(reason, -EINVAL,
			"method '%s' is unknown, --method list shows them", s->method);
	r = check_special_options(s, method, reason);
	if (r < 0)
		return r;
	if (s->against == AGAINST_SERVED && method->takes & METHOD_TAKES_ADAPTERS)
		return reason_set(reason, -EINVAL,
			"an adapter fits the base's own numbers, whatever they are served as");
	if (s->options.keep != 0 && compress_embedding(s).kind != EMBEDDING_AUTO)
		return reason_set(reason, -EINVAL,
			"keep chooses how embedding and head are stored, which is said too");
	r = method->check(&s->options, reason);
	if (r < 0)
		return reason_prefix(reason, r, "method %s", s->method);
	if (s->window < 2 || s->window > 65536)
		return reason_set(
			reason, -EINVAL, "window is %u tokens, expected 2 to 65536", s->window);
	if (s->calibration_tokens < s->window || s->calibration_tokens > (1u << 26))
		return reason_set(reason, -EINVAL, "calibration tokens are %u, expected %u to %u",
			s->calibration_tokens, s->window, 1u << 26);
	return 0;
}

/* What 4 bits lose is worth repairing whatever the method; an adapter cannot. */
static bool does_best_against_served(const struct compress_settings *s)
{
	const struct method *method = method_find(s->method);

	if (method->takes & METHOD_TAKES_ADAPTERS)
		return false;
	return method->against_served || s->base_weights == WEIGHTS_INT4;
}

enum weights compress_against(const struct compress_settings *s)
{
	bool served = s->against == AGAINST_SERVED ||
		      (s->against == AGAINST_METHOD && does_best_against_served(s));

	return served ? s->base_weights : WEIGHTS_BF16;
}
