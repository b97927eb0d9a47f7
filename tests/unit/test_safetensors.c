/*
 * Every rule of the safetensors format, broken one at a time.
 */
#include "foreign/safetensors.h"

#include "foreign/safetensors_numbers.h"
#include "tests/scratch.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static char *folder;

static int set_up(void **state)
{
	(void)state;
	folder = scratch_folder();
	return folder ? 0 : -1;
}

static int tear_down(void **state)
{
	(void)state;
	scratch_remove(folder);
	free(folder);
	return 0;
}

/* A file of the given header, a length that may lie, and n zero bytes of data. */
static char *write_file(const char *name, uint64_t length, const char *header, size_t n_data)
{
	size_t n_header = strlen(header);
	uint8_t *bytes = calloc(1, 8 + n_header + n_data);
	char *path;

	memcpy(bytes, &length, 8);
	memcpy(bytes + 8, header, n_header);
	for (size_t i = 0; i < n_data; i++)
		bytes[8 + n_header + i] = (uint8_t)i;
	path = scratch_write(folder, name, bytes, 8 + n_header + n_data);
	free(bytes);
	return path;
}

static void expect_refusal(const char *path, int error, const char *words)
{
	struct safetensors *s = NULL;
	struct reason reason = {0};
	int r = safetensors_open(path, &s, &reason);

	if (r != error || !strstr(reason.text, words))
		fail_msg("got %d '%s', expected %d '%s'", r, reason.text, error, words);
	assert_null(s);
	assert_non_null(strstr(reason.text, path));
}

#define TENSOR(name, dtype, shape, begin, end)                                                     \
	"\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #begin      \
	"," #end "]}"

static const struct {
	const char *header;
	size_t n_data;
	int error;
	const char *words;
} broken[] = {
	{"[]", 0, -EBADMSG, "does not begin with '{'"},
	{" {}", 0, -EBADMSG, "does not begin with '{'"},
	{"{\"a\":", 0, -EBADMSG, "not valid JSON"},
	{"{} x", 0, -EBADMSG, "not valid JSON"},
	{"{\"a\xff\":1}", 0, -EBADMSG, "not valid JSON"},
	{"{\"a\":{\"b\":{\"c\":{}}}}", 0, -EBADMSG, "nested deeper"},
	{"{" TENSOR("a", "F32", "[1]", 0, 4) "," TENSOR("a", "F32", "[1]", 4, 8) "}", 8, -EBADMSG,
		"duplicate"},
	{"{\"__metadata__\":[]}", 0, -EBADMSG, "__metadata__: found an array, expected an object"},
	{"{\"__metadata__\":{\"k\":1}}", 0, -EBADMSG,
		"'k': found a whole number, expected a string"},
	{"{\"a\":3}", 0, -EBADMSG, "tensor 'a': found a whole number, expected an object"},
	{"{\"a\":{}}", 0, -EBADMSG, "dtype: found nothing, expected a string"},
	{"{" TENSOR("a", "F33", "[1]", 0, 4) "}", 4, -EBADMSG, "dtype: found 'F33'"},
	{"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, -EBADMSG, "shape: found nothing"},
	{"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, -EBADMSG, "data_offsets: found nothing"},
	{"{" TENSOR("a", "F32", "[-1]", 0, 4) "}", 4, -EBADMSG, "dimension 0 is negative"},
	{"{" TENSOR("a", "F32", "[1.0]", 0, 4) "}", 4, -EBADMSG, "dimension 0 is a number with a"},
	{"{" TENSOR("a", "F32", "[4294967296,4294967296]", 0, 4) "}", 4, -EBADMSG, "overflows"},
	{"{" TENSOR("a", "F32", "[1,1,1,1,1,1,1,1,1]", 0, 4) "}", 4, -EOPNOTSUPP, "9 dimensions"},
	{"{" TENSOR("a", "F4", "[3]", 0, 1) "}", 1, -EBADMSG, "not whole bytes"},
	{"{" TENSOR("a", "F32", "[2]", 0, 4) "}", 4, -EBADMSG, "hold 4 bytes, its shape needs 8"},
	{"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", 4, -EBADMSG,
		"expected two whole numbers"},
	{"{" TENSOR("a", "F32", "[1]", 4, 0) "}", 4, -EBADMSG, "expected 0 <= begin <= end"},
	{"{" TENSOR("a", "F32", "[1]", -4, 0) "}", 4, -EBADMSG, "expected 0 <= begin <= end"},
	{"{" TENSOR("a", "F32", "[1]", 0, 4) "}", 3, -EBADMSG, "past the 3 bytes of data"},
	{"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":1}}", 4, -EBADMSG,
		"4 keys"},
	{"{" TENSOR("a", "F32", "[1]", 0, 4) "," TENSOR("b", "F32", "[1]", 0, 4) "}", 4, -EBADMSG,
		"tensors overlap"},
	{"{" TENSOR("a", "F32", "[2]", 0, 8) "," TENSOR("b", "F32", "[1]", 4, 8) "}", 8, -EBADMSG,
		"tensors overlap"},
	{"{" TENSOR("a", "F32", "[1]", 0, 4) "," TENSOR("b", "F32", "[1]", 8, 12) "}", 12, -EBADMSG,
		"a hole in the data"},
	{"{" TENSOR("a", "F32", "[1]", 4, 8) "}", 8, -EBADMSG, "a hole in the data"},
	{"{" TENSOR("a", "F32", "[1]", 0, 4) "}", 5, -EBADMSG, "1 bytes after the last tensor"},
	{"{}", 1, -EBADMSG, "1 bytes after the last tensor"},
};

