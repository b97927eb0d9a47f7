#include "compress/auto_stream.h"

#include "common/file.h"
#include "compress/auto_memory.h"
#include "compress/ladder.h"
#include "compress/methods.h"
#include "compress/stream_entry.h"
#include "store/base.h"

#include <stdio.h>
#include <string.h>

#define MOST_TOKENS 32768u
#define LEAST_TOKENS 4096u
#define TOKENS_TIMES_WIDTH (1u << 25)

static struct auto_stream *stream_free(struct auto_stream *s)
{
	if (!s)
		return NULL;
	sequences_done(&s->text);
	block_inputs_free(s->inputs);
	work_file_free(s->work);
	fisher_free(s->fisher);
	fisher_block_done(&s->block);
	dense_model_free(s->tuned);
	backward_free(s->backward);
	for (size_t i = 0; s->tensors && i < s->n_tensors; i++) {
		free(s->tensors[i].menu.entries);
		free(s->tensors[i].parts);
	}
	free(s->tensors);
	free(s->picks);
	auto_levels_free(s->levels);
	free(s);
	return NULL;
}

static void streamp(struct auto_stream **s)
{
	stream_free(*s);
}

size_t stream_tokens(const struct model_config *c)
{
	return max_u64(LEAST_TOKENS, min_u64(MOST_TOKENS, TOKENS_TIMES_WIDTH / c->hidden));
}

static int make_text(struct auto_stream *s, struct reason *reason)
{
	_cleanup_(auto_text_done) struct auto_text text = {0};
	int r = auto_text_read(s->model, &text, reason);

	if (r < 0)
		return r;
	s->kind = text.kind;
	return auto_text_mix(&text, stream_tokens(s->config), &s->text);
}

static struct digest key_of(const struct auto_stream *s)
{
	struct digest parts[3] = {
		s->model->scratch->key,
		digest_of(s->text.ids, s->text.n_ids * sizeof(*s->text.ids)),
		digest_of(s->text.items, s->text.n * sizeof(*s->text.items)),
	};

	return digest_of(parts, sizeof(parts));
}

static int open_files(struct auto_stream *s, struct reason *reason)
{
	const struct method_scratch *scratch = s->model->scratch;
	uint64_t bytes = sequences_read(&s->text) * s->config->hidden * sizeof(float);
	const struct block_inputs_shape inputs = {
		.key = key_of(s),
		.n_slots = (uint64_t)s->config->n_layers + 1,
		.slot_bytes = bytes,
	};
	struct work_shape work = {
		.key = inputs.key,
		.n_windows = 1,
		.slot_bytes = bytes,
		.n_blocks = s->config->n_layers,
		.sums_bytes = sizeof(struct stream_sums),
	};
	int r = block_inputs_open(scratch->fd, &inputs, scratch->resume, &s->inputs, reason);

	if (r < 0)
		return r;
	work.origin = block_inputs_end(s->inputs);
	return work_file_open(scratch->fd, &work, scratch->resume, &s->work, reason);
}

static void forget_tensors(struct auto_stream *s)
{
	for (size_t i = 0; i < s->n_tensors; i++) {
		free(s->tensors[i].menu.entries);
		free(s->tensors[i].parts);
		s->tensors[i] = (struct stream_tensor){0};
	}
	s->n_done = 0;
	s->n_weights = 0;
}

int stream_open(struct auto_stream *s, struct reason *reason)
{
	int r = open_files(s, reason);

	s->n_tensors = (size_t)s->config->n_layers * DENSE_N_PROJECTIONS;
	s->tensors = calloc(s->n_tensors + 1, sizeof(*s->tensors));
	if (!s->tensors)
		return -ENOMEM;
	while (r == 0 && s->n_done < work_file_blocks(s->work))
		r = stream_take_block(s, reason);
	s->n_resumed = s->n_done;
	return r;
}

int stream_restart(struct auto_stream *s, struct reason *reason)
{
	int r = block_inputs_restart(s->inputs, reason);

	forget_tensors(s);
	s->n_resumed = 0;
	return r == 0 ? work_file_restart(s->work, reason) : r;
}

/* 1: something in the files is damaged. */
static int go_through(struct auto_stream *s, struct reason *reason)
{
	int r = stream_forward(s, reason);

	return r == 0 ? stream_code(s, reason) : r;
}

static int make_menus(struct auto_stream *s, struct reason *reason)
{
	int r = go_through(s, reason);

	if (r > 0)
		r = stream_restart(s, reason);
	else
		return r;
	if (r == 0)
		r = go_through(s, reason);
	return r > 0 ? reason_set(reason, -EIO, "what was just written cannot be read again") : r;
}

/* What takes all of a model at once. */
static int check_options(const struct method_model *model, struct reason *reason)
{
	const struct method_options *o = model->options;
	const char *what = o->keep > 0 ? "keep is" : "training steps are";

	if (o->keep == 0 && (!o->train_steps_given || o->train_steps == 0))
		return 0;
	return reason_set(reason, -EINVAL,
		"%s for models whose gradients fit into memory; this one is made one block at a "
		"time",
		what);
}

static int read_part(const struct auto_stream *s, const struct work_part *from, struct part *ret)
{
	_cleanup_(part_done) struct part part = {.record = from->record, .quality = from->quality};
	int r;

	part.payload = malloc(from->record.bytes + 1);
	if (!part.payload)
		return -ENOMEM;
	r = file_read_at(s->fd, part.payload, from->record.bytes, from->at);
	if (r < 0)
		return r;
	part.quality.why = WHY_LOWEST_COST;
	*ret = part_take(&part);
	return 0;
}

