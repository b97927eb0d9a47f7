/*
 * deltad: keeps a base model and its variants in memory and answers local programs.
 */
#include "common/base.h"
#include "daemon/config.h"
#include "daemon/log.h"
#include "daemon/server.h"

#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#define DEFAULT_CONFIG "/etc/deltad/deltad.yaml"

static const char help[] =
	"Usage: deltad [OPTION]...\n"
	"Serves a base model and its variants to local programs; see deltad(8).\n\n"
	"  --config FILE         configuration (" DEFAULT_CONFIG ")\n"
	"  --check-config        print the configuration in force and exit\n"
	"  --store DIR           instead of store.folder\n"
	"  --base FILE           instead of store.base\n"
	"  --socket PATH         instead of sockets.inference\n"
	"  --admin-socket PATH   instead of sockets.admin\n"
	"  --version             print the version and exit\n"
	"  --help                print this and exit\n";

enum exit_code {
	EXIT_OK = 0,
	EXIT_FAILED = 1,
	EXIT_USAGE = 2,
	EXIT_CONFIG = 3,
};

enum action {
	ACTION_SERVE,
	ACTION_CHECK_CONFIG,
	ACTION_VERSION,
	ACTION_HELP,
	ACTION_MISUSED,
};

static enum action parse_options(int argc, char **argv, struct server_options *ret)
{
	static const struct option known[] = {
		{"config", required_argument, NULL, 'c'},
		{"check-config", no_argument, NULL, 'k'},
		{"store", required_argument, NULL, 's'},
		{"base", required_argument, NULL, 'b'},
		{"socket", required_argument, NULL, 'i'},
		{"admin-socket", required_argument, NULL, 'a'},
		{"version", no_argument, NULL, 'v'},
		{"help", no_argument, NULL, 'h'},
		{NULL, 0, NULL, 0},
	};
	enum action action = ACTION_SERVE;
	int c;

	while ((c = getopt_long(argc, argv, "", known, NULL)) != -1) {
		if (c == 'c')
			ret->config_path = optarg;
		else if (c == 's')
			ret->store_folder = optarg;
		else if (c == 'b')
			ret->base = optarg;
		else if (c == 'i')
			ret->inference_socket = optarg;
		else if (c == 'a')
			ret->admin_socket = optarg;
		else if (c == 'k')
			action = ACTION_CHECK_CONFIG;
		else
			return c == 'v' ? ACTION_VERSION : c == 'h' ? ACTION_HELP : ACTION_MISUSED;
	}
	if (optind < argc) {
		fprintf(stderr, "deltad: unexpected argument %s\n", argv[optind]);
		return ACTION_MISUSED;
	}
	return action;
}

static int fail(const char *what, int error, const struct reason *reason)
{
	log_error("%s: %s", what, reason->text[0] ? reason->text : strerror(-error));
	return EXIT_FAILED;
}

static int serve(const struct server_options *options, struct config *config)
{
	_cleanup_(server_freep) struct server *server = NULL;
	struct reason reason = {""};
	int r;

	r = server_new(options, config, &server, &reason);
	if (r < 0)
		return fail("cannot start", r, &reason);
	return server_run(server) < 0 ? EXIT_FAILED : EXIT_OK;
}

static int configure(const struct server_options *options, enum action action)
{
	_cleanup_(config_freep) struct config *config = NULL;
	struct reason reason = {""};
	int r;

	r = server_read_config(options, &config, &reason);
	if (r < 0) {
		fail("configuration", r, &reason);
		return EXIT_CONFIG;
	}
	if (action == ACTION_SERVE)
		return serve(options, take_ptr(config));
	config_print(config, stdout);
	return EXIT_OK;
}

int main(int argc, char **argv)
{
	struct server_options options = {.config_path = DEFAULT_CONFIG};
	enum action action = parse_options(argc, argv, &options);

	signal(SIGPIPE, SIG_IGN);
	log_open();
	switch (action) {
	case ACTION_SERVE:
	case ACTION_CHECK_CONFIG:
		return configure(&options, action);
	case ACTION_VERSION:
		puts("deltad " DELTAD_VERSION);
		return EXIT_OK;
	case ACTION_HELP:
		fputs(help, stdout);
		return EXIT_OK;
	case ACTION_MISUSED:
		fputs(help, stderr);
		return EXIT_USAGE;
	}
	return EXIT_USAGE;
}
