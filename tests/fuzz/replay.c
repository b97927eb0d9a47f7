/*
 * Runs a fuzz driver over files and folders without a fuzzing engine: how the corpus of broken
 * files stays part of the tests. Without arguments fuzz_NAME takes the folder
 * tests/fuzz/corpus/NAME.
 */
#include "common/base.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static int replay_file(const char *path)
{
	_cleanup_(freep) uint8_t *data = NULL;
	struct stat st;
	FILE *file = fopen(path, "rbe");
	size_t n;

	if (!file || fstat(fileno(file), &st) < 0) {
		if (file)
			fclose(file);
		return -1;
	}
	/* Exactly as large as the input, so that a sanitizer sees reads past its end. */
	data = malloc(st.st_size ? (size_t)st.st_size : 1);
	n = data ? fread(data, 1, (size_t)st.st_size, file) : 0;
	fclose(file);
	LLVMFuzzerTestOneInput(data, n);
	printf("ok - %s\n", path);
	return 0;
}

static int replay_folder(const char *path)
{
	DIR *folder = opendir(path);
	struct dirent *entry;
	int r = 0;

	if (!folder)
		return -1;
	while (r == 0 && (entry = readdir(folder))) {
		_cleanup_(freep) char *file = NULL;

		if (entry->d_name[0] == '.')
			continue;
		r = asprintf(&file, "%s/%s", path, entry->d_name) < 0 ? -1 : replay_file(file);
	}
	closedir(folder);
	return r;
}

static int replay(const char *path)
{
	struct stat st;
	int r = stat(path, &st);

	if (r == 0)
		r = S_ISDIR(st.st_mode) ? replay_folder(path) : replay_file(path);
	if (r < 0)
		printf("not ok - %s\n", path);
	return r;
}

static int replay_own_corpus(const char *program)
{
	_cleanup_(freep) char *folder = NULL;
	const char *name = strstr(program, "fuzz_");

	if (!name || asprintf(&folder, "tests/fuzz/corpus/%s", name + strlen("fuzz_")) < 0)
		return -1;
	return replay(folder);
}

int main(int argc, char **argv)
{
	if (argc == 1)
		return replay_own_corpus(argv[0]) < 0;
	for (int i = 1; i < argc; i++)
		if (replay(argv[i]) < 0)
			return 1;
	return 0;
}
