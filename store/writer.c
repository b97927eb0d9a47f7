#include "store/writer.h"

#include "common/file.h"

#include <assert.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define WRITE_BACK_CHUNKS 16u

/*
 * The body is made chunk by chunk in memory; a full chunk is digested and written, so the digests
 * speak of what was meant to be written and the file is never read back.
 */
struct writer {
	int fd; /* the caller's */
	enum image_kind kind;
	struct format_header header;
	bool in_section;
	uint8_t *digests; /* from FORMAT_PAGE to body_offset */
	uint64_t max_chunks;
	uint64_t n_chunks;
	uint64_t written; /* bytes of the body in full chunks */
	uint8_t *chunk;
	uint64_t filled;
};

/* Room for what is appended and for the gaps that the alignment of sections can make. */
static uint64_t max_chunks_for(uint64_t max_body_bytes)
{
	return div_up(max_body_bytes +
			       (FORMAT_MAX_SECTIONS + FORMAT_MAX_LEVELS) * (uint64_t)FORMAT_PAGE +
			       2 * (uint64_t)FORMAT_WEIGHTS_ALIGNMENT,
		       FORMAT_CHUNK) +
	       FORMAT_MAX_LEVELS;
}

int writer_begin(int fd, enum image_kind kind, uint64_t max_body_bytes, struct writer **ret,
	struct reason *reason)
{
	_cleanup_(writerp) struct writer *w = NULL;

	if (max_body_bytes > FORMAT_MAX_FILE / 2)
		return reason_set(reason, -EFBIG, "%llu bytes of contents, the format allows %llu",
			(unsigned long long)max_body_bytes,
			(unsigned long long)(FORMAT_MAX_FILE / 2));
	w = calloc(1, sizeof(*w));
	if (!w)
		return reason_set(reason, -ENOMEM, "out of memory");
	w->fd = fd;
	w->kind = kind;
	w->max_chunks = max_chunks_for(max_body_bytes);
	w->header.version = FORMAT_VERSION;
	memcpy(w->header.magic, kind == IMAGE_KIND_BASE ? FORMAT_MAGIC_BASE : FORMAT_MAGIC_DELTA,
		sizeof(w->header.magic));
	w->header.body_offset =
		align_up(FORMAT_PAGE + w->max_chunks * sizeof(struct digest), FORMAT_PAGE);
	w->digests = calloc(1, w->header.body_offset - FORMAT_PAGE);
	w->chunk = malloc(FORMAT_CHUNK);
	if (!w->digests || !w->chunk)
		return reason_set(reason, -ENOMEM, "out of memory");
	*ret = take_ptr(w);
	return 0;
}

uint64_t writer_offset(const struct writer *w)
{
	return w->header.body_offset + w->written + w->filled;
}

/* The disk begins with what is there, and has less left to do when all must be on it. */
static void begin_writing_back(const struct writer *w)
{
	if (w->n_chunks % WRITE_BACK_CHUNKS == 0)
		(void)sync_file_range(w->fd, 0, 0, SYNC_FILE_RANGE_WRITE);
}

static int put_chunk(struct writer *w, const uint8_t *bytes, uint64_t n_bytes)
{
	struct digest d;
	int r;

	if (w->n_chunks == w->max_chunks)
		return -EFBIG;
	d = digest_of(bytes, n_bytes);
	r = file_write_at(w->fd, bytes, n_bytes, w->header.body_offset + w->written);
	if (r < 0)
		return r;
	memcpy(w->digests + w->n_chunks * sizeof(d), &d, sizeof(d));
	w->n_chunks++;
	w->written += n_bytes;
	begin_writing_back(w);
	return 0;
}

static int flush_chunk(struct writer *w)
{
	int r = put_chunk(w, w->chunk, w->filled);

	if (r == 0)
		w->filled = 0;
	return r;
}

/* NULL: zeros. A whole chunk of the caller's is written from where it is. */
static int put(struct writer *w, const uint8_t *bytes, uint64_t n_bytes)
{
	int r = 0;

	while (n_bytes > 0 && r == 0) {
		uint64_t n = min_u64(n_bytes, FORMAT_CHUNK - w->filled);

		if (bytes && n == FORMAT_CHUNK) {
			r = put_chunk(w, bytes, n);
		} else {
			if (bytes)
				memcpy(w->chunk + w->filled, bytes, n);
			else
				memset(w->chunk + w->filled, 0, n);
			w->filled += n;
			if (w->filled == FORMAT_CHUNK)
				r = flush_chunk(w);
		}
		bytes = bytes ? bytes + n : NULL;
		n_bytes -= n;
	}
	return r;
}