static void refuses_each_broken_rule(void **state)
{
	(void)state;
	for (size_t i = 0; i < array_len(broken); i++) {
		char *path = write_file("broken.safetensors", strlen(broken[i].header),
			broken[i].header, broken[i].n_data);

		expect_refusal(path, broken[i].error, broken[i].words);
		free(path);
	}
}

static void refuses_wrong_header_lengths(void **state)
{
	static const struct {
		uint64_t length;
		const char *words;
	} lengths[] = {
		{0, "a header of 0 bytes"},
		{3, "the file holds 2 after"},
		{100000001, "at most 100000000"},
		{UINT64_MAX, "at most 100000000"},
		{UINT64_MAX - 7, "at most 100000000"},
	};
	char *path;

	(void)state;
	for (size_t i = 0; i < array_len(lengths); i++) {
		path = write_file("length.safetensors", lengths[i].length, "{}", 0);
		expect_refusal(path, -EBADMSG, lengths[i].words);
		free(path);
	}
	for (size_t n = 0; n < 8; n++) {
		path = scratch_write(folder, "short.safetensors", "\2\0\0\0\0\0\0", n);
		expect_refusal(path, -EBADMSG, "expected at least the header's length");
		free(path);
	}
}

static void refuses_what_is_not_a_file(void **state)
{
	char *fifo = scratch_path(folder, "fifo.safetensors");

	(void)state;
	assert_int_equal(mkfifo(fifo, 0600), 0);
	expect_refusal(fifo, -EBADMSG, "not a regular file");
	expect_refusal(folder, -EBADMSG, "not a regular file");
	free(fifo);
}

static void reads_a_good_file(void **state)
{
	/* In the header the tensors may stand in any order; an empty one takes no room. */
	static const char header[] = "{" TENSOR("b", "I64", "[1,2]", 4, 20) "," TENSOR("e", "U8",
		"[0,7]", 4,
		4) "," TENSOR("a", "BF16", "[2]", 0, 4) ",\"__metadata__\":{\"x\":\"y\"}}  ";
	char *path = write_file("good.safetensors", strlen(header), header, 20);
	const struct safetensors_tensor *t;
	struct safetensors *s = NULL;
	struct reason reason = {0};
	char shape[192];
	uint8_t bytes[16];

	(void)state;
	assert_int_equal(safetensors_open(path, &s, &reason), 0);
	assert_int_equal(safetensors_n_tensors(s), 3);
	assert_string_equal(safetensors_at(s, 0)->name, "a");
	assert_string_equal(safetensors_at(s, 1)->name, "e");
	assert_string_equal(safetensors_at(s, 2)->name, "b");
	t = safetensors_find(s, "b");
	assert_non_null(t);
	assert_string_equal(safetensors_shape_text(t, shape), "[1, 2]");
	assert_string_equal(safetensors_dtype_name(t->dtype), "I64");
	assert_int_equal(safetensors_read(s, t, 0, bytes, 16, &reason), 0);
	for (int i = 0; i < 16; i++)
		assert_int_equal(bytes[i], 4 + i);
	assert_int_equal(safetensors_read(s, t, 1, bytes, 16, &reason), -EINVAL);
	assert_null(safetensors_find(s, "c"));

	/* A file that shrinks under us is an error, not a fault. */
	assert_int_equal(truncate(path, (off_t)strlen(header) + 8 + 10), 0);
	assert_int_equal(safetensors_read(s, t, 0, bytes, 16, &reason), -EBADMSG);
	assert_non_null(strstr(reason.text, "became shorter"));
	safetensors_free(s);
	free(path);
}

