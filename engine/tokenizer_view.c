#include "engine/tokenizer_view.h"
#include "common/cursor.h"
#include "engine/utf8.h"

static int read_head(
	struct tokenizer_tables *h, struct cursor *c, const char *magic, struct reason *reason)
{
	const uint8_t *found = cursor_bytes(c, sizeof(h->magic));

	if (!found || memcmp(found, magic, sizeof(h->magic)) != 0)
		return reason_set(reason, -EBADMSG, "tokenizer: does not begin with %s", magic);
	*h = (struct tokenizer_tables){
		.flags = cursor_u32(c),
		.unk = cursor_u32(c),
		.n_tokens = cursor_u32(c),
		.n_merges = cursor_u32(c),
		.n_added = cursor_u32(c),
		.n_normalizers = cursor_u32(c),
		.n_pretokenizers = cursor_u32(c),
		.n_decoders = cursor_u32(c),
		.n_prefix = cursor_u32(c),
		.n_suffix = cursor_u32(c),
		.n_text = cursor_u32(c),
		.reserved = cursor_u32(c),
	};
	if (c->failed)
		return reason_set(reason, -EBADMSG, "tokenizer: shorter than its head");
	return 0;
}

static int check_head(const struct tokenizer_tables *h, struct reason *reason)
{
	const uint32_t known =
		TOKENIZER_BYTE_FALLBACK | TOKENIZER_FUSE_UNK | TOKENIZER_IGNORE_MERGES;
	uint32_t steps = h->n_normalizers;

	if (h->n_pretokenizers > steps)
		steps = h->n_pretokenizers;
	if (h->n_decoders > steps)
		steps = h->n_decoders;
	if (h->flags & ~known || h->reserved)
		return reason_set(reason, -EBADMSG, "tokenizer: unknown flags %#x", h->flags);
	if (steps > TOKENIZER_MAX_STEPS)
		return reason_set(reason, -EBADMSG, "tokenizer: %u steps in one list, limit %u",
			steps, TOKENIZER_MAX_STEPS);
	return 0;
}

static const uint8_t *take_array(struct cursor *c, uint32_t n, size_t size)
{
	uint64_t bytes;

	if (!mul_u64(n, size, &bytes) || bytes > c->left) {
		c->failed = true;
		return NULL;
	}
	return cursor_bytes(c, (size_t)bytes);
}

int tokenizer_view_init(struct tokenizer_view *v, const char *magic, const uint8_t *bytes,
	uint64_t n, struct reason *reason)
{
	struct cursor c = cursor_over(bytes, (size_t)n);
	int r;

	r = read_head(&v->head, &c, magic, reason);
	if (r == 0)
		r = check_head(&v->head, reason);
	if (r < 0)
		return r;
	v->token_ends = take_array(&c, v->head.n_tokens, sizeof(uint32_t));
	v->merges = take_array(&c, v->head.n_merges, sizeof(struct tokenizer_merge));
	v->added = take_array(&c, v->head.n_added, sizeof(struct tokenizer_added));
	v->normalizers = take_array(&c, v->head.n_normalizers, sizeof(struct tokenizer_step));
	v->pretokenizers = take_array(&c, v->head.n_pretokenizers, sizeof(struct tokenizer_step));
	v->decoders = take_array(&c, v->head.n_decoders, sizeof(struct tokenizer_step));
	v->prefix = take_array(&c, v->head.n_prefix, sizeof(uint32_t));
	v->suffix = take_array(&c, v->head.n_suffix, sizeof(uint32_t));
	v->text = (const char *)take_array(&c, v->head.n_text, 1);
	if (!cursor_end(&c))
		return reason_set(reason, -EBADMSG,
			"tokenizer: its arrays do not fill its %llu bytes exactly",
			(unsigned long long)n);
	if (!utf8_valid(v->text, v->head.n_text))
		return reason_set(reason, -EBADMSG, "tokenizer: its text is not UTF-8");
	return 0;
}

uint32_t tokenizer_view_id(const uint8_t *ids, uint32_t i)
{
	uint32_t id;

	memcpy(&id, ids + sizeof(id) * (size_t)i, sizeof(id));
	return le32toh(id);
}

static struct tokenizer_text read_text(struct cursor *c)
{
	struct tokenizer_text t;

	t.offset = cursor_u32(c);
	t.bytes = cursor_u32(c);
	return t;
}

/* The whole of text[] is UTF-8, so a part of it is, if it ends between characters. */
static bool text_is_sound(const struct tokenizer_view *v, struct tokenizer_text t)
{
	return range_inside(t.offset, t.bytes, v->head.n_text) &&
	       utf8_is_border(v->text, v->head.n_text, t.offset) &&
	       utf8_is_border(v->text, v->head.n_text, t.offset + t.bytes);
}

int tokenizer_view_added(const struct tokenizer_view *v, uint32_t i, struct tokenizer_added *ret,
	struct reason *reason)
{
	const uint32_t known = TOKENIZER_ADDED_SPECIAL | TOKENIZER_ADDED_LSTRIP |
			       TOKENIZER_ADDED_RSTRIP | TOKENIZER_ADDED_SINGLE_WORD |
			       TOKENIZER_ADDED_NORMALIZED;
	struct cursor c = cursor_over(v->added + sizeof(*ret) * (size_t)i, sizeof(*ret));

	ret->id = cursor_u32(&c);
	ret->flags = cursor_u32(&c);
	ret->text = read_text(&c);
	if (ret->flags & ~known || ret->text.bytes == 0 ||
		ret->text.bytes > TOKENIZER_MAX_ADDED_BYTES || !text_is_sound(v, ret->text))
		return reason_set(reason, -EBADMSG,
			"tokenizer: added token %u has flags %#x and %u bytes at %u of %u", i,
			ret->flags, ret->text.bytes, ret->text.offset, v->head.n_text);
	return 0;
}

int tokenizer_view_step(const struct tokenizer_view *v, const uint8_t *steps, uint32_t i,
	struct tokenizer_step *ret, struct reason *reason)
{
	struct cursor c = cursor_over(steps + sizeof(*ret) * (size_t)i, sizeof(*ret));

	ret->kind = cursor_u32(&c);
	ret->option = cursor_u32(&c);
	ret->a = read_text(&c);
	ret->b = read_text(&c);
	if (!text_is_sound(v, ret->a) || !text_is_sound(v, ret->b))
		return reason_set(reason, -EBADMSG,
			"tokenizer: step %u of kind %u has strings outside the section", i,
			ret->kind);
	return 0;
}
