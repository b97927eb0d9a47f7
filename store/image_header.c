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

static int check_sizes(const struct format_header *h, uint64_t file_bytes, struct reason *reason)
{
	uint64_t digest_bytes;

	if (h->file_bytes != file_bytes)
		return reason_set(reason, -EBADMSG,
			"header: made for a file of %" PRIu64 " bytes, this one has %" PRIu64,
			h->file_bytes, file_bytes);
	if (h->body_offset % FORMAT_PAGE != 0 || h->body_offset <= FORMAT_PAGE ||
		h->body_offset >= file_bytes)
		return reason_set(reason, -EBADMSG,
			"header: body at %" PRIu64 ", expected a multiple of %u between %u and the "
			"file's %" PRIu64 " bytes",
			h->body_offset, FORMAT_PAGE, FORMAT_PAGE, file_bytes);
	if (h->n_chunks != div_up(file_bytes - h->body_offset, FORMAT_CHUNK))
		return reason_set(reason, -EBADMSG,
			"header: %" PRIu64 " chunks, a body of %" PRIu64 " bytes has %" PRIu64,
			h->n_chunks, file_bytes - h->body_offset,
			div_up(file_bytes - h->body_offset, FORMAT_CHUNK));
	if (!mul_u64(h->n_chunks, sizeof(struct digest), &digest_bytes) ||
		digest_bytes > h->body_offset - FORMAT_PAGE)
		return reason_set(reason, -EBADMSG,
			"header: digests of %" PRIu64
			" chunks do not fit before the body at %" PRIu64,
			h->n_chunks, h->body_offset);
	return 0;
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
	if (memcmp(h->magic, FORMAT_MAGIC_BASE, sizeof(h->magic)) == 0 &&
		!all_zero(&h->tuned, sizeof(h->tuned)))
		return reason_set(
			reason, -EBADMSG, "header: a base image names a fine-tune, expected zeros");
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
