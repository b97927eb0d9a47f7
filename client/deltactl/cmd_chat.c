/*
 * A conversation: each line is a turn of the user, the answer streams, and both stay in the prompt
 * of the next turn. Works the same with lines from a pipe, only without a prompt sign.
 */
#include "client/deltactl/answer.h"
#include "client/deltactl/commands.h"

#include <string.h>

#define HELP                                                                                       \
	"/quit           leave (also end of input)\n"                                              \
	"/reset          forget the conversation\n"                                                \
	"/system TEXT    forget it and begin with this system message\n"                           \
	"/help           this\n"

struct chat {
	struct generation generation;
	struct deltad *d;                /* owned */
	struct deltad_message *messages; /* owned, and so are their texts */
	size_t n_messages, room;
	bool terminal;
};

static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal_number)
{
	(void)signal_number;
	interrupted = 1;
}

static void forget(struct chat *c, size_t keep)
{
	while (c->n_messages > keep)
		free((char *)(uintptr_t)c->messages[--c->n_messages].text);
}

static void chat_done(struct chat *c)
{
	forget(c, 0);
	free(c->messages);
	deltad_close(c->d);
}

static int add(struct chat *c, enum deltad_role role, const char *text)
{
	char *copy = strdup(text);
	size_t room = c->room ? 2 * c->room : 16;

	if (copy && c->n_messages == c->room) {
		struct deltad_message *grown =
			reallocarray(c->messages, room, sizeof(*c->messages));

		if (!grown) {
			free(copy);
			return remote_fail(c->generation.command, -ENOMEM, NULL);
		}
		c->messages = grown;
		c->room = room;
	}
	if (!copy)
		return remote_fail(c->generation.command, -ENOMEM, NULL);
	c->messages[c->n_messages++] = (struct deltad_message){role, copy, strlen(copy)};
	return EXIT_OK;
}

/* One turn. A refused turn is forgotten, so that a person can go on. */
static int turn(struct chat *c, const char *line)
{
	_cleanup_(answer_done) struct answer answer = {.interrupted = &interrupted};
	const size_t before = c->n_messages;
	int code = add(c, DELTAD_USER, line);

	if (code != EXIT_OK)
		return code;
	interrupted = 0;
	c->generation.complete.messages = c->messages;
	c->generation.complete.n_messages = c->n_messages;
	code = answer_run(&answer, &c->generation, c->d);
	if (code == EXIT_OK) {
		putchar('\n');
		return add(c, DELTAD_ASSISTANT, answer.text ? answer.text : "");
	}
	forget(c, before);
	return code;
}

/* A line that begins with a slash. Returns false to leave. */
static bool obey(struct chat *c, const char *line, int *ret_code)
{
	if (strcmp(line, "/quit") == 0)
		return false;
	if (strcmp(line, "/reset") == 0) {
		forget(c, c->n_messages > 0 && c->messages[0].role == DELTAD_SYSTEM ? 1 : 0);
	} else if (strncmp(line, "/system ", 8) == 0) {
		forget(c, 0);
		*ret_code = add(c, DELTAD_SYSTEM, line + 8);
	} else if (strcmp(line, "/help") == 0) {
		fputs(HELP, stdout);
	} else {
		fprintf(stderr, "deltactl chat: unknown command '%s'; /help lists them\n", line);
	}
	return *ret_code == EXIT_OK;
}

static bool read_line(const struct chat *c, char **line, size_t *room)
{
	ssize_t n;

	if (c->terminal) {
		fputs("> ", stdout);
		fflush(stdout);
	}
	do {
		interrupted = 0;
		clearerr(stdin);
		n = getline(line, room, stdin);
		if (n < 0 && interrupted && c->terminal)
			fputs("\n> ", stdout);
		fflush(stdout);
	} while (n < 0 && interrupted);
	if (n < 0) {
		if (c->terminal)
			putchar('\n');
		return false;
	}
	if (n > 0 && (*line)[n - 1] == '\n')
		(*line)[n - 1] = '\0';
	return true;
}

static int converse(struct chat *c)
{
	_cleanup_(freep) char *line = NULL;
	size_t room = 0;
	int code = EXIT_OK;

	while (read_line(c, &line, &room)) {
		if (line[0] == '\0')
			continue;
		if (line[0] == '/') {
			if (!obey(c, line, &code))
				break;
			continue;
		}
		code = turn(c, line);
		/* A person sees the refusal and may go on; a script must notice. */
		if (code == EXIT_REFUSED && c->terminal)
			code = EXIT_OK;
		if (code != EXIT_OK)
			break;
	}
	return code;
}

static int start(struct chat *c, const char *system)
{
	const struct sigaction action = {.sa_handler = on_interrupt};
	int code = generation_connect(c->generation.command, c->generation.socket, &c->d);

	if (code == EXIT_OK && system)
		code = add(c, DELTAD_SYSTEM, system);
	if (code != EXIT_OK)
		return code;
	c->terminal = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
	if (c->terminal)
		sigaction(SIGINT, &action, NULL);
	return converse(c);
}

static int run(int argc, char **argv)
{
	static const struct option options[] = {
		{"system", required_argument, NULL, 's'},
		{"help", no_argument, NULL, 'h'},
		GENERATION_LONG_OPTIONS,
		{0},
	};
	_cleanup_(chat_done) struct chat c = {0};
	const char *system = NULL;
	int code = EXIT_OK, o;

	generation_init(&c.generation, &command_chat);
	opterr = 0;
	optind = 0;
	while (code == EXIT_OK && (o = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		if (o == 'h')
			return command_help(&command_chat,
				"  --system TEXT   a system message at the "
				"beginning\n" GENERATION_HELP "\nWithin the conversation:\n" HELP);
		if (o == '?')
			return command_bad_option(&command_chat, argv);
		if (o == 's')
			system = optarg;
		else
			code = generation_take(&c.generation, o, optarg);
	}
	if (code != EXIT_OK)
		return code;
	if (argc - optind != 1)
		return command_usage(&command_chat, "expected a variant");
	c.generation.complete.variant = argv[optind];
	return start(&c, system);
}

const struct command command_chat = {
	.name = "chat",
	.arguments = "[OPTIONS] NAME",
	.summary = "talk to a variant; lines are turns, /quit leaves",
	.run = run,
};
