/*
 * Files broken as a whole: headers, configs, lengths, single bytes. Each is refused with the right
 * error, for a reason that says what was found, without asking for more memory than the file is
 * long.
 */
#include "tests/breakage.h"

#include <inttypes.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

/* Views of FORMAT_MAX_LAYERS layers: the one thing that is not bounded by the file's size. */
#define MOST_VIEW_BYTES (UINT64_C(4) << 20)

static size_t largest_request;

/* Sanitizers bring an allocator of their own, which must not be replaced. */
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define OWN_ALLOCATOR
#endif
#elif defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define OWN_ALLOCATOR
#endif

#ifndef OWN_ALLOCATOR
extern void *__libc_malloc(size_t n);
extern void *__libc_calloc(size_t n, size_t size);

void *malloc(size_t n)
{
	if (n > largest_request)
		largest_request = n;
	return __libc_malloc(n);
}

void *calloc(size_t n, size_t size)
{
	if (size && n > largest_request / size)
		largest_request = n * size;
	return __libc_calloc(n, size);
}
#endif

static int open_checked(const struct breakable *f, struct reason *reason)
{
	int r;

	largest_request = 0;
	r = breakable_open(f, reason);
	assert_true(largest_request <= max_u64(f->n_bytes, MOST_VIEW_BYTES));
	return r;
}

static void good_files_are_taken(void **state)
{
	struct reason reason;

	(void)state;
	assert_int_equal(open_checked(&breakables[0], &reason), 0);
	assert_int_equal(open_checked(&breakables[1], &reason), 0);
}

static void broken_headers_are_refused(void **state)
{
	struct breakable *f = &breakables[0];
	uint64_t n = f->n_bytes, body = f->header.body_offset;
	const struct breakage cases[] = {
		HEADER(magic, 1, 'd', BAD, "magic is 'dELTBASE'"),
		HEADER(magic[4], 4, 0x31323334, BAD, "magic"),
		HEADER(version, 4, 2, UNKNOWN, "version 2, this program reads version 1"),
		HEADER(version, 4, 0, UNKNOWN, "version 0"),
		HEADER(file_bytes, 8, n + 4096, BAD, "the last level ends at"),
		HEADER(file_bytes, 8, 0, BAD, "the file's 0 bytes"),
		HEADER(file_bytes, 8, UINT64_MAX, BAD, "file of 18446744073709551615 bytes"),
		HEADER(body_offset, 8, body + 1, BAD, "expected a multiple of 4096"),
		HEADER(body_offset, 8, 0, BAD, "body at 0"),
		HEADER(body_offset, 8, 4096, BAD, "body at 4096"),
		HEADER(body_offset, 8, n, BAD, "body at"),
		HEADER(body_offset, 8, UINT64_MAX - 4095, BAD, "body at"),
		HEADER(n_levels, 4, 0, BAD, "0 levels, expected 1 to 1"),
		HEADER(n_levels, 4, 2, BAD, "2 levels, expected 1 to 1"),
		HEADER(reserved, 4, 1, BAD, "bytes after its 1 levels are not zero"),
		HEADER(level_end[1], 8, n, BAD, "bytes after its 1 levels are not zero"),
		HEADER(level_end[0], 8, n - 4096, BAD, "the last level ends at"),
		HEADER(level_end[0], 8, 0, BAD, "level 0 ends at 0"),
		HEADER(expanded_bytes, 8, 64, BAD, "a base image expands, expected 0 bytes"),
		HEADER(n_chunks, 8, f->header.n_chunks + 1, BAD, "chunks, a body of"),
		HEADER(n_chunks, 8, UINT64_MAX, BAD, "chunks, a body of"),
		HEADER(n_chunks, 8, 0, BAD, "0 chunks"),
		HEADER(n_sections, 4, 17, BAD, "17 sections, at most 16"),
		HEADER(n_sections, 4, UINT32_MAX, BAD, "sections, at most 16"),
		HEADER(n_sections, 4, 4, UNKNOWN, "unknown kind 0"),
		HEADER(n_sections, 4, 2, BAD, "bytes after its 2 sections are not zero"),
		HEADER(sections[1].kind, 4, 8, UNKNOWN, "unknown kind 8"),
		HEADER(sections[1].kind, 4, SECTION_CERTIFICATE, BAD, "has no certificate"),
		HEADER(sections[1].kind, 4, SECTION_CONFIG, BAD, "section 1 after section 1"),
		HEADER(sections[0].kind, 4, SECTION_SELFTEST, BAD, "section 2 after section 6"),
		HEADER(sections[0].reserved, 4, 1, BAD, "reserved"),
		HEADER(sections[0].offset, 8, body + 64, BAD, "expected a multiple of 4096"),
		HEADER(sections[2].offset, 8, body + 8192, BAD, "expected a multiple of 2097152"),
		HEADER(sections[0].offset, 8, 4096, BAD, "free are"),
		HEADER(sections[0].bytes, 8, 4097, BAD, "free are"),
		HEADER(sections[1].offset, 8, body, BAD, "free are"),
		HEADER(sections[2].offset, 8, 4 << 20, BAD, "level 0 ends at"),
		HEADER(sections[2].bytes, 8, n, BAD, "free are"),
		HEADER(sections[2].bytes, 8, UINT64_MAX, BAD, "free are"),
		HEADER(sections[2].offset, 8, -(UINT64_C(2) << 20), BAD, "level 0 ends at"),
		HEADER(sections[3].kind, 4, 1, BAD, "not zero"),
		HEADER(tuned, 1, 1, BAD, "a digest of the values as served, but none are codes"),
		{PART_HEADER, 0, 4095, 1, 1, BAD, "not zero"},
	};

	(void)state;
	largest_request = 0;
	breakable_expect_refused(f, cases, array_len(cases));
	assert_true(largest_request <= max_u64(f->n_bytes, MOST_VIEW_BYTES));
}

