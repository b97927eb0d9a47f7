#include "client/deltactl/answer.h"
#include "client/deltactl/commands.h"
#include "client/deltactl/number.h"

#include <string.h>

#define MAX_INPUT (8u << 20)

struct run {
	struct generation generation;
	struct answer answer;
	const char *variant;
	const char *text; /* argument, or the same as `input` */
	char *input;      /* owned; what came on stdin */
	const char *system;
	bool raw;
	bool stats;
};

static void run_done(struct run *r)
{
	answer_done(&r->answer);
	free(r->input);
}

/* The text as the user's turn of a conversation. */
static int ask_chat(struct run *r, struct deltad *d)
{
	struct deltad_complete_options *c = &r->generation.complete;
	struct deltad_message messages[2];

	c->n_messages = 0;
	if (r->system)
		messages[c->n_messages++] =
			(struct deltad_message){DELTAD_SYSTEM, r->system, strlen(r->system)};
	messages[c->n_messages++] = (struct deltad_message){DELTAD_USER, r->text, strlen(r->text)};
	c->messages = messages;
	return answer_run(&r->answer, &r->generation, d);
}

static int ask_raw(struct run *r, struct deltad *d)
{
	struct deltad_complete_options *c = &r->generation.complete;

	c->messages = NULL;
	c->text = r->text;
	c->n_text = strlen(r->text);
	return answer_run(&r->answer, &r->generation, d);
}

/* Only the daemon knows whether a variant that is not in memory has a chat format, so chat is asked
 * for first and the text is continued as it is where the daemon says that there is none. */
static int ask(struct run *r, struct deltad *d)
{
	int code;

	r->generation.complete.variant = r->variant;
	if (r->raw) {
		code = ask_raw(r, d);
	} else {
		r->answer.expected_error = r->system ? 0 : -ENOMSG;
		code = ask_chat(r, d);
		if (code == EXIT_REFUSED && !r->system && r->answer.error == -ENOMSG)
			code = ask_raw(r, d);
	}
	if (code == EXIT_OK && !r->answer.json)
		putchar('\n');
	if (code == EXIT_OK && r->stats) {
		fflush(stdout);
		fprintf(stderr, "[%s]\n", r->answer.figures);
	}
	return code;
}

static int read_input(struct run *r)
{
	size_t n;

	r->input = malloc(MAX_INPUT + 1);
	if (!r->input)
		return remote_fail(r->generation.command, -ENOMEM, NULL);
	n = fread(r->input, 1, MAX_INPUT + 1, stdin);
	if (n > MAX_INPUT || memchr(r->input, '\0', n))
		return command_usage(r->generation.command,
			"stdin: text of at most %u bytes without zero bytes", MAX_INPUT);
	r->input[n] = '\0';
	r->text = r->input;
	return EXIT_OK;
}

enum {
	OPTION_RAW = 1,
	OPTION_SYSTEM,
	OPTION_JSON,
	OPTION_STATS,
	OPTION_LOGPROBS,
};

static int take(struct run *r, int option)
{
	switch (option) {
	case OPTION_RAW:
		r->raw = true;
		return EXIT_OK;
	case OPTION_SYSTEM:
		r->system = optarg;
		return EXIT_OK;
	case OPTION_JSON:
		r->answer.json = true;
		return EXIT_OK;
	case OPTION_STATS:
		r->stats = true;
		return EXIT_OK;
	case OPTION_LOGPROBS:
		if (!number_u32(optarg, &r->generation.complete.n_logprobs))
			return command_usage(r->generation.command, "--logprobs: not a number");
		return EXIT_OK;
	default:
		return generation_take(&r->generation, option, optarg);
	}
}

static int run(int argc, char **argv)
{
	static const struct option options[] = {
		{"raw", no_argument, NULL, OPTION_RAW},
		{"system", required_argument, NULL, OPTION_SYSTEM},
		{"json", no_argument, NULL, OPTION_JSON},
		{"stats", no_argument, NULL, OPTION_STATS},
		{"logprobs", required_argument, NULL, OPTION_LOGPROBS},
		{"help", no_argument, NULL, 'h'},
		GENERATION_LONG_OPTIONS,
		{0},
	};
	_cleanup_(run_done) struct run r = {0};
	struct deltad *d = NULL;
	int code = EXIT_OK, o;

	generation_init(&r.generation, &command_run);
	opterr = 0;
	optind = 0;
	while (code == EXIT_OK && (o = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		if (o == 'h')
			return command_help(&command_run,
				"  --raw           continue the text itself, without a chat "
				"format\n"
				"  --system TEXT   a system message before the user's\n"
				"  --json          one object a token, the last one with the "
				"totals\n"
				"  --stats         tokens and times on a closing line of "
				"stderr\n"
				"  --logprobs N    with --json: the N most probable tokens of "
				"each\n" GENERATION_HELP);
		code = o == '?' ? command_bad_option(&command_run, argv) : take(&r, o);
	}
	if (code != EXIT_OK)
		return code;
	if (r.raw && r.system)
		return command_usage(&command_run, "--system and --raw exclude each other");
	if (argc - optind != 2)
		return command_usage(&command_run, "expected a variant and a text");
	r.variant = argv[optind];
	r.text = argv[optind + 1];
	if (strcmp(r.text, "-") == 0)
		code = read_input(&r);
	if (code == EXIT_OK)
		code = generation_connect(&command_run, r.generation.socket, &d);
	if (code == EXIT_OK)
		code = ask(&r, d);
	deltad_close(d);
	return code;
}

const struct command command_run = {
	.name = "run",
	.arguments = "[OPTIONS] NAME TEXT",
	.summary = "ask a variant once and show the answer as it comes; TEXT - reads stdin",
	.run = run,
};
