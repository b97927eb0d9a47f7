/*
 * deltad.yaml(5) has every key with the default that the daemon uses, and no other.
 */
#include "daemon/config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

static const struct config_key *find_key(const char *name)
{
	for (size_t i = 0; i < n_config_keys; i++)
		if (strcmp(config_keys[i].name, name) == 0)
			return &config_keys[i];
	return NULL;
}

static void keys_and_defaults_are_those_of_the_daemon(void **state)
{
	FILE *page = fopen("man/deltad.yaml.5", "re");
	char line[256], name[64], initial[64];
	const struct config_key *last = NULL;
	size_t n = 0;

	(void)state;
	assert_non_null(page);
	while (fgets(line, sizeof(line), page)) {
		if (last && strncmp(line, ".It", 3) != 0) {
			/* The first line below a key says whether it is live. */
			assert_int_equal(last->live, strncmp(line, ".Em live", 8) == 0);
			last = NULL;
		}
		if (sscanf(line, ".It Ic %63s No = Li %63[^\n]", name, initial) != 2)
			continue;
		last = find_key(name);
		if (!last)
			fail_msg("the manual has %s, the daemon has not", name);
		assert_string_equal(initial, last->initial);
		n++;
	}
	fclose(page);
	assert_int_equal(n, n_config_keys);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(keys_and_defaults_are_those_of_the_daemon),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