static void broken_configs_are_refused(void **state)
{
	const struct breakage cases[] = {
		CONFIG(family, 0, UNKNOWN, "model family 0"),
		CONFIG(family, 6, UNKNOWN, "model family 6"),
		CONFIG(flags, 1 << 5, UNKNOWN, "unknown flags 0x20"),
		CONFIG(n_layers, 0, BAD, "n_layers is 0, expected 1 to 1024"),
		CONFIG(n_layers, 1025, BAD, "n_layers is 1025"),
		CONFIG(n_layers, 1024, BAD, "no such tensor"),
		CONFIG(hidden, 0, BAD, "hidden is 0"),
		CONFIG(hidden, UINT32_MAX, BAD, "hidden is 4294967295"),
		CONFIG(hidden, 73, BAD, "layer 0 embed: is 301 x 71, the config makes it 301 x 73"),
		CONFIG(ffn, 0, BAD, "ffn is 0"),
		CONFIG(n_heads, 0, BAD, "n_heads is 0"),
		CONFIG(n_kv_heads, 0, BAD, "n_kv_heads is 0"),
		CONFIG(n_kv_heads, 3, BAD, "not a multiple of n_kv_heads 3"),
		CONFIG(n_kv_heads, 8, BAD, "n_kv_heads is 8, expected 1 to 4"),
		CONFIG(head_dim, 21, BAD, "head_dim is 21, expected an even number"),
		CONFIG(head_dim, 1 << 13, BAD, "head_dim is 8192"),
		CONFIG(vocab, 0, BAD, "vocab is 0"),
		CONFIG(vocab, 1 << 25, BAD, "vocab is 33554432"),
		CONFIG(max_positions, 0, BAD, "max_positions is 0"),
		CONFIG(sliding_window, UINT32_MAX, BAD, "sliding_window"),
		CONFIG(first_window_layer, 3, BAD, "first_window_layer is 3, expected 0 to 2"),
		CONFIG(rope_kind, 4, UNKNOWN, "rope_kind 4"),
		CONFIG(rope_kind, ROPE_KIND_LINEAR, BAD, "rope_factor is 0"),
		CONFIG(rope_theta, bits_of_f64(0), BAD, "rope_theta is 0"),
		CONFIG(rope_theta, bits_of_f64(INFINITY), BAD, "rope_theta is inf"),
		CONFIG(rope_attention_factor, bits_of_f32(NAN), BAD,
			"rope_attention_factor is nan"),
		CONFIG(norm_eps, bits_of_f32(-1), BAD, "norm_eps is -1"),
		CONFIG(bos, 301, BAD, "bos is token 301, expected -1 to 300"),
		CONFIG(bos, (uint32_t)-2, BAD, "bos is token -2"),
		CONFIG(pad, INT32_MAX, BAD, "pad is token"),
		CONFIG(n_eos, 9, BAD, "n_eos is 9"),
		CONFIG(eos[0], (uint32_t)-1, BAD, "eos is token -1, expected 0 to 300"),
		HEADER(sections[0].bytes, 8, 135, BAD, "the section has 135 bytes, expected 136"),
		HEADER(sections[0].kind, 4, 0, UNKNOWN, "unknown kind 0"),
	};

	(void)state;
	largest_request = 0;
	breakable_expect_refused(&breakables[0], cases, array_len(cases));
	assert_true(largest_request <= max_u64(breakables[0].n_bytes, MOST_VIEW_BYTES));
}