/* One number of a long tensor is infinite: read both ways, as its bytes are and converted. */
static void expect_bad_number(const char *header, size_t size, uint32_t infinity)
{
	enum { N = 70000, BAD = 66000 };
	const size_t n_header = strlen(header);
	uint8_t *bytes = calloc(1, 8 + n_header + N * size);
	float *floats = calloc(N, sizeof(*floats));
	uint16_t *halves = calloc(N, sizeof(*halves));
	struct safetensors *s = NULL;
	struct reason reason = {0};
	uint64_t n_inexact;
	char *path;

	memcpy(bytes, &(uint64_t){n_header}, 8);
	memcpy(bytes + 8, header, n_header);
	memcpy(bytes + 8 + n_header + BAD * size, &infinity, size);
	path = scratch_write(folder, "numbers.safetensors", bytes, 8 + n_header + N * size);
	assert_int_equal(safetensors_open(path, &s, &reason), 0);
	assert_int_equal(
		safetensors_read_f32(s, safetensors_at(s, 0), 0, floats, N, &reason), -EBADMSG);
	assert_non_null(strstr(reason.text, "number 66000 is inf"));
	reason.text[0] = '\0';
	assert_int_equal(safetensors_read_bf16(
				 s, safetensors_at(s, 0), 1, halves, N - 1, &n_inexact, &reason),
		-EBADMSG);
	assert_non_null(strstr(reason.text, "number 66000 is inf"));
	assert_int_equal(safetensors_read_f32(s, safetensors_at(s, 0), 0, floats, BAD, &reason), 0);
	assert_int_equal(safetensors_read_bf16(s, safetensors_at(s, 0), BAD + 1, halves,
				 N - BAD - 1, &n_inexact, &reason),
		0);
	safetensors_free(s);
	free(path);
	free(halves);
	free(floats);
	free(bytes);
}

static void finds_bad_numbers_far_inside(void **state)
{
	(void)state;
	expect_bad_number("{" TENSOR("a", "BF16", "[70000]", 0, 140000) "}", 2, 0x7f80);
	expect_bad_number("{" TENSOR("a", "F32", "[70000]", 0, 280000) "}", 4, 0x7f800000);
}

static void write_shards(const char *index)
{
	static const char first[] = "{" TENSOR("a", "F32", "[1]", 0, 4) "}";
	static const char second[] = "{" TENSOR("b", "F32", "[1]", 0, 4) "}";

	free(write_file("one.safetensors", strlen(first), first, 4));
	free(write_file("two.safetensors", strlen(second), second, 4));
	free(scratch_write(folder, "model.safetensors.index.json", index, strlen(index)));
}

static void expect_index_refusal(const char *index, int error, const char *words)
{
	struct safetensors *s = NULL;
	struct reason reason = {0};
	int r;

	write_shards(index);
	r = safetensors_open_folder(folder, &s, &reason);
	if (r != error || !strstr(reason.text, words))
		fail_msg("%s: got %d '%s', expected %d '%s'", index, r, reason.text, error, words);
	assert_null(s);
}

static void reads_shards(void **state)
{
	struct safetensors *s = NULL;
	struct reason reason = {0};

	(void)state;
	assert_int_equal(safetensors_open_folder(folder, &s, &reason), -ENOENT);
	write_shards("{\"metadata\":{\"total_size\":8},\"weight_map\":{\"a\":\"one.safetensors\","
		     "\"b\":\"two.safetensors\"}}");
	assert_int_equal(safetensors_open_folder(folder, &s, &reason), 0);
	assert_int_equal(safetensors_n_files(s), 2);
	assert_int_equal(safetensors_find(s, "b")->file, 1);
	assert_string_equal(safetensors_file_name(s, 1), "two.safetensors");
	safetensors_free(s);
}

