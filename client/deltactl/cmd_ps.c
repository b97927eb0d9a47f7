#include "client/deltactl/commands.h"
#include "client/deltactl/variants.h"

static int run(int argc, char **argv)
{
	_cleanup_(remote_done) struct remote r = {0};
	struct proto_message m = {.op = PROTO_PS};
	const struct proto_variants *variants = &r.reply.message.variants;
	struct remote_options options;
	int code = remote_parse(&command_ps, argc, argv, true, false, &options);

	if (code >= 0)
		return code;
	code = remote_open(&r, &command_ps, options.socket);
	if (code == EXIT_OK)
		code = remote_call(&r, &m, PROTO_PS_REPLY);
	if (code != EXIT_OK)
		return code;
	if (options.json)
		return remote_print_json(&command_ps, variants_json(variants));
	return variants_print_running(variants, NULL, 0) < 0 ? EXIT_FAILED : EXIT_OK;
}

const struct command command_ps = {
	.name = "ps",
	.arguments = "[--socket PATH] [--json]",
	.summary = "the variants in memory and what they do",
	.run = run,
};
