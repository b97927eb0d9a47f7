#include "store/image.h"

#include <inttypes.h>
#include <string.h>

static int check_magic(const struct format_header *h, struct reason *reason)
{
	if (memcmp(h->magic, FORMAT_MAGIC_BASE, sizeof(h->magic)) != 0 &&
		memcmp(h->magic, FORMAT_MAGIC_DELTA, sizeof(h->magic)) != 0)
		return reason_set(reason, -EBADMSG,
			"header: magic is '%.8s', expected '" FORMAT_MAGIC_BASE
			"' or '" FORMAT_MAGIC_DELTA "'",
			(const char *)h->magic);
	if (h->version != FORMAT_VERSION)
		return reason_set(reason, -EOPNOTSUPP,
			"header: format version %" PRIu32 ", this program reads version %u",
			h->version, FORMAT_VERSION);
	return 0;
}

static uint64_t level_begin(const struct format_header *h, uint32_t level)
{
	return level == 0 ? h->body_offset : h->level_end[level - 1];
}

static uint64_t level_chunks(const struct format_header *h, uint32_t level)
{
	return div_up(h->level_end[level] - level_begin(h, level), FORMAT_CHUNK);
}

uint32_t image_levels(const struct format_header *h, uint64_t file_bytes)
{
	for (uint32_t i = 0; i < h->n_levels; i++)
		if (h->level_end[i] == file_bytes)
			return i + 1;
	return 0;
}

uint64_t image_chunk(const struct format_header *h, uint64_t index, uint64_t *ret_bytes)
{
	uint32_t level = 0;
	uint64_t offset;

	while (level + 1 < h->n_levels && index >= level_chunks(h, level)) {
		index -= level_chunks(h, level);
		level++;
	}
	offset = level_begin(h, level) + index * FORMAT_CHUNK;
	*ret_bytes = min_u64(FORMAT_CHUNK, h->level_end[level] - offset);
	return offset;
}

static int check_levels(const struct format_header *h, struct reason *reason)
{
	bool is_base = memcmp(h->magic, FORMAT_MAGIC_BASE, sizeof(h->magic)) == 0;

	if (h->n_levels == 0 || h->n_levels > (is_base ? 1 : FORMAT_MAX_LEVELS))
		return reason_set(reason, -EBADMSG, "header: %" PRIu32 " levels, expected 1 to %u",
			h->n_levels, is_base ? 1 : FORMAT_MAX_LEVELS);
	for (uint32_t i = 0; i < h->n_levels; i++)
		if (h->level_end[i] % FORMAT_PAGE != 0 || h->level_end[i] <= level_begin(h, i))
			return reason_set(reason, -EBADMSG,
				"header: level %" PRIu32 " ends at %" PRIu64
				", expected a multiple of %u after %" PRIu64,
				i, h->level_end[i], FORMAT_PAGE, level_begin(h, i));
	if (h->level_end[h->n_levels - 1] != h->file_bytes)
		return reason_set(reason, -EBADMSG,
			"header: the last level ends at %" PRIu64 ", the file at %" PRIu64,
			h->level_end[h->n_levels - 1], h->file_bytes);
	return 0;
}

/* A file may be cut, but only where a level ends: elsewhere it is damaged. */
static int check_length(const struct format_header *h, uint64_t found, struct reason *reason)
{
	uint64_t shorter = 0;

	if (image_levels(h, found) > 0)
		return 0;
	for (uint32_t i = 0; i + 1 < h->n_levels && h->level_end[i] < found; i++)
		shorter = h->level_end[i];
	if (shorter)
		return reason_set(reason, -EBADMSG,
			"header: made for a file of %" PRIu64 " bytes, this one has %" PRIu64
			"; the nearest level that is whole ends at %" PRIu64,
			h->file_bytes, found, shorter);
	return reason_set(reason, -EBADMSG,
		"header: made for a file of %" PRIu64 " bytes, this one has %" PRIu64,
		h->file_bytes, found);
}

