#include "compress/delta_file.h"

#include "common/file.h"
#include "store/writer.h"

#include <string.h>

#define COPY_BYTES ((size_t)1 << 20)

/* `part` comes first: sorting looks at nothing else. */
struct kept_part {
	struct part part; /* without payload: it is in fd, from `at` on */
	int fd;
	uint64_t at;
};

struct delta_file {
	struct kept_part *parts; /* sorted when written */
	size_t n, room;
};

int delta_file_new(struct delta_file **ret)
{
	*ret = calloc(1, sizeof(**ret));
	return *ret ? 0 : -ENOMEM;
}

struct delta_file *delta_file_free(struct delta_file *f)
{
	if (!f)
		return NULL;
	for (size_t i = 0; i < f->n; i++)
		part_done(&f->parts[i].part);
	free(f->parts);
	free(f);
	return NULL;
}

int delta_file_add(struct delta_file *f, struct part *part)
{
	if (f->n == f->room) {
		size_t room = 2 * f->room + 16;
		struct kept_part *grown = realloc(f->parts, room * sizeof(*grown));

		if (!grown) {
			part_done(part);
			return -ENOMEM;
		}
		f->parts = grown;
		f->room = room;
	}
	f->parts[f->n++] = (struct kept_part){.part = *part, .fd = -1};
	part->payload = NULL;
	return 0;
}

size_t delta_file_count(const struct delta_file *f)
{
	return f->n;
}

const struct part *delta_file_part(const struct delta_file *f, size_t i)
{
	return &f->parts[i].part;
}

void delta_file_move(struct delta_file *f, size_t i, int fd, uint64_t at)
{
	struct kept_part *kept = &f->parts[i];

	free(kept->part.payload);
	kept->part.payload = NULL;
	kept->fd = fd;
	kept->at = at;
}

int delta_file_payload(const struct delta_file *f, size_t i, uint8_t **ret)
{
	const struct kept_part *kept = &f->parts[i];
	uint64_t n = kept->part.record.bytes;
	_cleanup_(freep) uint8_t *bytes =
		aligned_alloc(PART_ALIGNMENT, align_up(n + 1, PART_ALIGNMENT));
	int r = 0;

	if (!bytes)
		return -ENOMEM;
	if (kept->part.payload)
		memcpy(bytes, kept->part.payload, n);
	else
		r = file_read_at(kept->fd, bytes, n, kept->at);
	if (r == 0)
		*ret = take_ptr(bytes);
	return r;
}

uint64_t delta_file_bytes(const struct delta_file *f, bool (*of)(enum tensor_role role))
{
	uint64_t sum = 0;

	for (size_t i = 0; i < f->n; i++)
		if (of((enum tensor_role)f->parts[i].part.record.role))
			sum += part_file_bytes(&f->parts[i].part);
	return sum;
}

static int compare_parts(const void *left, const void *right)
{
	const struct tensor_record *a = &((const struct kept_part *)left)->part.record;
	const struct tensor_record *b = &((const struct kept_part *)right)->part.record;

	if (a->level != b->level)
		return a->level < b->level ? -1 : 1;
	if (a->layer != b->layer)
		return a->layer < b->layer ? -1 : 1;
	return a->role < b->role ? -1 : a->role > b->role;
}

/* Levels are numbered without gaps: a level that no part has left is not in the file. */
static void number_levels(struct delta_file *f)
{
	uint8_t level = 0, last = 0;

	for (size_t i = 0; i < f->n; i++) {
		struct tensor_record *record = &f->parts[i].part.record;

		if (i > 0 && record->level != last)
			level++;
		last = record->level;
		record->level = level;
	}
}

static uint64_t pages(uint64_t n_bytes)
{
	return align_up(n_bytes, FORMAT_PAGE);
}

static uint64_t certificate_bytes(const struct delta_file *f, const struct delta_file_parts *p)
{
	if (!p->certificate)
		return 0;
	return sizeof(*p->certificate) + f->n * sizeof(struct tensor_quality) +
	       p->certificate->n_points * sizeof(*p->points);
}

/* Where the payloads begin, counted from the body's beginning. */
static uint64_t weights_offset(const struct delta_file *f, const struct delta_file_parts *p)
{
	return pages(sizeof(*p->config)) + pages(f->n * sizeof(struct tensor_record)) +
	       pages(p->n_tokenizer) + pages(p->n_chat) + pages(certificate_bytes(f, p)) +
	       pages(p->n_selftest);
}

static bool begins_level(const struct delta_file *f, size_t i)
{
	return i > 0 && f->parts[i].part.record.level != f->parts[i - 1].part.record.level;
}