static int put_zeros_to(struct writer *w, uint64_t alignment)
{
	uint64_t at = writer_offset(w);

	return put(w, NULL, align_up(at, alignment) - at);
}

int writer_section_begin(struct writer *w, enum section_kind kind, uint64_t alignment)
{
	struct format_header *h = &w->header;
	int r;

	assert(!w->in_section && h->n_sections < FORMAT_MAX_SECTIONS);
	assert(h->n_sections == 0 || h->sections[h->n_sections - 1].kind < kind);
	assert(alignment >= FORMAT_PAGE && (alignment & (alignment - 1)) == 0);
	assert(kind != SECTION_WEIGHTS || w->kind != IMAGE_KIND_BASE ||
		alignment >= FORMAT_WEIGHTS_ALIGNMENT);

	r = put_zeros_to(w, alignment);
	if (r < 0)
		return r;
	h->sections[h->n_sections] = (struct format_section){
		.kind = kind,
		.offset = writer_offset(w),
	};
	w->in_section = true;
	return 0;
}

int writer_append(struct writer *w, const void *bytes, uint64_t n_bytes)
{
	assert(w->in_section);
	return put(w, bytes, n_bytes);
}

int writer_align(struct writer *w, uint64_t alignment)
{
	assert(w->in_section && (alignment & (alignment - 1)) == 0);
	return put_zeros_to(w, alignment);
}

int writer_section_end(struct writer *w)
{
	struct format_section *s = &w->header.sections[w->header.n_sections];

	assert(w->in_section);
	s->bytes = writer_offset(w) - s->offset;
	w->header.n_sections++;
	w->in_section = false;
	return 0;
}

int writer_section(struct writer *w, enum section_kind kind, const void *bytes, uint64_t n_bytes)
{
	int r;

	if (n_bytes == 0)
		return 0;
	r = writer_section_begin(w, kind, FORMAT_PAGE);
	if (r == 0)
		r = writer_append(w, bytes, n_bytes);
	if (r == 0)
		r = writer_section_end(w);
	return r;
}

int writer_level_end(struct writer *w)
{
	struct format_header *h = &w->header;
	int r = put_zeros_to(w, FORMAT_PAGE);

	assert(h->n_levels < FORMAT_MAX_LEVELS);
	if (r == 0 && w->filled > 0)
		r = flush_chunk(w);
	h->level_end[h->n_levels++] = writer_offset(w);
	return r;
}

void writer_expands(struct writer *w, uint64_t n_bytes)
{
	w->header.expanded_bytes = n_bytes;
}

static int write_head(struct writer *w)
{
	uint8_t page[FORMAT_PAGE] = {0};
	uint64_t n_digest_bytes = w->header.body_offset - FORMAT_PAGE;
	int r;

	r = image_root(&w->header, w->digests, n_digest_bytes, &w->header.root);
	if (r < 0)
		return r;
	memcpy(page, &w->header, sizeof(w->header));
	r = file_write_at(w->fd, w->digests, n_digest_bytes, FORMAT_PAGE);
	if (r < 0)
		return r;
	return file_write_at(w->fd, page, sizeof(page), 0);
}

int writer_finish(struct writer *w, const struct digest *model, const struct digest *tuned,
	struct format_header *ret_header, struct reason *reason)
{
	int r;

	assert(!w->in_section && (w->kind == IMAGE_KIND_BASE || tuned));
	w->header.model = *model;
	if (tuned)
		w->header.tuned = *tuned;
	r = writer_level_end(w);
	w->header.file_bytes = writer_offset(w);
	w->header.n_chunks = w->n_chunks;
	assert(r < 0 || w->header.body_offset - FORMAT_PAGE - w->n_chunks * sizeof(struct digest) <=
				FORMAT_MAX_SPARE);
	if (r == 0)
		r = write_head(w);
	if (r == 0 && ftruncate(w->fd, (off_t)w->header.file_bytes) < 0)
		r = -errno;
	if (r < 0)
		return reason_set(reason, r, "cannot write the file: %s", strerror(-r));
	if (ret_header)
		*ret_header = w->header;
	return 0;
}

struct writer *writer_free(struct writer *w)
{
	if (!w)
		return NULL;
	free(w->digests);
	free(w->chunk);
	free(w);
	return NULL;
}
