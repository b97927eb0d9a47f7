#include "compress/delta_file.h"

#include "store/writer.h"

#include <string.h>

#define PAYLOAD_ALIGNMENT 64u

struct entry {
	struct tensor_record record;
	struct tensor_quality quality;
	uint8_t *payload;
};

struct delta_file {
	struct entry *entries;
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
		free(f->entries[i].payload);
	free(f->entries);
	free(f);
	return NULL;
}

int delta_file_add(struct delta_file *f, const struct tensor_record *record,
	const struct tensor_quality *quality, uint8_t *payload, uint64_t n_payload)
{
	if (f->n == f->room) {
		size_t room = 2 * f->room + 16;
		struct entry *grown = realloc(f->entries, room * sizeof(*grown));

		if (!grown) {
			free(payload);
			return -ENOMEM;
		}
		f->entries = grown;
		f->room = room;
	}
	f->entries[f->n] =
		(struct entry){.record = *record, .quality = *quality, .payload = payload};
	f->entries[f->n].record.bytes = n_payload;
	f->n++;
	return 0;
}

uint64_t delta_file_bytes(const struct delta_file *f, bool (*of)(enum tensor_role role))
{
	uint64_t sum = 0;

	for (size_t i = 0; i < f->n; i++)
		if (of((enum tensor_role)f->entries[i].record.role))
			sum += f->entries[i].record.bytes;
	return sum;
}

static int compare_entries(const void *left, const void *right)
{
	const struct tensor_record *a = &((const struct entry *)left)->record;
	const struct tensor_record *b = &((const struct entry *)right)->record;

	if (a->layer != b->layer)
		return a->layer < b->layer ? -1 : 1;
	return a->role < b->role ? -1 : a->role > b->role;
}

static uint64_t pages(uint64_t n_bytes)
{
	return align_up(n_bytes, FORMAT_PAGE);
}

static uint64_t certificate_bytes(const struct delta_file *f, const struct delta_file_parts *p)
{
	return p->certificate ? sizeof(*p->certificate) + f->n * sizeof(struct tensor_quality) : 0;
}

/* Where the payloads begin, counted from the body's beginning. */
static uint64_t weights_offset(const struct delta_file *f, const struct delta_file_parts *p)
{
	return pages(sizeof(*p->config)) + pages(f->n * sizeof(struct tensor_record)) +
	       pages(p->n_tokenizer) + pages(p->n_chat) + pages(certificate_bytes(f, p)) +
	       pages(p->n_selftest);
}

/* Sets each record's offset, given where the payloads begin; returns where they end. */
static uint64_t place_payloads(struct delta_file *f, uint64_t begin)
{
	uint64_t at = begin;

	for (size_t i = 0; i < f->n; i++) {
		struct tensor_record *record = &f->entries[i].record;

		record->offset = at;
		at = align_up(at + record->bytes, PAYLOAD_ALIGNMENT);
	}
	return at;
}

static int write_records(struct writer *w, const struct delta_file *f)
{
	int r;

	r = writer_section_begin(w, SECTION_TENSORS, FORMAT_PAGE);
	for (size_t i = 0; r == 0 && i < f->n; i++)
		r = writer_append(w, &f->entries[i].record, sizeof(struct tensor_record));
	if (r == 0)
		r = writer_section_end(w);
	return r;
}

static int write_certificate(
	struct writer *w, const struct delta_file *f, const struct certificate *certificate)
{
	int r;

	if (!certificate)
		return 0;
	r = writer_section_begin(w, SECTION_CERTIFICATE, FORMAT_PAGE);
	if (r == 0)
		r = writer_append(w, certificate, sizeof(*certificate));
	for (size_t i = 0; r == 0 && i < f->n; i++)
		r = writer_append(w, &f->entries[i].quality, sizeof(struct tensor_quality));
	if (r == 0)
		r = writer_section_end(w);
	return r;
}

static int write_payloads(struct writer *w, const struct delta_file *f)
{
	int r;

	r = writer_section_begin(w, SECTION_WEIGHTS, FORMAT_PAGE);
	for (size_t i = 0; r == 0 && i < f->n; i++) {
		r = writer_align(w, PAYLOAD_ALIGNMENT);
		if (r == 0)
			r = writer_append(w, f->entries[i].payload, f->entries[i].record.bytes);
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
		r = write_certificate(w, f, p->certificate);
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
		qsort(f->entries, f->n, sizeof(*f->entries), compare_entries);
	r = writer_begin(fd, IMAGE_KIND_DELTA, pages(place_payloads(f, weights)), &w, reason);
	if (r < 0)
		return r;
	body = align_up(writer_offset(w), FORMAT_PAGE);
	place_payloads(f, body + weights);
	r = write_sections(w, f, parts);
	if (r < 0)
		return reason_set(reason, r, "cannot write the delta: %s", strerror(-r));
	return writer_finish(w, parts->base, parts->tuned, ret_header, reason);
}
