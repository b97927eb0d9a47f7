#include "tests/breakage.h"

#include "tests/small_image.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

struct breakable breakables[N_BREAKABLES];
static struct base *small_base;

static void read_file(struct breakable *f, enum image_kind kind, int fd)
{
	struct stat st;

	f->kind = kind;
	f->fd = fd;
	assert_int_equal(fstat(f->fd, &st), 0);
	f->n_bytes = (uint64_t)st.st_size;
	f->good = malloc(f->n_bytes);
	f->broken = malloc(f->n_bytes);
	assert_true(f->good && f->broken);
	assert_int_equal(pread(f->fd, f->good, f->n_bytes, 0), f->n_bytes);
	memcpy(&f->header, f->good, sizeof(f->header));
}

/* Loads and binds what the file's descriptor has now. */
int breakable_open(const struct breakable *f, struct reason *reason)
{
	struct image *image = NULL;
	struct delta *delta = NULL;
	struct base *base = NULL;
	size_t before = open_descriptors();
	int r;

	*reason = (struct reason){0};
	r = image_load(f->fd, &image, NULL, reason);
	if (r == 0 && f->kind == IMAGE_KIND_BASE)
		r = base_bind(image, &base, reason);
	else if (r == 0)
		r = delta_bind(image, small_base, &delta, reason);
	if (r < 0)
		image_free(image);
	base_free(base);
	delta_free(delta);
	assert_int_equal(open_descriptors(), before);
	return r;
}

void breakable_restore(const struct breakable *f)
{
	assert_int_equal(ftruncate(f->fd, (off_t)f->n_bytes), 0);
	assert_int_equal(pwrite(f->fd, f->good, f->n_bytes, 0), f->n_bytes);
}

/* Digests of what is broken, so that what stands behind them is reached. */
static void repair_digests(uint8_t *bytes, const struct format_header *good)
{
	struct format_header h;

	for (uint64_t i = 0; i < good->n_chunks; i++) {
		uint64_t n_bytes, at = image_chunk(good, i, &n_bytes);
		struct digest d = digest_of(bytes + at, n_bytes);

		memcpy(bytes + FORMAT_PAGE + i * sizeof(d), &d, sizeof(d));
	}
	memcpy(&h, bytes, sizeof(h));
	assert_int_equal(
		image_root(&h, bytes + FORMAT_PAGE, good->body_offset - FORMAT_PAGE, &h.root), 0);
	memcpy(bytes, &h, sizeof(h));
}

void breakable_write(const struct breakable *f)
{
	repair_digests(f->broken, &f->header);
	assert_int_equal(pwrite(f->fd, f->broken, f->n_bytes, 0), f->n_bytes);
}

const struct format_section *breakable_section(const struct breakable *f, enum section_kind kind)
{
	for (uint32_t i = 0; i < f->header.n_sections; i++)
		if (f->header.sections[i].kind == kind)
			return &f->header.sections[i];
	fail_msg("no section %d", kind);
	return NULL;
}

const struct tensor_record *breakable_record(const struct breakable *f, uint32_t index)
{
	return (const void *)(f->good + breakable_section(f, SECTION_TENSORS)->offset +
			      index * sizeof(struct tensor_record));
}

static uint64_t place_of(const struct breakable *f, const struct breakage *b)
{
	uint64_t record = 0;
	struct tensor_record t;

	switch (b->part) {
	case PART_HEADER:
		return b->offset;
	case PART_CONFIG:
		return breakable_section(f, SECTION_CONFIG)->offset + b->offset;
	case PART_CERTIFICATE:
		return breakable_section(f, SECTION_CERTIFICATE)->offset + b->offset;
	case PART_RECORD:
	case PART_PAYLOAD:
		record = breakable_section(f, SECTION_TENSORS)->offset + b->index * sizeof(t);
		break;
	}
	if (b->part == PART_RECORD)
		return record + b->offset;
	memcpy(&t, f->good + record, sizeof(t));
	return t.offset + b->offset;
}

static void expect_refused(const struct breakable *f, const struct breakage *b)
{
	uint64_t at = place_of(f, b);
	struct reason reason;
	int r;

	memcpy(f->broken, f->good, f->n_bytes);
	memcpy(f->broken + at, &b->value, b->width);
	breakable_write(f);
	r = breakable_open(f, &reason);
	breakable_restore(f);
	if (r != b->error || !strstr(reason.text, b->words))
		fail_msg("%s with %#" PRIx64 " at part %d + %zu: %d '%s', expected %d '%s'",
			f->kind == IMAGE_KIND_BASE ? "base" : "delta", b->value, b->part, b->offset,
			r, reason.text, b->error, b->words);
}

void breakable_expect_refused(const struct breakable *f, const struct breakage *b, size_t n)
{
	for (size_t i = 0; i < n; i++)
		expect_refused(f, &b[i]);
}

uint64_t bits_of_f32(float value)
{
	uint32_t bits;

	memcpy(&bits, &value, sizeof(bits));
	return bits;
}

uint64_t bits_of_f64(double value)
{
	uint64_t bits;

	memcpy(&bits, &value, sizeof(bits));
	return bits;
}

int breakables_make(void **state)
{
	struct image *image;

	(void)state;
	read_file(&breakables[0], IMAGE_KIND_BASE, small_base_file());
	read_file(&breakables[1], IMAGE_KIND_DELTA, small_delta_file());
	read_file(&breakables[2], IMAGE_KIND_BASE, small_coded_base_file());
	assert_int_equal(image_load(breakables[0].fd, &image, NULL, NULL), 0);
	assert_int_equal(base_bind(image, &small_base, NULL), 0);
	return 0;
}

int breakables_free(void **state)
{
	(void)state;
	base_free(small_base);
	for (size_t i = 0; i < array_len(breakables); i++) {
		close(breakables[i].fd);
		free(breakables[i].good);
		free(breakables[i].broken);
	}
	return 0;
}