/* Of tensor i; NULL where nothing is stored. */
static const struct work_part *picked(const struct auto_stream *s, size_t i)
{
	const struct stream_tensor *t = &s->tensors[i];
	uint32_t tag = t->menu.entries ? t->menu.entries[s->picks[i]].tag : LADDER_NOTHING;

	return tag != LADDER_NOTHING ? &t->parts[tag] : NULL;
}

/* The first entry of a menu is nothing. */
static int read_picked(
	const void *user, size_t i, struct part *ret, double *ret_benefit, struct reason *reason)
{
	const struct auto_stream *s = user;
	const struct work_part *part = picked(s, i);

	(void)reason;
	*ret = (struct part){0};
	*ret_benefit = 0;
	if (!part)
		return 0;
	*ret_benefit = s->tensors[i].menu.entries[0].point.loss - (double)part->quality.loss;
	return read_part(s, part, ret);
}

static struct auto_levels_source source_of(const struct auto_stream *s)
{
	return (struct auto_levels_source){.n = s->n_tensors, .read = read_picked, .user = s};
}

/* Of what was chosen, in what is left of the budget. */
static int make_levels(struct auto_stream *s, struct reason *reason)
{
	const struct auto_levels_source source = source_of(s);
	double bytes = s->choice.sum.bytes;
	double spare = s->budget > 0 ? s->budget + s->reserve - bytes
				     : auto_levels_reserve(bytes, s->n_tensors);

	return auto_levels_new(&source, spare, &s->levels, reason);
}

static int prepare(const struct method_model *model, void **ret_state, struct reason *reason)
{
	_cleanup_(streamp) struct auto_stream *s = calloc(1, sizeof(*s));
	int r = check_options(model, reason);

	if (!s)
		return -ENOMEM;
	s->model = model;
	s->config = &model->pair->tuned_config;
	s->fd = model->scratch->fd;
	if (r == 0)
		r = make_text(s, reason);
	if (r == 0)
		r = stream_open(s, reason);
	if (r == 0)
		r = make_menus(s, reason);
	if (r == 0)
		r = stream_choose(s, reason);
	if (r == 0)
		r = make_levels(s, reason);
	if (r < 0)
		return r;
	model->scratch->used = work_file_end(s->work);
	model->scratch->began_anew =
		block_inputs_began_anew(s->inputs) || work_file_began_anew(s->work);
	s->model = NULL;
	*ret_state = take_ptr(s);
	return 0;
}

static size_t number_of(enum tensor_role role)
{
	size_t p = 0;

	while (dense_projections[p] != role)
		p++;
	return p;
}

static int quantise(void *state, struct method_group *group, struct reason *reason)
{
	const struct auto_stream *s = state;
	const struct auto_levels_source source = source_of(s);

	for (size_t i = 0; i < group->n_matrices; i++) {
		struct method_matrix *m = &group->matrices[i];
		size_t tensor = (size_t)m->layer * DENSE_N_PROJECTIONS + number_of(m->role);
		int r;

		if (!s->tensors[tensor].menu.entries)
			return reason_set(reason, -EINVAL, "%s of layer %u was not prepared",
				tensor_role_name(m->role), m->layer);
		r = auto_levels_give(s->levels, &source, tensor, m, reason);
		if (r < 0)
			return r;
	}
	return 0;
}

static size_t n_in_components(const struct auto_stream *s)
{
	size_t n = 0;

	for (size_t i = 0; i < s->n_tensors; i++) {
		const struct work_part *part = picked(s, i);

		n += part && part->record.codec != CODEC_CODES;
	}
	return n;
}

static size_t report(const void *state, struct method_figure *ret)
{
	const struct auto_stream *s = state;
	size_t n = 0;

	ret[n] = (struct method_figure){.name = METHOD_FIGURE_TEXT};
	snprintf(ret[n].word, sizeof(ret[n].word), "%s", auto_text_name(s->kind));
	n++;
	ret[n++] =
		(struct method_figure){.name = METHOD_FIGURE_MADE, .word = METHOD_MADE_BY_BLOCKS};
	ret[n++] = (struct method_figure){
		.name = "text_tokens", .value = (double)sequences_read(&s->text)};
	ret[n++] = (struct method_figure){
		.name = "in_components", .value = (double)n_in_components(s)};
	ret[n++] = (struct method_figure){.name = "lambda", .value = s->choice.lambda};
	ret[n++] = (struct method_figure){.name = "estimated_kl", .value = s->choice.sum.loss};
	if (s->budget > 0)
		ret[n++] = (struct method_figure){.name = "unused_bytes",
			.value = s->budget + s->reserve - s->choice.sum.bytes -
				 auto_levels_added(s->levels),
			.bytes = true};
	ret[n++] = (struct method_figure){.name = "resumed_menus", .value = s->n_resumed};
	return n;
}

static struct method_tokens text(const void *state)
{
	const struct auto_stream *s = state;
	const struct sequences none = {0};

	return auto_text_told(&s->text, &none);
}

static void done(void *state)
{
	stream_free(state);
}

const struct method method_auto_stream = {
	.name = "auto",
	.summary = "the same for models that do not fit into memory",
	.needs = METHOD_NEEDS_GRADIENTS,
	.takes = METHOD_TAKES_TASKS | METHOD_TAKES_GOALS | METHOD_TAKES_OUTER,
	.default_ratio = 16,
	.prepare = prepare,
	.quantise = quantise,
	.report = report,
	.text = text,
	.memory = auto_stream_memory,
	.done = done,
};
