/*
 * A view that is drawn again each second: on a terminal until q or ctrl-c, elsewhere once.
 */
#include "client/deltactl/commands.h"
#include "client/deltactl/stats.h"
#include "client/deltactl/variants.h"
#include "common/clock.h"

#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>

#define INTERVAL_MS 1000
#define MAX_RATES 512
#define ENTER_SCREEN "\033[?1049h\033[?25l\033[?7l" /* long lines are cut */
#define LEAVE_SCREEN "\033[?7h\033[?25h\033[?1049l"
#define CLEAR_SCREEN "\033[H\033[J"

/* What the last round saw, to make rates from. */
struct history {
	uint64_t at_ns;
	uint32_t n;
	struct seen {
		char name[PROTO_MAX_NAME + 1];
		uint64_t generated;
	} seen[MAX_RATES];
	double rates[MAX_RATES];
};

static volatile sig_atomic_t interrupted;

static void on_signal(int signal_number)
{
	(void)signal_number;
	interrupted = 1;
}

static double rate_of(const struct history *h, const struct proto_variant *v, double seconds)
{
	for (uint32_t i = 0; i < h->n; i++)
		if (proto_str_equal(v->name, h->seen[i].name) &&
			v->generated >= h->seen[i].generated && seconds > 0)
			return (double)(v->generated - h->seen[i].generated) / seconds;
	return 0;
}

static void history_update(struct history *h, const struct proto_variants *variants)
{
	uint64_t now = clock_ns();
	double seconds = (double)(now - h->at_ns) * 1e-9;
	uint32_t n = (uint32_t)min_u64(variants->n, MAX_RATES);

	for (uint32_t i = 0; i < n; i++)
		h->rates[i] = rate_of(h, &variants->items[i], seconds);
	for (uint32_t i = 0; i < n; i++) {
		const struct proto_variant *v = &variants->items[i];

		snprintf(h->seen[i].name, sizeof(h->seen[i].name), "%.*s", (int)v->name.n,
			v->name.bytes);
		h->seen[i].generated = v->generated;
	}
	h->n = n;
	h->at_ns = now;
}

static void print_totals(
	const struct remote *r, const struct proto_variants *variants, const struct history *h)
{
	uint64_t streams = 0, memory = 0;
	double rate = 0;
	char size[16];

	for (uint32_t i = 0; i < variants->n; i++) {
		streams += variants->items[i].streams;
		memory += variants->items[i].memory_bytes;
	}
	for (uint32_t i = 0; i < h->n; i++)
		rate += h->rates[i];
	printf("%s   %u variants, %s   %llu streams, %.1f tokens/s\n\n",
		connection_server(r->connection), variants->n, human_bytes(memory, size),
		(unsigned long long)streams, rate);
}

/* One round. `rows` is the height of the terminal, 0 for no limit. */
static int draw(struct remote *r, struct history *h, size_t rows)
{
	struct proto_message ps = {.op = PROTO_PS}, stats = {.op = PROTO_STATS};
	struct proto_variants *variants = &r->reply.message.variants;
	size_t left = rows > 5 ? rows - 5 : 1;
	int code = remote_call(r, &ps, PROTO_PS_REPLY);

	if (code != EXIT_OK)
		return code;
	variants->n = (uint32_t)min_u64(variants->n, MAX_RATES);
	history_update(h, variants);
	if (rows)
		fputs(CLEAR_SCREEN, stdout);
	print_totals(r, variants, h);
	if (variants_print_running(variants, h->rates, rows ? left : 0) < 0)
		return EXIT_FAILED;
	left -= min_u64(left, variants->n);
	code = remote_call(r, &stats, PROTO_STATS_REPLY);
	if (code == EXIT_OK && (rows == 0 || left > 2)) {
		putchar('\n');
		if (stats_print(&r->reply.message.stats_reply, rows ? left - 2 : 0) < 0)
			return EXIT_FAILED;
	}
	fflush(stdout);
	return code;
}

static size_t terminal_rows(void)
{
	struct winsize size;

	return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row > 0 ? size.ws_row : 24;
}

/* Waits for the next round; true if the user wants to leave. */
static bool wait_key(void)
{
	struct pollfd p = {.fd = STDIN_FILENO, .events = POLLIN};
	char key = 0;

	if (interrupted)
		return true;
	if (poll(&p, 1, INTERVAL_MS) <= 0)
		return interrupted;
	return read(STDIN_FILENO, &key, 1) <= 0 || key == 'q' || interrupted;
}

static int watch(struct remote *r, struct history *h)
{
	const struct sigaction action = {.sa_handler = on_signal};
	struct termios saved, raw;
	int code;

	if (tcgetattr(STDIN_FILENO, &saved) < 0)
		return command_fail("top", -errno, &(struct reason){0});
	raw = saved;
	raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	tcsetattr(STDIN_FILENO, TCSANOW, &raw);
	fputs(ENTER_SCREEN, stdout);
	do
		code = draw(r, h, terminal_rows());
	while (code == EXIT_OK && !wait_key());
	fputs(LEAVE_SCREEN, stdout);
	fflush(stdout);
	tcsetattr(STDIN_FILENO, TCSANOW, &saved);
	return code;
}

static int run(int argc, char **argv)
{
	_cleanup_(remote_done) struct remote r = {0};
	_cleanup_(freep) struct history *h = calloc(1, sizeof(*h));
	struct remote_options options;
	int code = remote_parse(&command_top, argc, argv, false, false, &options);

	if (code >= 0)
		return code;
	if (!h)
		return command_fail("top", -ENOMEM, &(struct reason){0});
	code = remote_open(&r, &command_top, options.socket);
	if (code != EXIT_OK)
		return code;
	if (isatty(STDIN_FILENO) && isatty(STDOUT_FILENO))
		return watch(&r, h);
	return draw(&r, h, 0);
}

const struct command command_top = {
	.name = "top",
	.arguments = "[--socket PATH]",
	.summary = "watch variants, streams and rates; q leaves",
	.run = run,
};
