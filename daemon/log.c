#include "daemon/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define LINE_SIZE 1024

/* The logger's own state is the one global of the daemon. */
static atomic_int max_level = LOG_LEVEL_INFO;
static bool to_journal;

/* systemd names device and inode of the stream that it connected, so that a program whose stderr
 * was redirected afterwards does not mistake a file for the journal. */
static bool stderr_is_journal(void)
{
	const char *stream = getenv("JOURNAL_STREAM");
	char own[64];
	struct stat st;

	if (!stream || fstat(STDERR_FILENO, &st) < 0)
		return false;
	snprintf(own, sizeof(own), "%ju:%ju", (uintmax_t)st.st_dev, (uintmax_t)st.st_ino);
	return strcmp(stream, own) == 0;
}

void log_open(void)
{
	to_journal = stderr_is_journal();
}

void log_set_level(enum log_level most)
{
	atomic_store(&max_level, (int)most);
}

static const char *prefix_of(enum log_level level)
{
	switch (level) {
	case LOG_LEVEL_ERROR:
		return to_journal ? "<3>" : "deltad: error: ";
	case LOG_LEVEL_WARNING:
		return to_journal ? "<4>" : "deltad: warning: ";
	case LOG_LEVEL_INFO:
		return to_journal ? "<6>" : "deltad: ";
	case LOG_LEVEL_DEBUG:
		return to_journal ? "<7>" : "deltad: debug: ";
	}
	return "";
}

void log_line(enum log_level level, const char *fmt, ...)
{
	char line[LINE_SIZE];
	size_t n, room, begin;
	va_list args;
	int wanted;

	if ((int)level > atomic_load(&max_level))
		return;
	n = (size_t)snprintf(line, sizeof(line), "%s", prefix_of(level));
	room = sizeof(line) - n - 1;
	va_start(args, fmt);
	wanted = vsnprintf(line + n, room, fmt, args);
	va_end(args);
	if (wanted < 0)
		return;
	begin = n;
	n += min_u64((uint64_t)wanted, room - 1);
	/* What clients say of themselves must not begin lines. */
	for (size_t i = begin; i < n; i++)
		if ((unsigned char)line[i] < ' ' || line[i] == 0x7f)
			line[i] = '?';
	line[n++] = '\n';
	/* One write, so that lines of several threads do not mix. Nothing can be done if it fails.
	 */
	if (write(STDERR_FILENO, line, n) < 0)
		return;
}