static void refuses_broken_indexes(void **state)
{
#define ONE "\"a\":\"one.safetensors\""
	(void)state;
	expect_index_refusal("[]", -EBADMSG, "found an array, expected an object");
	expect_index_refusal("{}", -EBADMSG, "weight_map: found nothing, expected an object");
	expect_index_refusal("{\"weight_map\":{}}", -EBADMSG, "names 0 files");
	expect_index_refusal("{\"weight_map\":{\"a\":1}}", -EBADMSG, "expected a file name");
	expect_index_refusal(
		"{\"weight_map\":{\"a\":\"../x\"}}", -EBADMSG, "not a plain file name");
	expect_index_refusal("{\"weight_map\":{\"a\":\"..\"}}", -EBADMSG, "not a plain file name");
	expect_index_refusal("{\"weight_map\":{\"a\":\"\"}}", -EBADMSG, "not a plain file name");
	expect_index_refusal("{\"weight_map\":{\"a\":\"none\"}}", -ENOENT, "none: cannot open");
	expect_index_refusal("{\"weight_map\":{" ONE ",\"b\":\"one.safetensors\"}}", -EBADMSG,
		"tensor 'b' is not in one.safetensors");
	expect_index_refusal(
		"{\"weight_map\":{\"b\":\"two.safetensors\",\"c\":\"one.safetensors\"}}", -EBADMSG,
		"tensor 'c' is not in");
	expect_index_refusal("{\"weight_map\":{" ONE ",\"b\":\"two.safetensors\"},"
			     "\"metadata\":{\"total_size\":9}}",
		-EBADMSG, "total_size: found 9, the tensors have 8 bytes");
#undef ONE
}

static void refuses_tensors_outside_the_map(void **state)
{
	static const char both[] =
		"{" TENSOR("a", "F32", "[1]", 0, 4) "," TENSOR("b", "F32", "[1]", 4, 8) "}";
	static const char map[] = "{\"weight_map\":{\"a\":\"one.safetensors\"}}";
	struct safetensors *s = NULL;
	struct reason reason = {0};

	(void)state;
	free(write_file("one.safetensors", strlen(both), both, 8));
	free(scratch_write(folder, "model.safetensors.index.json", map, strlen(map)));
	assert_int_equal(safetensors_open_folder(folder, &s, &reason), -EBADMSG);
	assert_non_null(strstr(reason.text, "tensor 'b' of one.safetensors is not in weight_map"));
}

static void refuses_a_tensor_in_two_shards(void **state)
{
	static const char same[] = "{" TENSOR("a", "F32", "[1]", 0, 4) "}";
	static const char map[] =
		"{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"two.safetensors\"}}";
	struct safetensors *s = NULL;
	struct reason reason = {0};

	(void)state;
	free(write_file("one.safetensors", strlen(same), same, 4));
	free(write_file("two.safetensors", strlen(same), same, 4));
	free(scratch_write(folder, "model.safetensors.index.json", map, strlen(map)));
	assert_int_equal(safetensors_open_folder(folder, &s, &reason), -EBADMSG);
	assert_non_null(strstr(reason.text, "'a' is in one.safetensors and in two.safetensors"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(refuses_each_broken_rule, set_up, tear_down),
		cmocka_unit_test_setup_teardown(refuses_wrong_header_lengths, set_up, tear_down),
		cmocka_unit_test_setup_teardown(refuses_what_is_not_a_file, set_up, tear_down),
		cmocka_unit_test_setup_teardown(reads_a_good_file, set_up, tear_down),
		cmocka_unit_test_setup_teardown(finds_bad_numbers_far_inside, set_up, tear_down),
		cmocka_unit_test_setup_teardown(reads_shards, set_up, tear_down),
		cmocka_unit_test_setup_teardown(refuses_broken_indexes, set_up, tear_down),
		cmocka_unit_test_setup_teardown(refuses_tensors_outside_the_map, set_up, tear_down),
		cmocka_unit_test_setup_teardown(refuses_a_tensor_in_two_shards, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
