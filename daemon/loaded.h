/*
 * A variant in memory with all that belongs to it: weights, tokenizer, chat format. Immutable once
 * made, so the loop and the engine use it at the same time.
 */
#pragma once

#include "common/mailbox.h"
#include "engine/chat.h"
#include "engine/model.h"
#include "engine/tokenizer.h"

enum order_kind {
	ORDER_KIND_LOAD,
	ORDER_KIND_DROP,
	ORDER_KIND_END,
};

/* A message to the loader. */
struct order {
	struct mail mail;
	enum order_kind kind;
};

struct loaded {
	struct order drop;   /* the loader's, which can thus always be told */
	struct base *base;   /* owned by the base's variant alone */
	struct model *model; /* likewise */
	struct delta *delta; /* owned; NULL for the base */
	struct variant *variant;
	struct tokenizer *own_tokenizer; /* NULL where the base's is used, or there is none */
	struct chat_format *own_chat;

	const struct image *image;         /* of the base or of the delta */
	const struct tokenizer *tokenizer; /* NULL if the base has none: no text then */
	const struct chat_format *chat;    /* NULL if there is none; `no_chat` has the words */
	struct reason no_chat;
};

/* From an open file, which stays the caller's. Errors are those of image_load(), base_bind(),
 * delta_bind() and what is built on them. `base` must outlive the variants made with it. */
int loaded_new_base(int fd, const struct kernels *kernels, const struct progress *progress,
	struct loaded **ret, struct reason *reason) _must_check_;
int loaded_new_delta(int fd, const struct loaded *base, const struct progress *progress,
	struct loaded **ret, struct reason *reason) _must_check_;
struct loaded *loaded_free(struct loaded *l);

/* Bytes of memory that its weights take: the file, and what had to be expanded. */
uint64_t loaded_memory(const struct loaded *l);

/* Most positions of prompt and answer. A fine-tune may claim more than the base, whose engine runs
 * it. */
uint64_t loaded_context(const struct loaded *l);

static inline void loaded_freep(struct loaded **l)
{
	loaded_free(*l);
}
