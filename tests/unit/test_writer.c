#include "store/part.h"
#include "store/writer.h"
#include "store/delta.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cmocka.h>

#define N_BYTES (2 * FORMAT_CHUNK + 5000)

static const struct digest model = {.bytes = {7}};
static const struct digest tuned = {.bytes = {9}};

/* Byte i of what is appended. */
static uint8_t content(uint64_t i)
{
	return (uint8_t)(i * 2654435761u >> 11);
}

static void append_content(struct writer *w, uint64_t n)
{
	uint8_t piece[777];

	for (uint64_t at = 0; at < n; at += sizeof(piece)) {
		uint64_t n_piece = min_u64(sizeof(piece), n - at);

		for (uint64_t i = 0; i < n_piece; i++)
			piece[i] = content(at + i);
		assert_int_equal(writer_append(w, piece, n_piece), 0);
	}
}

static uint8_t *read_all(int fd, uint64_t *ret_n)
{
	struct stat st;
	uint8_t *bytes;

	assert_int_equal(fstat(fd, &st), 0);
	bytes = malloc((size_t)st.st_size);
	assert_non_null(bytes);
	assert_int_equal(pread(fd, bytes, (size_t)st.st_size, 0), st.st_size);
	*ret_n = (uint64_t)st.st_size;
	return bytes;
}

/* By the words of format.h, without the code that loads. */
static void file_is_what_the_format_says(void **state)
{
	_cleanup_(closep) int fd = memfd_create("writer", MFD_CLOEXEC);
	_cleanup_(freep) uint8_t *bytes = NULL;
	struct format_header h;
	struct writer *w;
	uint8_t page[4096];
	struct digest_state *root = digest_new();
	struct digest d;
	uint64_t n;

	(void)state;
	assert_int_equal(ftruncate(fd, 64 << 20), 0); /* a longer file that is written over */
	assert_int_equal(writer_begin(fd, IMAGE_KIND_DELTA, N_BYTES + 64, &w, NULL), 0);
	assert_int_equal(writer_section_begin(w, SECTION_CONFIG, FORMAT_PAGE), 0);
	assert_int_equal(writer_append(w, NULL, 100), 0);
	assert_int_equal(writer_align(w, 64), 0);
	assert_int_equal(writer_section_end(w), 0);
	assert_int_equal(writer_section_begin(w, SECTION_WEIGHTS, 1 << 16), 0);
	append_content(w, N_BYTES);
	assert_int_equal(writer_section_end(w), 0);
	assert_int_equal(writer_finish(w, &model, &tuned, &h, NULL), 0);
	writer_free(w);

	bytes = read_all(fd, &n);
	assert_memory_equal(bytes, &h, sizeof(h));
	assert_memory_equal(h.magic, "DELTDIFF", 8);
	assert_int_equal(h.file_bytes, n);
	assert_int_equal(n % 4096, 0);
	assert_int_equal(h.n_sections, 2);
	assert_int_equal(h.sections[0].bytes, 128);
	assert_int_equal(h.sections[1].offset % (1 << 16), 0);
	assert_int_equal(h.sections[1].bytes, N_BYTES);
	for (uint64_t i = 0; i < N_BYTES; i++)
		assert_int_equal(bytes[h.sections[1].offset + i], content(i));
	assert_memory_equal(&h.model, &model, sizeof(model));
	assert_memory_equal(&h.tuned, &tuned, sizeof(tuned));

	assert_int_equal(h.n_chunks, (n - h.body_offset + (1 << 20) - 1) >> 20);
	for (uint64_t i = 0; i < h.n_chunks; i++) {
		uint64_t at = h.body_offset + (i << 20);

		d = digest_of(bytes + at, at + (1 << 20) < n ? 1 << 20 : n - at);
		assert_memory_equal(bytes + 4096 + 32 * i, &d, 32);
	}
	memcpy(page, bytes, sizeof(page));
	memset(page + offsetof(struct format_header, root), 0, 32);
	digest_add(root, page, sizeof(page));
	digest_add(root, bytes + 4096, h.body_offset - 4096);
	d = digest_finish(root);
	assert_memory_equal(&h.root, &d, 32);
}

static void more_than_was_announced_is_refused(void **state)
{
	_cleanup_(closep) int fd = memfd_create("writer", MFD_CLOEXEC);
	struct reason reason = {0};
	struct writer *w;
	int r = 0;

	(void)state;
	assert_int_equal(writer_begin(fd, IMAGE_KIND_BASE, FORMAT_MAX_FILE, &w, &reason), -EFBIG);
	assert_true(reason.text[0] != '\0');
	assert_int_equal(writer_begin(fd, IMAGE_KIND_DELTA, FORMAT_CHUNK, &w, NULL), 0);
	assert_int_equal(writer_section_begin(w, SECTION_WEIGHTS, FORMAT_PAGE), 0);
	for (int i = 0; r == 0 && i < 64; i++)
		r = writer_append(w, NULL, FORMAT_CHUNK);
	assert_int_equal(r, -EFBIG);
	writer_free(w);
}

