#include "client/deltactl/commands.h"
#include "client/deltactl/stats.h"

static int run(int argc, char **argv)
{
	_cleanup_(remote_done) struct remote r = {0};
	struct proto_message m = {.op = PROTO_STATS};
	const struct proto_stats_reply *stats = &r.reply.message.stats_reply;
	struct remote_options options;
	int code = remote_parse(&command_stats, argc, argv, true, false, &options);

	if (code >= 0)
		return code;
	code = remote_open(&r, &command_stats, options.socket);
	if (code == EXIT_OK)
		code = remote_call(&r, &m, PROTO_STATS_REPLY);
	if (code != EXIT_OK)
		return code;
	if (options.json)
		return remote_print_json(&command_stats, stats_json(stats));
	return stats_print(stats, 0) < 0 ? EXIT_FAILED : EXIT_OK;
}

const struct command command_stats = {
	.name = "stats",
	.arguments = "[--socket PATH] [--json]",
	.summary = "the daemon's counters, memory and times",
	.run = run,
};