static int check_body(const struct format_header *h, struct reason *reason)
{
	if (h->file_bytes % FORMAT_PAGE != 0 || h->file_bytes > FORMAT_MAX_FILE)
		return reason_set(reason, -EBADMSG,
			"header: file of %" PRIu64 " bytes, expected a multiple of %u and at most "
			"%" PRIu64,
			h->file_bytes, FORMAT_PAGE, FORMAT_MAX_FILE);
	if (h->body_offset % FORMAT_PAGE != 0 || h->body_offset <= FORMAT_PAGE ||
		h->body_offset >= h->file_bytes)
		return reason_set(reason, -EBADMSG,
			"header: body at %" PRIu64 ", expected a multiple of %u between %u and the "
			"file's %" PRIu64 " bytes",
			h->body_offset, FORMAT_PAGE, FORMAT_PAGE, h->file_bytes);
	return 0;
}

static int check_chunks(const struct format_header *h, struct reason *reason)
{
	uint64_t expected = 0, digest_bytes;

	for (uint32_t i = 0; i < h->n_levels; i++)
		expected += level_chunks(h, i);
	if (h->n_chunks != expected)
		return reason_set(reason, -EBADMSG,
			"header: %" PRIu64 " chunks, a body of %" PRIu64 " bytes has %" PRIu64,
			h->n_chunks, h->file_bytes - h->body_offset, expected);
	if (!mul_u64(h->n_chunks, sizeof(struct digest), &digest_bytes) ||
		digest_bytes > h->body_offset - FORMAT_PAGE)
		return reason_set(reason, -EBADMSG,
			"header: digests of %" PRIu64
			" chunks do not fit before the body at %" PRIu64,
			h->n_chunks, h->body_offset);
	/* A reader has all that is before the body in memory of its own before it can check it. */
	if (h->body_offset - FORMAT_PAGE - digest_bytes > FORMAT_MAX_SPARE)
		return reason_set(reason, -EBADMSG,
			"header: body at %" PRIu64 ", expected at most %u bytes after the digests "
			"of %" PRIu64 " chunks",
			h->body_offset, FORMAT_MAX_SPARE, h->n_chunks);
	return 0;
}

static int check_sizes(const struct format_header *h, uint64_t file_bytes, struct reason *reason)
{
	int r;

	r = check_body(h, reason);
	if (r == 0)
		r = check_levels(h, reason);
	if (r == 0)
		r = check_length(h, file_bytes, reason);
	if (r == 0)
		r = check_chunks(h, reason);
	return r;
}

static bool section_kind_known(uint32_t kind)
{
	return kind >= SECTION_CONFIG && kind <= SECTION_WEIGHTS;
}

/* `previous` is NULL for the first one. */
static int check_section(const struct format_header *h, const struct format_section *s,
	const struct format_section *previous, struct reason *reason)
{
	bool is_base = memcmp(h->magic, FORMAT_MAGIC_BASE, sizeof(h->magic)) == 0;
	uint64_t alignment =
		is_base && s->kind == SECTION_WEIGHTS ? FORMAT_WEIGHTS_ALIGNMENT : FORMAT_PAGE;
	uint64_t free_from = previous ? previous->offset + previous->bytes : h->body_offset;

	if (!section_kind_known(s->kind))
		return reason_set(
			reason, -EOPNOTSUPP, "header: section of unknown kind %" PRIu32, s->kind);
	if (is_base && s->kind == SECTION_CERTIFICATE)
		return reason_set(reason, -EBADMSG, "header: a base image has no certificate");
	if (previous && s->kind <= previous->kind)
		return reason_set(reason, -EBADMSG,
			"header: section %" PRIu32 " after section %" PRIu32
			", expected ascending kinds, each once",
			s->kind, previous->kind);
	if (s->reserved != 0)
		return reason_set(reason, -EBADMSG,
			"header: section %" PRIu32 " has %#" PRIx32 " in its reserved field",
			s->kind, s->reserved);
	if (s->offset % alignment != 0)
		return reason_set(reason, -EBADMSG,
			"header: section %" PRIu32 " at %" PRIu64
			", expected a multiple of %" PRIu64,
			s->kind, s->offset, alignment);
	if (!range_inside(s->offset, s->kind == SECTION_WEIGHTS ? 0 : s->bytes, h->level_end[0]))
		return reason_set(reason, -EBADMSG,
			"header: section %" PRIu32 " takes %" PRIu64 " bytes at %" PRIu64
			", level 0 ends at %" PRIu64,
			s->kind, s->bytes, s->offset, h->level_end[0]);
	if (s->offset < free_from || !range_inside(s->offset, s->bytes, h->file_bytes))
		return reason_set(reason, -EBADMSG,
			"header: section %" PRIu32 " takes %" PRIu64 " bytes at %" PRIu64
			", free are %" PRIu64 " to %" PRIu64,
			s->kind, s->bytes, s->offset, free_from, h->file_bytes);
	return 0;
}

