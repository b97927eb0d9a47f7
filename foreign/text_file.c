#include "foreign/text_file.h"

#include "common/file.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

int text_file_load(const char *folder, const char *name, size_t max_bytes, char **ret,
	size_t *ret_n, struct reason *reason)
{
	_cleanup_(freep) char *path = NULL, *text = NULL;
	_cleanup_(closep) int fd = -1;
	struct stat st;
	int r;

	if (asprintf(&path, "%s/%s", folder, name) < 0)
		return reason_set(reason, -ENOMEM, "out of memory");
	/* Not blocking, so that a FIFO in a model folder cannot hold us. */
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 || fstat(fd, &st) < 0)
		return reason_set(reason, -errno, "%s: cannot open: %s", path, strerror(errno));
	if (!S_ISREG(st.st_mode))
		return reason_set(reason, -EBADMSG, "%s: not a regular file", path);
	if ((uint64_t)st.st_size > max_bytes)
		return reason_set(reason, -EBADMSG, "%s: %llu bytes, expected at most %zu", path,
			(unsigned long long)st.st_size, max_bytes);
	text = malloc((size_t)st.st_size + 1);
	if (!text)
		return reason_set(reason, -ENOMEM, "%s: out of memory", path);
	r = file_read_at(fd, text, (size_t)st.st_size, 0);
	if (r < 0)
		return reason_set(reason, r, "%s: cannot read: %s", path, strerror(-r));
	*ret_n = (size_t)st.st_size;
	*ret = take_ptr(text);
	return 0;
}
