#include "client/deltactl/remote.h"
#include "client/deltactl/json_line.h"

#include "client/deltad.h"

#include <getopt.h>
#include <string.h>

static int print_help(const struct command *command, bool takes_json)
{
	return command_help(
		command, takes_json ? REMOTE_OPTIONS REMOTE_JSON_OPTION : REMOTE_OPTIONS);
}

static int take_name(
	const struct command *command, int argc, char **argv, bool takes_name, const char **ret)
{
	int left = argc - optind;

	if (left > (takes_name ? 1 : 0))
		return command_usage(command, "too many arguments");
	if (takes_name && left == 0)
		return command_usage(command, "which variant?");
	*ret = takes_name ? argv[optind] : NULL;
	return -1;
}

int remote_parse(const struct command *command, int argc, char **argv, bool takes_json,
	bool takes_name, struct remote_options *ret)
{
	static const struct option options[] = {
		{"socket", required_argument, NULL, 's'},
		{"json", no_argument, NULL, 'j'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	int o;

	*ret = (struct remote_options){.socket = secure_getenv("DELTAD_ADMIN_SOCKET")};
	opterr = 0;
	optind = 0;
	while ((o = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		if (o == 's')
			ret->socket = optarg;
		else if (o == 'j' && takes_json)
			ret->json = true;
		else if (o == 'h')
			return print_help(command, takes_json);
		else
			return command_bad_option(command, argv);
	}
	if (!ret->socket)
		ret->socket = REMOTE_ADMIN_SOCKET;
	return take_name(command, argc, argv, takes_name, &ret->name);
}

static bool unreachable(int error)
{
	return error == -ENOENT || error == -ECONNREFUSED || error == -ECONNRESET ||
	       error == -EACCES || error == -ENOTSOCK || error == -EPROTOTYPE;
}

int remote_fail(const struct command *command, int error, const char *words)
{
	fprintf(stderr, "deltactl %s: %s\n", command->name,
		words && words[0] ? words : deltad_strerror(error));
	if (unreachable(error))
		return EXIT_NO_DAEMON;
	return error == -ENOMEM || error == -EPROTO ? EXIT_FAILED : EXIT_REFUSED;
}

int remote_open(struct remote *r, const struct command *command, const char *socket)
{
	struct reason reason = {0};
	int error;

	r->command = command;
	r->connection = NULL;
	r->reply.map = NULL;
	r->reply.message = (struct proto_message){0};
	error = connection_open(socket, "deltactl " DELTAD_VERSION, &r->connection, &reason);
	return error < 0 ? remote_fail(command, error, reason.text) : EXIT_OK;
}

static int refused(const struct remote *r)
{
	const struct proto_error *e = &r->reply.message.error;

	if (e->words.n)
		fprintf(stderr, "deltactl %s: %.*s\n", r->command->name, (int)e->words.n,
			e->words.bytes);
	else
		fprintf(stderr, "deltactl %s: %s\n", r->command->name,
			proto_status_name(e->status));
	return EXIT_REFUSED;
}

int remote_call(struct remote *r, struct proto_message *m, enum proto_op expected)
{
	struct reason reason = {0};
	int error;

	wire_received_done(&r->reply);
	error = connection_call(r->connection, m, &r->reply, &reason);
	if (error < 0)
		return remote_fail(r->command, error, reason.text);
	if (r->reply.message.op == PROTO_ERROR)
		return refused(r);
	if (r->reply.message.op != expected)
		return remote_fail(r->command, -EPROTO, NULL);
	return EXIT_OK;
}

void remote_done(struct remote *r)
{
	wire_received_done(&r->reply);
	r->connection = connection_free(r->connection);
}

int remote_simple(
	const struct command *command, int argc, char **argv, enum proto_op op, bool takes_name)
{
	_cleanup_(remote_done) struct remote r = {0};
	struct proto_message m = {.op = op};
	struct remote_options options;
	const struct proto_str *words = &r.reply.message.ok.words;
	int code = remote_parse(command, argc, argv, false, takes_name, &options);

	if (code >= 0)
		return code;
	if (takes_name)
		m.name.name = proto_str(options.name);
	code = remote_open(&r, command, options.socket);
	if (code == EXIT_OK)
		code = remote_call(&r, &m, PROTO_OK);
	if (code == EXIT_OK && words->n > 0)
		printf("%.*s\n", (int)words->n, words->bytes);
	return code;
}

int remote_print_json(const struct command *command, json_t *value)
{
	struct reason reason = {0};
	int r = json_line_print(value, JSON_ENSURE_ASCII, &reason);

	return r < 0 ? command_fail(command->name, r, &reason) : EXIT_OK;
}

json_t *remote_json_str(struct proto_str s)
{
	json_t *value = json_stringn(s.n ? s.bytes : "", s.n);

	return value ? value : json_null();
}
