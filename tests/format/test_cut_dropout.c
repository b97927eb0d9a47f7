/*
 * Dropped-out tensors that end too early: a file cut at every boundary of a part and at places in
 * between, and parts whose records tell fewer bytes than they need. All are refused, for a reason,
 * without a look past the last byte.
 */
#include "common/random.h"
#include "compress/compress.h"
#include "compress/part_values.h"
#include "store/delta.h"
#include "tests/compute.h"
#include "tests/tiny_pair.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define ROWS 24u
#define COLS 96u
#define GROUP 16u
#define N_KEEP 3u
#define N_RANDOM 200u

static struct part some_part(enum grid_kind grid, bool coded)
{
	const struct part_place place = {.role = ROLE_Q, .rows = ROWS, .cols = COLS};
	uint32_t survivors = COLS / GROUP * N_KEEP;
	struct code_matrix *codes;
	struct survivors s = {.group = GROUP, .n_keep = N_KEEP, .seed = 9};
	struct part part;

	assert_int_equal(code_matrix_new(ROWS, survivors, 4, grid, &codes), 0);
	for (uint32_t i = 0; i < ROWS * survivors; i++)
		codes->codes[i] = random_at(3, i) & 15;
	for (uint32_t i = 0; codes->scales && i < ROWS; i++)
		codes->scales[i] = (uint16_t)(0x3c00 + i);
	codes->zero = 7;
	codes->step = 0.25f;
	s.codes = codes;
	assert_int_equal(part_dropout(&place, &s, coded, &part), 0);
	code_matrix_free(codes);
	return part;
}

/* What a reader makes of the first bytes of a part, with nothing behind them. */
static int read_part(const struct part *part, uint64_t n_bytes)
{
	_cleanup_(freep) uint8_t *payload = malloc(n_bytes ? n_bytes : 1);
	_cleanup_(freep) float *values = calloc((size_t)ROWS * COLS, sizeof(*values));
	struct tensor_record record = part->record;
	struct reason reason = {0};
	int r;

	assert_non_null(payload);
	assert_non_null(values);
	memcpy(payload, part->payload, n_bytes);
	record.bytes = n_bytes;
	r = part_check(&record, &reason);
	if (r == 0)
		r = part_values_apply(NULL, &record, payload, values, &reason);
	assert_int_equal(r < 0, reason.text[0] != '\0');
	return r;
}

static void test_shorter_parts_are_refused(void **state)
{
	static const enum grid_kind grids[] = {GRID_ROW, GRID_MATRIX};

	(void)state;
	for (int i = 0; i < 4; i++) {
		_cleanup_(part_done) struct part part = some_part(grids[i / 2], i % 2);

		assert_int_equal(read_part(&part, part.record.bytes), 0);
		for (uint64_t n = 0; n < part.record.bytes; n++)
			if (read_part(&part, n) != -EBADMSG)
				fail_msg("kind %d: %llu of %llu bytes are taken", i,
					(unsigned long long)n,
					(unsigned long long)part.record.bytes);
	}
}

struct file {
	int fd;
	uint64_t n_bytes;
	uint8_t *bytes;
	struct format_header header;
};

static struct file make_file(void)
{
	const struct compress_settings settings = {
		.method = "deltadq",
		.options = {.ratio = 8},
		.calibration_tokens = 128,
		.window = 32,
		.n_threads = 2,
		.measure = COMPRESS_MEASURE_NEVER,
	};
	struct file f = {.fd = memfd_create("delta", MFD_CLOEXEC)};
	struct tiny_pair pair = tiny_pair("llama-gqa");
	struct compress_report report;
	struct reason reason = {0};

	assert_true(f.fd >= 0);
	if (compress_delta(pair.base, pair.tuned, &settings, f.fd, NULL, &report, &reason) < 0)
		fail_msg("%s", reason.text);
	tiny_pair_done(&pair);
	f.n_bytes = report.file_bytes;
	f.bytes = malloc(f.n_bytes);
	assert_non_null(f.bytes);
	assert_int_equal(pread(f.fd, f.bytes, f.n_bytes, 0), f.n_bytes);
	assert_int_equal(image_peek(f.fd, &f.header, &reason), 0);
	return f;
}

static void expect_cut_refused(const struct file *f, uint64_t n_bytes)
{
	struct reason reason = {0};
	struct image *image;

	if (n_bytes >= f->n_bytes)
		return;
	assert_int_equal(ftruncate(f->fd, (off_t)n_bytes), 0);
	if (image_load(f->fd, &image, NULL, &reason) != -EBADMSG || !reason.text[0])
		fail_msg("cut to %llu of %llu bytes: '%s'", (unsigned long long)n_bytes,
			(unsigned long long)f->n_bytes, reason.text);
	assert_int_equal(pwrite(f->fd, f->bytes, f->n_bytes, 0), f->n_bytes);
}

static const struct format_section *section_of(const struct file *f, enum section_kind kind)
{
	for (uint32_t i = 0; i < f->header.n_sections; i++)
		if (f->header.sections[i].kind == (uint32_t)kind)
			return &f->header.sections[i];
	fail_msg("no section %d", kind);
	return NULL;
}

static void test_cut_files_are_refused(void **state)
{
	struct file f = make_file();
	const struct format_section *tensors = section_of(&f, SECTION_TENSORS);
	uint64_t weights = section_of(&f, SECTION_WEIGHTS)->offset, n_dropped = 0;

	(void)state;
	for (uint64_t i = 0; i < tensors->bytes / sizeof(struct tensor_record); i++) {
		struct tensor_record record;
		uint64_t begin, values;

		memcpy(&record, f.bytes + tensors->offset + i * sizeof(record), sizeof(record));
		if (record.codec != CODEC_DROPOUT)
			continue;
		n_dropped++;
		begin = weights + record.offset;
		values = begin + part_layout(&record).values;
		for (uint64_t near = 0; near < 3; near++) {
			expect_cut_refused(&f, begin + near - 1);
			expect_cut_refused(&f, values + near - 1);
			expect_cut_refused(&f, begin + record.bytes + near - 1);
		}
	}
	assert_true(n_dropped > 0);
	for (uint64_t i = 0; i < N_RANDOM; i++)
		expect_cut_refused(&f, random_at(11, i) % f.n_bytes);
	close(f.fd);
	free(f.bytes);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_shorter_parts_are_refused),
		cmocka_unit_test(test_cut_files_are_refused),
	};

	return cmocka_run_group_tests(tests, compute_load, NULL);
}
