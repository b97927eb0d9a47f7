/*
 * The log: one line a fact, on stderr. Under systemd, where stderr is the journal, each line
 * carries its priority. Only daemon/ logs, and each fact is told once, where it is answered.
 */
#pragma once

#include "common/base.h"

/* In the order of the configuration's words. */
enum log_level {
	LOG_LEVEL_ERROR,
	LOG_LEVEL_WARNING,
	LOG_LEVEL_INFO,
	LOG_LEVEL_DEBUG,
};

/* Finds out who listens on stderr. Called once, before any thread starts. */
void log_open(void);
/* Called on the loop's thread, at start and when the configuration is reloaded. */
void log_set_level(enum log_level most);

void log_line(enum log_level level, const char *fmt, ...) _printf_(2, 3);

#define log_error(...) log_line(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_line(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_info(...) log_line(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_LEVEL_DEBUG, __VA_ARGS__)