static void the_other_kind_is_refused(void **state)
{
	struct image *image;
	struct delta *delta;
	struct base *base;
	struct reason reason;

	(void)state;
	assert_int_equal(image_load(breakables[0].fd, &image, NULL, &reason), 0);
	assert_int_equal(delta_bind(image, NULL, &delta, &reason), -EMEDIUMTYPE);
	assert_non_null(strstr(reason.text, "is a base image, expected a delta file"));
	image_free(image);
	assert_int_equal(image_load(breakables[1].fd, &image, NULL, &reason), 0);
	assert_int_equal(base_bind(image, &base, &reason), -EMEDIUMTYPE);
	assert_non_null(strstr(reason.text, "is a delta file, expected a base image"));
	image_free(image);
}

static void expect_length_refused(const struct breakable *f, uint64_t n_bytes)
{
	struct reason reason;
	int r;

	/* Cut where a level ends, a delta is whole: test_image looks at that. */
	if (image_levels(&f->header, n_bytes) > 0)
		return;
	assert_int_equal(ftruncate(f->fd, (off_t)n_bytes), 0);
	r = open_checked(f, &reason);
	breakable_restore(f);
	if (r != -EBADMSG || !strstr(reason.text, "bytes"))
		fail_msg("length %" PRIu64 ": %d '%s'", n_bytes, r, reason.text);
}

static void cut_and_grown_files_are_refused(void **state)
{
	(void)state;
	for (size_t i = 0; i < array_len(breakables); i++) {
		const struct breakable *f = &breakables[i];
		const struct format_header *h = &f->header;
		const uint64_t lengths[] = {0, 1, FORMAT_PAGE - 1, FORMAT_PAGE, FORMAT_PAGE + 1,
			h->body_offset - 1, h->body_offset, h->body_offset + 1,
			f->n_bytes - FORMAT_PAGE, f->n_bytes - 1, f->n_bytes + 1,
			f->n_bytes + FORMAT_PAGE, f->n_bytes + FORMAT_CHUNK};

		for (size_t k = 0; k < array_len(lengths); k++)
			expect_length_refused(f, lengths[k]);
		for (uint32_t k = 0; k < h->n_sections; k++) {
			expect_length_refused(f, h->sections[k].offset);
			expect_length_refused(f, h->sections[k].offset + h->sections[k].bytes / 2);
		}
	}
}

static void expect_flip_refused(const struct breakable *f, uint64_t at)
{
	uint8_t flipped = f->good[at] ^ (uint8_t)(1u << at % 8);
	struct reason reason;
	int r;

	assert_int_equal(pwrite(f->fd, &flipped, 1, (off_t)at), 1);
	r = open_checked(f, &reason);
	assert_int_equal(pwrite(f->fd, &f->good[at], 1, (off_t)at), 1);
	if ((r != -EBADMSG && r != -EOPNOTSUPP) || !reason.text[0])
		fail_msg("flip at %" PRIu64 ": %d '%s'", at, r, reason.text);
	if (at >= f->header.body_offset && !strstr(reason.text, "does not match its digest"))
		fail_msg("flip at %" PRIu64 ": '%s'", at, reason.text);
}

static void every_flipped_byte_is_noticed(void **state)
{
	(void)state;
	for (size_t i = 0; i < array_len(breakables); i++) {
		const struct breakable *f = &breakables[i];

		for (uint64_t at = 0; at < sizeof(struct format_header); at++)
			expect_flip_refused(f, at);
		for (uint64_t at = FORMAT_PAGE; at < f->header.body_offset; at += 61)
			expect_flip_refused(f, at);
		for (uint64_t at = f->header.body_offset; at < f->n_bytes; at += f->n_bytes / 97)
			expect_flip_refused(f, at);
		expect_flip_refused(f, f->n_bytes - 1);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(good_files_are_taken),
		cmocka_unit_test(broken_headers_are_refused),
		cmocka_unit_test(broken_configs_are_refused),
		cmocka_unit_test(the_other_kind_is_refused),
		cmocka_unit_test(cut_and_grown_files_are_refused),
		cmocka_unit_test(every_flipped_byte_is_noticed),
	};

	return cmocka_run_group_tests(tests, breakables_make, breakables_free);
}
