/*
 * Any bytes as tokenizer.json. The folder is made once, in memory where the system has it.
 */
#include "foreign/tokenizer_json.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static char folder[64];

static void remove_folder(void)
{
	char path[96];

	snprintf(path, sizeof(path), "%s/tokenizer.json", folder);
	unlink(path);
	rmdir(folder);
}

static bool make_folder(void)
{
	if (folder[0])
		return true;
	strncpy(folder, "/dev/shm/fuzz-tokenizer-XXXXXX", sizeof(folder) - 1);
	if (!mkdtemp(folder)) {
		folder[0] = '\0';
		return false;
	}
	return atexit(remove_folder) == 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	char path[96];
	uint8_t *tables;
	size_t n_tables;
	int fd;
	bool written;

	if (!make_folder())
		return 0;
	snprintf(path, sizeof(path), "%s/tokenizer.json", folder);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return 0;
	written = write(fd, data, n) == (ssize_t)n;
	close(fd);
	if (written && tokenizer_compile(folder, &tables, &n_tables, NULL) == 0)
		free(tables);
	return 0;
}
