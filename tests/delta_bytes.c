#include "tests/delta_bytes.h"

#include "foreign/json.h"
#include "store/format.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define MAX_SPANS 1024
#define DIGEST_BYTES 32u
#define RECORD_BYTES 64u
#define PAYLOAD_ALIGNMENT 64u

struct span {
	const char *name;
	uint64_t begin, end;
	uint64_t alignment; /* of its beginning */
};

struct spans {
	struct span items[MAX_SPANS];
	size_t n;
};

struct file {
	const uint8_t *bytes;
	uint64_t n;
};

static uint64_t number(const json_t *object, const char *key)
{
	const json_t *value = json_object_get(object, key);

	if (!json_is_integer(value) || json_integer_value(value) < 0)
		fail_msg("inspect: %s is not a count", key);
	return (uint64_t)json_integer_value(value);
}

static void add(struct spans *s, const char *name, uint64_t begin, uint64_t n, uint64_t alignment)
{
	assert_true(s->n < MAX_SPANS);
	s->items[s->n++] = (struct span){name, begin, begin + n, alignment};
}

/* Chunks that the levels have, none in two of them. */
static uint64_t count_chunks(const json_t *levels, uint64_t body)
{
	uint64_t n = 0, begin = body;

	for (size_t i = 0; i < json_array_size(levels); i++) {
		uint64_t end = number(json_array_get(levels, i), "file_bytes");

		assert_true(end > begin);
		n += (end - begin + FORMAT_CHUNK - 1) / FORMAT_CHUNK;
		begin = end;
	}
	return n;
}

static void add_sections(struct spans *s, const json_t *sections)
{
	for (size_t i = 0; i < json_array_size(sections); i++) {
		const json_t *section = json_array_get(sections, i);
		const char *name = json_string_value(json_object_get(section, "section"));

		if (strcmp(name, "weights") != 0)
			add(s, name, number(section, "offset"), number(section, "bytes"),
				FORMAT_PAGE);
	}
}

/* A level begins on a page, and ends before the next. */
static void add_payloads(struct spans *s, const json_t *tensors, const json_t *levels)
{
	uint64_t last = 0;

	for (size_t i = 0; i < json_array_size(tensors); i++) {
		const json_t *t = json_array_get(tensors, i);
		uint64_t level = number(t, "level"), offset = number(t, "offset");
		uint64_t n = number(t, "bytes");
		bool first = i == 0 || level != last;

		add(s, json_string_value(json_object_get(t, "role")), offset, n,
			first ? FORMAT_PAGE : PAYLOAD_ALIGNMENT);
		assert_true(offset + n <= number(json_array_get(levels, level), "file_bytes"));
		if (level > 0)
			assert_true(
				offset >= number(json_array_get(levels, level - 1), "file_bytes"));
		last = level;
	}
}

static int by_place(const void *left, const void *right)
{
	const struct span *a = left, *b = right;

	return a->begin < b->begin ? -1 : a->begin > b->begin;
}

static void check_gap(const struct file *f, const struct span *before, uint64_t end,
	uint64_t alignment, const char *name)
{
	if (end < before->end || end - before->end >= alignment || end % alignment != 0)
		fail_msg("%s ends at %llu, %s is at %llu", before->name,
			(unsigned long long)before->end, name, (unsigned long long)end);
	for (uint64_t i = before->end; i < end; i++)
		if (f->bytes[i] != 0)
			fail_msg("byte %llu, between %s and %s, belongs to nobody",
				(unsigned long long)i, before->name, name);
}

static void check_tiles(struct spans *s, const struct file *f)
{
	qsort(s->items, s->n, sizeof(s->items[0]), by_place);
	assert_int_equal(s->items[0].begin, 0);
	for (size_t i = 1; i < s->n; i++)
		check_gap(f, &s->items[i - 1], s->items[i].begin, s->items[i].alignment,
			s->items[i].name);
	check_gap(f, &s->items[s->n - 1], f->n, FORMAT_PAGE, "the end");
}

static bool is_outer(const char *role)
{
	return strcmp(role, "embed") == 0 || strcmp(role, "head") == 0;
}

static bool is_projection(const char *role)
{
	static const char *const roles[] = {"q", "k", "v", "o", "gate", "up", "down"};

	for (size_t i = 0; i < array_len(roles); i++)
		if (strcmp(role, roles[i]) == 0)
			return true;
	return false;
}

static void check_totals(const json_t *document, const json_t *tensors, uint64_t n_file)
{
	const json_t *totals = json_object_get(document, "totals");
	uint64_t projections = 0, outer = 0, expanded = 0;

	for (size_t i = 0; i < json_array_size(tensors); i++) {
		const json_t *t = json_array_get(tensors, i);
		const char *role = json_string_value(json_object_get(t, "role"));
		uint64_t n = number(t, "bytes") + RECORD_BYTES;

		projections += is_projection(role) ? n : 0;
		outer += is_outer(role) ? n : 0;
		expanded += number(t, "expanded_bytes");
	}
	assert_int_equal(number(document, "file_bytes"), n_file);
	assert_int_equal(number(totals, "file_bytes"), n_file);
	assert_int_equal(number(totals, "projection_bytes"), projections);
	assert_int_equal(
		number(json_object_get(document, "certificate"), "projection_bytes"), projections);
	assert_int_equal(number(totals, "embedding_bytes"), outer);
	assert_int_equal(number(totals, "rest_bytes"), n_file - projections - outer);
	assert_int_equal(number(totals, "memory_bytes"), n_file + expanded);
}

static struct file map_file(const char *path)
{
	_cleanup_(closep) int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	struct file f;

	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &st), 0);
	f.n = (uint64_t)st.st_size;
	f.bytes = mmap(NULL, f.n, PROT_READ, MAP_PRIVATE, fd, 0);
	assert_true(f.bytes != MAP_FAILED);
	return f;
}

uint64_t delta_bytes_check(const char *path, const char *inspected)
{
	_cleanup_(json_freep) json_t *document = json_loads(inspected, 0, NULL);
	const json_t *sections = json_object_get(document, "sections");
	const json_t *tensors = json_object_get(document, "tensors");
	const json_t *levels = json_object_get(document, "levels");
	static struct spans spans;
	struct file f = map_file(path);
	uint64_t body;

	assert_non_null(document);
	assert_true(json_array_size(sections) > 0);
	body = number(json_array_get(sections, 0), "offset");
	spans.n = 0;
	add(&spans, "header", 0, FORMAT_PAGE, FORMAT_PAGE);
	add(&spans, "digests", FORMAT_PAGE, DIGEST_BYTES * count_chunks(levels, body), FORMAT_PAGE);
	add_sections(&spans, sections);
	add_payloads(&spans, tensors, levels);
	check_tiles(&spans, &f);
	check_totals(document, tensors, f.n);
	munmap((void *)(uintptr_t)f.bytes, f.n);
	return f.n;
}
