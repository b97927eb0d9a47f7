/*
 * The configuration: pairs tests/config/NAME.in -> NAME.ok (what --check-config prints) or NAME.err
 * (the reason), and the file that is installed.
 */
#include "daemon/config.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#define FOLDER "tests/config"

static char *read_whole(const char *path)
{
	FILE *f = fopen(path, "re");
	char *text = NULL;
	size_t n = 0;

	if (!f)
		return NULL;
	if (getdelim(&text, &n, '\0', f) < 0) {
		free(text);
		text = strdup("");
	}
	fclose(f);
	return text;
}

static char *print_config(const struct config *c)
{
	char *text = NULL;
	size_t n = 0;
	FILE *f = open_memstream(&text, &n);

	assert_non_null(f);
	config_print(c, f);
	fclose(f);
	return text;
}

static void write_whole(const char *path, const char *text)
{
	FILE *f = fopen(path, "we");

	assert_non_null(f);
	fputs(text, f);
	assert_int_equal(fclose(f), 0);
}

/* What is printed must read back to the same. */
static void check_round_trip(const char *printed)
{
	char path[] = "/tmp/deltad-config-XXXXXX";
	_cleanup_(config_freep) struct config *c = NULL;
	_cleanup_(freep) char *again = NULL;
	struct reason reason;
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	close(fd);
	write_whole(path, printed);
	assert_int_equal(config_read(path, &c, &reason), 0);
	unlink(path);
	again = print_config(c);
	assert_string_equal(printed, again);
}

static void check_pair(const char *stem)
{
	char in[300], other[300];
	_cleanup_(config_freep) struct config *c = NULL;
	_cleanup_(freep) char *wanted = NULL;
	_cleanup_(freep) char *got = NULL;
	struct reason reason = {""};
	int r;

	snprintf(in, sizeof(in), "%s/%s.in", FOLDER, stem);
	r = config_read(in, &c, &reason);
	snprintf(other, sizeof(other), "%s/%s.%s", FOLDER, stem, r < 0 ? "err" : "ok");
	wanted = read_whole(other);
	if (!wanted)
		fail_msg("%s: result %d (%s), but there is no %s", in, r, reason.text, other);
	if (r < 0) {
		assert_int_equal(r, -EBADMSG);
		wanted[strcspn(wanted, "\n")] = '\0';
		assert_string_equal(reason.text, wanted);
		return;
	}
	got = print_config(c);
	assert_string_equal(got, wanted);
	check_round_trip(got);
}

static void test_pairs(void **state)
{
	DIR *dir = opendir(FOLDER);
	struct dirent *d;
	size_t n = 0;

	(void)state;
	assert_non_null(dir);
	while ((d = readdir(dir))) {
		char *dot = strrchr(d->d_name, '.');

		if (!dot || strcmp(dot, ".in") != 0)
			continue;
		*dot = '\0';
		check_pair(d->d_name);
		n++;
	}
	closedir(dir);
	assert_true(n >= 20);
}

/* The installed file holds every key, at its default. */
static void test_installed_file(void **state)
{
	_cleanup_(config_freep) struct config *defaults = NULL;
	_cleanup_(config_freep) struct config *installed = NULL;
	_cleanup_(freep) char *text = read_whole("etc/deltad.yaml");
	struct reason reason;
	size_t index = 0;

	(void)state;
	assert_non_null(text);
	assert_int_equal(config_new(&defaults, &reason), 0);
	assert_int_equal(config_read("etc/deltad.yaml", &installed, &reason), 0);
	assert_null(config_difference(defaults, installed, &index));
	for (size_t i = 0; i < n_config_keys; i++) {
		const char *dot = strchr(config_keys[i].name, '.');
		char line[128];

		snprintf(line, sizeof(line), "\n  %s: %s\n", dot + 1, config_keys[i].initial);
		if (!strstr(text, line))
			fail_msg("etc/deltad.yaml lacks \"%s\"", line);
	}
}

static void test_difference(void **state)
{
	_cleanup_(config_freep) struct config *a = NULL;
	_cleanup_(config_freep) struct config *b = NULL;
	struct reason reason;
	size_t index = 0;

	(void)state;
	assert_int_equal(config_new(&a, &reason), 0);
	assert_int_equal(config_new(&b, &reason), 0);
	assert_int_equal(config_set(b, "memory.kv", "2 GiB", &reason), 0);
	assert_int_equal(config_set(b, "store.base", "other.base", &reason), 0);
	assert_string_equal(config_difference(a, b, &index)->name, "store.base");
	assert_string_equal(config_difference(a, b, &index)->name, "memory.kv");
	assert_null(config_difference(a, b, &index));
}

static void test_absent_file(void **state)
{
	struct config *c = NULL;
	struct reason reason;

	(void)state;
	assert_int_equal(config_read("tests/config/absent.yaml", &c, &reason), -ENOENT);
	assert_int_equal(config_read("tests/config", &c, &reason), -EBADMSG);
	assert_null(c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pairs),
		cmocka_unit_test(test_installed_file),
		cmocka_unit_test(test_difference),
		cmocka_unit_test(test_absent_file),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
