#include "daemon/loaded.h"

#include "engine/variant.h"

#include <string.h>

struct loaded *loaded_free(struct loaded *l)
{
	if (!l)
		return NULL;
	variant_free(l->variant);
	chat_format_free(l->own_chat);
	tokenizer_free(l->own_tokenizer);
	delta_free(l->delta);
	model_free(l->model);
	base_free(l->base);
	free(l);
	return NULL;
}

uint64_t loaded_memory(const struct loaded *l)
{
	return l->image->mapped_bytes + (l->delta ? l->delta->expanded_bytes : 0);
}

uint64_t loaded_context(const struct loaded *l)
{
	return min_u64(variant_config(l->variant)->max_positions,
		model_config(l->variant->model)->max_positions);
}

static bool image_has(const struct image *image, enum section_kind kind)
{
	uint64_t n;

	return image_section(image, kind, &n);
}

/* A delta that brings no tokens of its own shares the base's tokenizer. A base without one serves
 * token ids only. */
static int add_tokenizer(struct loaded *l, const struct loaded *base, struct reason *reason)
{
	int r;

	if (!image_has(base->base->image, SECTION_TOKENIZER))
		return 0;
	if (l != base && !image_has(l->image, SECTION_TOKENIZER)) {
		l->tokenizer = base->tokenizer;
		return 0;
	}
	r = tokenizer_of(base->base->image, l != base ? l->image : NULL, &l->own_tokenizer, reason);
	if (r < 0)
		return r;
	l->tokenizer = l->own_tokenizer;
	return 0;
}

/* That a model has no chat format is no error: whoever asks to chat gets the words. */
static int add_chat(struct loaded *l, const struct loaded *base, struct reason *reason)
{
	int r;

	if (l != base && !image_has(l->image, SECTION_CHAT)) {
		l->chat = base->chat;
		l->no_chat = base->no_chat;
		return 0;
	}
	r = chat_format_of(base->base->image, l != base ? l->image : NULL, &l->own_chat, reason);
	if (r == -EOPNOTSUPP) {
		l->no_chat = *reason;
		return 0;
	}
	if (r < 0)
		return r;
	l->chat = l->own_chat;
	return 0;
}

static int add_text(struct loaded *l, const struct loaded *base, struct reason *reason)
{
	int r;

	r = add_tokenizer(l, base, reason);
	if (r < 0)
		return r;
	return add_chat(l, base, reason);
}

int loaded_new_base(int fd, const struct kernels *kernels, const struct progress *progress,
	struct loaded **ret, struct reason *reason)
{
	_cleanup_(loaded_freep) struct loaded *l = calloc(1, sizeof(*l));
	_cleanup_(imagep) struct image *image = NULL;
	int r;

	if (!l)
		return reason_set(reason, -ENOMEM, "out of memory");
	r = image_load(fd, &image, progress, reason);
	if (r < 0)
		return r;
	r = base_bind(image, &l->base, reason);
	if (r < 0)
		return r;
	l->image = take_ptr(image);
	r = model_new(l->base, kernels, &l->model, reason);
	if (r < 0)
		return r;
	r = variant_new(l->model, NULL, &l->variant, reason);
	if (r < 0)
		return r;
	r = add_text(l, l, reason);
	if (r < 0)
		return r;
	*ret = take_ptr(l);
	return 0;
}

int loaded_new_delta(int fd, const struct loaded *base, const struct progress *progress,
	struct loaded **ret, struct reason *reason)
{
	_cleanup_(loaded_freep) struct loaded *l = calloc(1, sizeof(*l));
	int r;

	if (!l)
		return reason_set(reason, -ENOMEM, "out of memory");
	r = delta_load(fd, base->base, &l->delta, progress, reason);
	if (r < 0)
		return r;
	l->image = l->delta->image;
	r = variant_new(base->model, l->delta, &l->variant, reason);
	if (r < 0)
		return r;
	r = add_text(l, base, reason);
	if (r < 0)
		return r;
	*ret = take_ptr(l);
	return 0;
}
