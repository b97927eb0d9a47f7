#include "client/deltactl/compress_auto.h"

#include "client/deltactl/number.h"
#include "client/deltactl/word.h"

static bool find_text(const char *name, enum method_text *ret)
{
	/* From METHOD_TEXT_OWN_WORDS on. */
	static const char *const names[] = {"own-words", "generic", "none", NULL};
	size_t i;

	if (!word_find(name, names, &i))
		return false;
	*ret = (enum method_text)(METHOD_TEXT_OWN_WORDS + i);
	return true;
}

bool compress_auto_option(
	int option, const char *value, struct auto_arguments *a, struct method_options *o)
{
	float number;

	switch (option) {
	case OPTION_AUTO_TASKS:
		a->tasks = value;
		return true;
	case OPTION_AUTO_ROWS:
		return number_range(value, &a->first_row, &a->end_row);
	case OPTION_AUTO_FILE_RATIO:
		if (!number_f32(value, &number) || !(number > 0))
			return false;
		o->file_ratio = (double)number;
		return true;
	case OPTION_AUTO_MAX_KL:
		if (!number_f32(value, &number) || !(number > 0))
			return false;
		o->max_kl = (double)number;
		return true;
	case OPTION_AUTO_KEEP:
		if (!number_f32(value, &number) || !(number > 0 && number <= 1))
			return false;
		o->keep = (double)number;
		return true;
	case OPTION_AUTO_TEXT:
		return find_text(value, &o->text);
	case OPTION_AUTO_STEPS:
		o->train_steps_given = true;
		return number_u32(value, &o->train_steps);
	default:
		return false;
	}
}

int compress_auto_load(const struct auto_arguments *a, struct tasks *ret,
	struct method_options *options, struct reason *reason)
{
	int r;

	if (!a->tasks)
		return 0;
	r = tasks_load_rows(
		a->tasks, a->first_row, a->end_row ? a->end_row : SIZE_MAX, ret, reason);
	if (r == 0)
		options->tasks = ret;
	return r;
}