/* Sets each record's offset, given where the payloads begin; returns where they end. */
static uint64_t place_payloads(struct delta_file *f, uint64_t begin)
{
	uint64_t at = begin;

	for (size_t i = 0; i < f->n; i++) {
		struct tensor_record *record = &f->parts[i].part.record;

		at = align_up(at, begins_level(f, i) ? FORMAT_PAGE : PART_ALIGNMENT);
		record->offset = at;
		at += record->bytes;
	}
	return at;
}

static uint64_t expanded_bytes(const struct delta_file *f)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < f->n; i++)
		sum += part_layout(&f->parts[i].part.record).expanded_bytes;
	return sum;
}

static int write_records(struct writer *w, const struct delta_file *f)
{
	int r;

	r = writer_section_begin(w, SECTION_TENSORS, FORMAT_PAGE);
	for (size_t i = 0; r == 0 && i < f->n; i++)
		r = writer_append(w, &f->parts[i].part.record, sizeof(struct tensor_record));
	if (r == 0)
		r = writer_section_end(w);
	return r;
}

static int write_certificate(
	struct writer *w, const struct delta_file *f, const struct delta_file_parts *p)
{
	const struct certificate *certificate = p->certificate;
	int r;

	if (!certificate)
		return 0;
	r = writer_section_begin(w, SECTION_CERTIFICATE, FORMAT_PAGE);
	if (r == 0)
		r = writer_append(w, certificate, sizeof(*certificate));
	for (size_t i = 0; r == 0 && i < f->n; i++)
		r = writer_append(w, &f->parts[i].part.quality, sizeof(struct tensor_quality));
	if (r == 0)
		r = writer_append(w, p->points, certificate->n_points * sizeof(*p->points));
	if (r == 0 && p->tasks)
		r = writer_append(w, p->tasks, sizeof(*p->tasks));
	if (r == 0)
		r = writer_section_end(w);
	return r;
}

static int copy_payload(struct writer *w, const struct kept_part *kept, uint8_t *room)
{
	uint64_t bytes = kept->part.record.bytes;
	int r = 0;

	for (uint64_t at = 0; r == 0 && at < bytes; at += COPY_BYTES) {
		size_t n = (size_t)min_u64(COPY_BYTES, bytes - at);

		r = file_read_at(kept->fd, room, n, kept->at + at);
		if (r == 0)
			r = writer_append(w, room, n);
	}
	return r;
}

static int write_payload(struct writer *w, const struct kept_part *kept, uint8_t *room)
{
	if (kept->fd >= 0)
		return copy_payload(w, kept, room);
	return writer_append(w, kept->part.payload, kept->part.record.bytes);
}

static int write_payloads(struct writer *w, const struct delta_file *f)
{
	_cleanup_(freep) uint8_t *room = malloc(COPY_BYTES);
	int r;

	if (!room)
		return -ENOMEM;
	r = writer_section_begin(w, SECTION_WEIGHTS, FORMAT_PAGE);
	for (size_t i = 0; r == 0 && i < f->n; i++) {
		r = begins_level(f, i) ? writer_level_end(w) : writer_align(w, PART_ALIGNMENT);
		if (r == 0)
			r = write_payload(w, &f->parts[i], room);
	}
	if (r == 0)
		r = writer_section_end(w);
	return r;
}

static int write_sections(
	struct writer *w, const struct delta_file *f, const struct delta_file_parts *p)
{
	int r;

	r = writer_section(w, SECTION_CONFIG, p->config, sizeof(*p->config));
	if (r == 0)
		r = write_records(w, f);
	if (r == 0)
		r = writer_section(w, SECTION_TOKENIZER, p->tokenizer, p->n_tokenizer);
	if (r == 0)
		r = writer_section(w, SECTION_CHAT, p->chat, p->n_chat);
	if (r == 0)
		r = write_certificate(w, f, p);
	if (r == 0)
		r = writer_section(w, SECTION_SELFTEST, p->selftest, p->n_selftest);
	if (r == 0)
		r = write_payloads(w, f);
	return r;
}

int delta_file_write(struct delta_file *f, const struct delta_file_parts *parts, int fd,
	struct format_header *ret_header, struct reason *reason)
{
	_cleanup_(writerp) struct writer *w = NULL;
	uint64_t weights = weights_offset(f, parts);
	uint64_t body;
	int r;

	if (f->n > 0)
		qsort(f->parts, f->n, sizeof(*f->parts), compare_parts);
	number_levels(f);
	r = writer_begin(fd, IMAGE_KIND_DELTA, pages(place_payloads(f, weights)), &w, reason);
	if (r < 0)
		return r;
	writer_expands(w, expanded_bytes(f));
	body = align_up(writer_offset(w), FORMAT_PAGE);
	place_payloads(f, body + weights);
	r = write_sections(w, f, parts);
	if (r < 0)
		return reason_set(reason, r, "cannot write the delta: %s", strerror(-r));
	return writer_finish(w, parts->base, parts->tuned, ret_header, reason);
}
