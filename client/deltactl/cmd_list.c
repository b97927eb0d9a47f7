#include "client/deltactl/commands.h"
#include "client/deltactl/variants.h"

static int run(int argc, char **argv)
{
	_cleanup_(remote_done) struct remote r = {0};
	struct proto_message m = {.op = PROTO_LIST};
	const struct proto_variants *variants = &r.reply.message.variants;
	struct remote_options options;
	int code = remote_parse(&command_list, argc, argv, true, false, &options);

	if (code >= 0)
		return code;
	code = remote_open(&r, &command_list, options.socket);
	if (code == EXIT_OK)
		code = remote_call(&r, &m, PROTO_LIST_REPLY);
	if (code != EXIT_OK)
		return code;
	if (options.json)
		return remote_print_json(&command_list, variants_json(variants));
	return variants_print_catalog(variants) < 0 ? EXIT_FAILED : EXIT_OK;
}

const struct command command_list = {
	.name = "list",
	.arguments = "[--socket PATH] [--json]",
	.summary = "the variants in the daemon's store",
	.run = run,
};
