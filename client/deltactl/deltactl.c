/*
 * The table of commands and the way into them.
 */
#include "client/deltactl/command.h"
#include "client/deltactl/commands.h"

#include <string.h>

const struct command *const commands[] = {
	&command_import,
	&command_compress,
	&command_eval,
	&command_verify,
	&command_inspect,
	&command_cut,
	&command_score,
	&command_bench,
	&command_tokenize,
	&command_detokenize,
	&command_merge,
	&command_run,
	&command_chat,
	&command_models,
	&command_list,
	&command_ps,
	&command_show,
	&command_load,
	&command_unload,
	&command_pin,
	&command_unpin,
	&command_stats,
	&command_top,
	&command_reload,
	&command_drain,
	NULL,
};

/* What the commands from this one on have in common; NULL in the middle of a group. */
static const char *heading_of(const struct command *command)
{
	if (command == &command_import)
		return "on files";
	if (command == &command_run)
		return "asking the daemon";
	if (command == &command_list)
		return "administration of the daemon";
	return NULL;
}

static void print_overview(FILE *to)
{
	fprintf(to, "usage: deltactl COMMAND [ARGUMENTS]\n");
	for (size_t i = 0; commands[i]; i++) {
		const char *heading = heading_of(commands[i]);

		if (heading)
			fprintf(to, "\n%s:\n", heading);
		fprintf(to, "  %-12s %s\n", commands[i]->name, commands[i]->summary);
	}
	fprintf(to, "\n'deltactl COMMAND --help' tells the options of a command; "
		    "deltactl(1) all of them.\n");
}

/* Whatever a command prints is written or told of: a full disk is not a success. */
static int run_command(const struct command *command, int argc, char **argv)
{
	const struct reason reason = {"cannot write standard output"};
	int code = command->run(argc, argv);

	if ((fflush(stdout) == EOF || ferror(stdout)) && code == EXIT_OK)
		return command_fail(command->name, -EIO, &reason);
	return code;
}

int main(int argc, char **argv)
{
	if (argc < 2) {
		print_overview(stderr);
		return EXIT_USAGE;
	}
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "help") == 0) {
		print_overview(stdout);
		return EXIT_OK;
	}
	if (strcmp(argv[1], "--version") == 0) {
		printf("deltactl %s\n", DELTAD_VERSION);
		return EXIT_OK;
	}
	for (size_t i = 0; commands[i]; i++)
		if (strcmp(argv[1], commands[i]->name) == 0)
			return run_command(commands[i], argc - 1, argv + 1);
	fprintf(stderr, "deltactl: unknown command '%s'; 'deltactl --help' lists them\n", argv[1]);
	return EXIT_USAGE;
}
