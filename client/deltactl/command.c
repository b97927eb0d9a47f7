#include "client/deltactl/command.h"

#include "common/clock.h"

#include <getopt.h>
#include <math.h>
#include <stdarg.h>
#include <string.h>

#define BAR_WIDTH 28
#define TERMINAL_INTERVAL_NS 100000000ull
#define PLAIN_INTERVAL_NS 5000000000ull

static int exit_code_of(int error)
{
	switch (error) {
	case -EBADMSG:
		return EXIT_BAD_INPUT;
	case -EOPNOTSUPP:
		return EXIT_NOT_SUPPORTED;
	case -EMEDIUMTYPE:
		return EXIT_MISMATCH;
	default:
		return EXIT_FAILED;
	}
}

int command_fail(const char *name, int error, const struct reason *reason)
{
	const char *text = reason->text[0] ? reason->text : strerror(-error);

	fprintf(stderr, "deltactl %s: %s\n", name, text);
	return exit_code_of(error);
}

int command_usage(const struct command *command, const char *fmt, ...)
{
	va_list args;

	fprintf(stderr, "deltactl %s: ", command->name);
	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fprintf(stderr, "\nusage: deltactl %s %s\n", command->name, command->arguments);
	return EXIT_USAGE;
}

int command_bad_option(const struct command *command, char **argv)
{
	return command_usage(command, "unknown or incomplete option '%s'", argv[optind - 1]);
}

int command_help(const struct command *command, const char *options)
{
	printf("usage: deltactl %s %s\n\n%s\n", command->name, command->arguments,
		command->summary);
	if (options && options[0])
		printf("\n%s", options);
	return EXIT_OK;
}

const char *human_bytes(uint64_t bytes, char ret[static 16])
{
	static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB"};
	double value = (double)bytes;
	size_t unit = 0;

	while (value >= 1000 && unit + 1 < array_len(units)) {
		value /= 1000;
		unit++;
	}
	snprintf(ret, 16, unit ? "%.2f %s" : "%.0f %s", value, units[unit]);
	return ret;
}

const char *human_duration(uint64_t ns, char ret[static 16])
{
	double seconds = (double)ns * 1e-9;

	if (seconds < 1e-3)
		snprintf(ret, 16, "%.0f us", seconds * 1e6);
	else if (seconds < 1)
		snprintf(ret, 16, "%.3g ms", seconds * 1e3);
	else if (seconds < 120)
		snprintf(ret, 16, "%.3g s", seconds);
	else if (seconds < 7200)
		snprintf(ret, 16, "%.0f min", seconds / 60);
	else
		snprintf(ret, 16, "%.0f h", seconds / 3600);
	return ret;
}

const char *human_figure(double value, int n_digits, char ret[static 16])
{
	if (isnan(value))
		snprintf(ret, 16, "unknown");
	else
		snprintf(ret, 16, "%.*f", n_digits, value);
	return ret;
}

/* "53.1 MB/s", "2.04 windows/s", "block 3 of 32, 41.2 s each", whatever can be said of it. */
static void format_rate(const struct progress_bar *bar, uint64_t done, uint64_t total,
	double per_second, char ret[static 64])
{
	double steps = bar->steps ? bar->steps : 1;
	char amount[16];

	if (strcmp(bar->unit, "bytes") == 0) {
		snprintf(ret, 64, "%s/s", human_bytes((uint64_t)per_second, amount));
		return;
	}
	if (total)
		snprintf(ret, 64, "%.0f of %.0f %s", floor((double)done / steps),
			floor((double)total / steps), bar->unit);
	else
		snprintf(ret, 64, "%.0f %s", floor((double)done / steps), bar->unit);
	if (per_second > 0)
		snprintf(ret + strlen(ret), 64 - strlen(ret), ", %.3g s each", steps / per_second);
}

static void draw(struct progress_bar *bar, uint64_t done, uint64_t total, uint64_t now)
{
	double seconds = (double)(now - bar->started_ns) * 1e-9;
	double per_second = seconds > 0 ? (double)(done - bar->first) / seconds : 0;
	double share = total ? (double)done / (double)total : 0;
	char rate[64], left[32] = "", duration[16], cells[BAR_WIDTH + 1];

	format_rate(bar, done, total, per_second, rate);
	if (done < total && per_second > 0)
		snprintf(left, sizeof(left), ", %s left",
			human_duration(
				(uint64_t)((double)(total - done) / per_second * 1e9), duration));
	if (total == 0) {
		fprintf(stderr, "%s%s: %s%s", bar->terminal ? "\r\033[K" : "", bar->stage, rate,
			bar->terminal ? "" : "\n");
		return;
	}
	if (!bar->terminal) {
		fprintf(stderr, "%s: %.0f %%, %s%s\n", bar->stage, 100 * share, rate, left);
		return;
	}
	for (int i = 0; i < BAR_WIDTH; i++)
		cells[i] = i < (int)(share * BAR_WIDTH) ? '#' : '.';
	cells[BAR_WIDTH] = '\0';
	fprintf(stderr, "\r\033[K%-14s [%s] %3.0f %%  %s%s", bar->stage, cells, 100 * share, rate,
		left);
	fflush(stderr);
}

static void update(void *user, const char *stage, uint64_t done, uint64_t total)
{
	struct progress_bar *bar = user;
	uint64_t now = clock_ns();
	uint64_t interval = bar->terminal ? TERMINAL_INTERVAL_NS : PLAIN_INTERVAL_NS;

	if (bar->quiet)
		return;
	if (strcmp(bar->stage, stage) != 0 || done < bar->done) {
		bar->first = done;
		snprintf(bar->stage, sizeof(bar->stage), "%s", stage);
		bar->started_ns = now;
		bar->drawn_ns = bar->terminal ? 0 : now;
	}
	bar->done = done;
	if (now - bar->drawn_ns < interval)
		return;
	bar->drawn_ns = now;
	draw(bar, done, total, now);
}

const struct progress *progress_bar(struct progress_bar *bar, const char *unit, bool quiet)
{
	*bar = (struct progress_bar){
		.progress = {.update = update, .user = bar},
		.quiet = quiet,
		.terminal = isatty(STDERR_FILENO),
		.unit = unit,
	};
	return &bar->progress;
}

void progress_bar_end(struct progress_bar *bar)
{
	if (bar->terminal && bar->stage[0] && !bar->quiet)
		fprintf(stderr, "\r\033[K");
	bar->stage[0] = '\0';
}