static int check_sections(const struct format_header *h, struct reason *reason)
{
	if (h->n_sections > FORMAT_MAX_SECTIONS)
		return reason_set(reason, -EBADMSG, "header: %" PRIu32 " sections, at most %u",
			h->n_sections, FORMAT_MAX_SECTIONS);
	for (uint32_t i = 0; i < h->n_sections; i++) {
		int r = check_section(h, &h->sections[i], i ? &h->sections[i - 1] : NULL, reason);

		if (r < 0)
			return r;
	}
	return 0;
}

static bool all_zero(const void *bytes, size_t n)
{
	const uint8_t *at = bytes;

	for (size_t i = 0; i < n; i++)
		if (at[i] != 0)
			return false;
	return true;
}

/* What has no meaning is zero, so that two different headers never mean the same. */
static int check_unused(const uint8_t *page, const struct format_header *h, struct reason *reason)
{
	size_t used = offsetof(struct format_header, sections) +
		      h->n_sections * sizeof(struct format_section);

	if (!all_zero(page + used, FORMAT_PAGE - used))
		return reason_set(reason, -EBADMSG,
			"header: bytes after its %" PRIu32 " sections are not zero", h->n_sections);
	if (memcmp(h->magic, FORMAT_MAGIC_BASE, sizeof(h->magic)) == 0 && h->expanded_bytes)
		return reason_set(
			reason, -EBADMSG, "header: a base image expands, expected 0 bytes");
	if (h->reserved || !all_zero(h->level_end + h->n_levels,
				   (FORMAT_MAX_LEVELS - h->n_levels) * sizeof(*h->level_end)))
		return reason_set(reason, -EBADMSG,
			"header: bytes after its %" PRIu32 " levels are not zero", h->n_levels);
	return 0;
}

int image_parse_header(const uint8_t page[static FORMAT_PAGE], uint64_t file_bytes,
	struct format_header *ret, struct reason *reason)
{
	struct format_header h;
	int r;

	memcpy(&h, page, sizeof(h));
	r = check_magic(&h, reason);
	if (r < 0)
		return r;
	if (file_bytes % FORMAT_PAGE != 0 || file_bytes > FORMAT_MAX_FILE)
		return reason_set(reason, -EBADMSG,
			"file has %" PRIu64 " bytes, expected a multiple of %u and at most %" PRIu64
			": it is cut short or has grown",
			file_bytes, FORMAT_PAGE, FORMAT_MAX_FILE);
	r = check_sizes(&h, file_bytes, reason);
	if (r < 0)
		return r;
	r = check_sections(&h, reason);
	if (r < 0)
		return r;
	r = check_unused(page, &h, reason);
	if (r < 0)
		return r;
	*ret = h;
	return 0;
}

int image_root(const struct format_header *header, const void *digests, uint64_t n_bytes,
	struct digest *ret)
{
	uint8_t page[FORMAT_PAGE] = {0};
	struct format_header h = *header;
	struct digest_state *s = digest_new();

	if (!s)
		return -ENOMEM;
	h.root = (struct digest){0};
	memcpy(page, &h, sizeof(h));
	digest_add(s, page, sizeof(page));
	digest_add(s, digests, n_bytes);
	*ret = digest_finish(s);
	return 0;
}

const struct digest *image_served_digest(const struct format_header *base)
{
	return all_zero(&base->tuned, sizeof(base->tuned)) ? &base->model : &base->tuned;
}

bool image_fits(const struct format_header *delta, const struct format_header *base)
{
	return digest_equal(&delta->model, &base->model) ||
	       digest_equal(&delta->model, image_served_digest(base));
}