static void a_full_disk_is_told(void **state)
{
	_cleanup_(closep) int fd = open("/dev/full", O_RDWR | O_CLOEXEC);
	struct reason reason = {0};
	struct writer *w;

	(void)state;
	assert_true(fd >= 0);
	assert_int_equal(writer_begin(fd, IMAGE_KIND_DELTA, 4 * FORMAT_CHUNK, &w, NULL), 0);
	assert_int_equal(writer_section_begin(w, SECTION_WEIGHTS, FORMAT_PAGE), 0);
	assert_int_equal(writer_append(w, NULL, 2 * FORMAT_CHUNK), -ENOSPC);
	writer_free(w);

	assert_int_equal(writer_begin(fd, IMAGE_KIND_DELTA, 100, &w, NULL), 0);
	assert_int_equal(writer_section_begin(w, SECTION_WEIGHTS, FORMAT_PAGE), 0);
	assert_int_equal(writer_append(w, "x", 1), 0);
	assert_int_equal(writer_section_end(w), 0);
	assert_int_equal(writer_finish(w, &model, &tuned, NULL, &reason), -ENOSPC);
	assert_non_null(strstr(reason.text, "No space left"));
	writer_free(w);
}

/* Counted by hand: 130 columns are 2 groups, 60 rows one; a group takes 16 bytes a bit. */
static void factors_are_laid_out_without_gaps_but_alignment(void **state)
{
	struct tensor_record t = {.codec = CODEC_FACTORS,
		.n = 17,
		.bits = 3,
		.grid = GRID_GROUP,
		.rows = 60,
		.cols = 130};
	struct part_layout l = part_layout(&t);

	(void)state;
	assert_int_equal(l.sigma, 0);       /* 68 bytes */
	assert_int_equal(l.v.codes, 128);   /* 17 * 2 * 48 = 1632 */
	assert_int_equal(l.v.scales, 1792); /* 68 */
	assert_int_equal(l.v.zeros, 1920);  /* 34 */
	assert_int_equal(l.u.codes, 1984);  /* 17 * 48 = 816 */
	assert_int_equal(l.u.scales, 2816); /* 34 */
	assert_int_equal(l.u.zeros, 2880);  /* 17 */
	assert_int_equal(l.end, 2944);
	assert_int_equal(l.expanded_bytes, 0);
	t.grid = GRID_MATRIX;
	t.coding = CODING_STREAM;
	l = part_layout(&t);
	assert_int_equal(l.sigma, 8);
	assert_int_equal(l.end, 8 + 34);
	assert_int_equal(l.expanded_bytes, 128 + 1664 + 832); /* sigma, v, u */
}

static void rows_and_codes_are_laid_out_by_hand(void **state)
{
	struct tensor_record t = {.codec = CODEC_ROWS, .n = 17, .rows = 20, .cols = 3};
	struct part_layout l = part_layout(&t);

	(void)state;
	/* 17 numbers of rows take 68 bytes; two blocks of 16 rows by 2 pairs of columns. */
	assert_int_equal(l.values, 128);
	assert_int_equal(l.end, 128 + 2 * 2 * 64);
	t.n = 20;
	assert_int_equal(part_layout(&t).values, 0);
	assert_int_equal(mat_bf16_bytes(16, 2), 64);
	assert_int_equal(mat_bf16_bytes(1, 1), 64);

	t = (struct tensor_record){.codec = CODEC_CODES,
		.n = 5,
		.rows = 600,
		.cols = 130,
		.bits = 2,
		.grid = GRID_ROW};
	l = part_layout(&t);
	assert_int_equal(l.list, 0);       /* 75 bytes */
	assert_int_equal(l.v.codes, 128);  /* 5 * 2 * 32 */
	assert_int_equal(l.v.scales, 448); /* 10 */
	assert_int_equal(l.end, 512);
	assert_int_equal(l.expanded_bytes, 64); /* 5 numbers of rows */
	t.coding = CODING_STREAM;
	l = part_layout(&t);
	assert_int_equal(l.v.scales, 0);
	assert_int_equal(l.list, 10);
	assert_int_equal(l.end, 10 + 75);
	assert_int_equal(l.expanded_bytes, 64 + 320);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(file_is_what_the_format_says),
		cmocka_unit_test(more_than_was_announced_is_refused),
		cmocka_unit_test(a_full_disk_is_told),
		cmocka_unit_test(factors_are_laid_out_without_gaps_but_alignment),
		cmocka_unit_test(rows_and_codes_are_laid_out_by_hand),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
