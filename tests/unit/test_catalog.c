#include "store/catalog.h"
#include "tests/small_image.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

struct folder {
	size_t descriptors;
	char path[64];
	struct catalog *catalog;
};

static void put_file(const struct folder *f, const char *name, size_t n_bytes)
{
	char path[256];
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", f->path, name);
	file = fopen(path, "wxe");
	assert_non_null(file);
	for (size_t i = 0; i < n_bytes; i++)
		assert_int_equal(fputc('x', file), 'x');
	assert_int_equal(fclose(file), 0);
}

static int make_folder(void **state)
{
	struct folder *f = calloc(1, sizeof(*f));
	char path[256];

	f->descriptors = open_descriptors();
	strncpy(f->path, "/tmp/deltad-catalog-XXXXXX", sizeof(f->path) - 1);
	assert_non_null(mkdtemp(f->path));
	put_file(f, "math.delta", 5);
	put_file(f, "a.b-c_D9.delta", 7);
	put_file(f, "llama.base", 3);
	put_file(f, "math.delta.XYZ", 1);
	put_file(f, ".hidden.delta", 1);
	put_file(f, "sp ace.delta", 1);
	put_file(f, ".delta", 1);
	snprintf(path, sizeof(path), "%s/folder.delta", f->path);
	assert_int_equal(mkdir(path, 0700), 0);
	snprintf(path, sizeof(path), "%s/pipe.delta", f->path);
	assert_int_equal(mkfifo(path, 0600), 0);
	snprintf(path, sizeof(path), "%s/link.delta", f->path);
	assert_int_equal(symlink("math.delta", path), 0);
	assert_int_equal(catalog_new(f->path, &f->catalog, NULL), 0);
	*state = f;
	return 0;
}

static int remove_folder(void **state)
{
	static const char *const names[] = {"math.delta", "a.b-c_D9.delta", "llama.base",
		"math.delta.XYZ", ".hidden.delta", "sp ace.delta", ".delta", "folder.delta",
		"pipe.delta", "link.delta"};
	struct folder *f = *state;
	char path[256];
	bool leaked;

	catalog_free(f->catalog);
	for (size_t i = 0; i < array_len(names); i++) {
		snprintf(path, sizeof(path), "%s/%s", f->path, names[i]);
		remove(path);
	}
	assert_int_equal(rmdir(f->path), 0);
	leaked = f->descriptors != open_descriptors();
	free(f);
	return leaked ? -1 : 0;
}

static void listing_has_regular_files_with_good_names(void **state)
{
	struct folder *f = *state;
	struct catalog_entry *entries;
	size_t n;

	assert_int_equal(catalog_list(f->catalog, IMAGE_KIND_DELTA, &entries, &n), 0);
	assert_int_equal(n, 2);
	assert_string_equal(entries[0].name, "a.b-c_D9");
	assert_int_equal(entries[0].n_bytes, 7);
	assert_string_equal(entries[1].name, "math");
	assert_int_equal(entries[1].n_bytes, 5);
	assert_true(entries[1].modified_ns > 1000000000000000000);
	free(entries);
	assert_int_equal(catalog_list(f->catalog, IMAGE_KIND_BASE, &entries, &n), 0);
	assert_int_equal(n, 1);
	assert_string_equal(entries[0].name, "llama");
	free(entries);
}

static void listing_may_be_repeated(void **state)
{
	struct folder *f = *state;
	struct catalog_entry *entries;
	size_t n;

	for (int i = 0; i < 3; i++) {
		assert_int_equal(catalog_list(f->catalog, IMAGE_KIND_DELTA, &entries, &n), 0);
		assert_int_equal(n, 2);
		free(entries);
	}
}

static void files_are_opened_by_alias(void **state)
{
	struct folder *f = *state;
	struct stat st;
	int fd = -1;

	assert_int_equal(catalog_open_delta(f->catalog, "math", &fd), 0);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, 5);
	close(fd);
	assert_int_equal(catalog_open_base(f->catalog, "llama", &fd), 0);
	assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	assert_false(fcntl(fd, F_GETFL) & O_NONBLOCK);
	close(fd);
}

static void what_is_no_regular_file_is_absent(void **state)
{
	static const char *const names[] = {"nobody", "llama", "folder", "pipe", "link"};
	struct folder *f = *state;
	int fd = -1;

	for (size_t i = 0; i < array_len(names); i++)
		assert_int_equal(catalog_open_delta(f->catalog, names[i], &fd), CATALOG_E_ABSENT);
	assert_int_equal(fd, -1);
}

static void names_that_could_be_paths_are_refused(void **state)
{
	static const char *const names[] = {"", ".", "..", ".hidden", "../math", "a/b",
		"/etc/passwd", "sp ace", "tab\t", "\xc3\xa9", "new\nline",
		"0123456789012345678901234567890123456789012345678901234567890123x"};
	struct folder *f = *state;
	int fd = -1;

	for (size_t i = 0; i < array_len(names); i++)
		assert_int_equal(catalog_open_delta(f->catalog, names[i], &fd), CATALOG_E_BAD_NAME);
	assert_int_equal(fd, -1);
	assert_true(catalog_name_valid(
		"0123456789012345678901234567890123456789012345678901234567890123"));
}

static void missing_folder_is_named(void **state)
{
	struct reason reason = {0};
	struct catalog *c;

	(void)state;
	assert_int_equal(catalog_new("/nonexistent/store", &c, &reason), -ENOENT);
	assert_non_null(strstr(reason.text, "/nonexistent/store"));
}

#define in_folder(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)

int main(void)
{
	const struct CMUnitTest tests[] = {
		in_folder(listing_has_regular_files_with_good_names),
		in_folder(listing_may_be_repeated),
		in_folder(files_are_opened_by_alias),
		in_folder(what_is_no_regular_file_is_absent),
		in_folder(names_that_could_be_paths_are_refused),
		cmocka_unit_test(missing_folder_is_named),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
