#include "client/deltactl/commands.h"
#include "client/deltactl/remote.h"

static int run(int argc, char **argv)
{
	_cleanup_(remote_done) struct remote r = {0};
	struct proto_message m = {.op = PROTO_LOAD};
	const struct proto_load_reply *reply = &r.reply.message.load_reply;
	struct remote_options options;
	char size[16], time[16];
	int code = remote_parse(&command_load, argc, argv, false, true, &options);

	if (code >= 0)
		return code;
	m.name.name = proto_str(options.name);
	code = remote_open(&r, &command_load, options.socket);
	if (code == EXIT_OK)
		code = remote_call(&r, &m, PROTO_LOAD_REPLY);
	if (code != EXIT_OK)
		return code;
	if (reply->load_ns == 0)
		printf("%s was resident already, %s\n", options.name,
			human_bytes(reply->memory_bytes, size));
	else
		printf("%s is resident, %s in %s\n", options.name,
			human_bytes(reply->memory_bytes, size),
			human_duration(reply->load_ns, time));
	return EXIT_OK;
}

const struct command command_load = {
	.name = "load",
	.arguments = "[--socket PATH] NAME",
	.summary = "bring a variant into memory and wait until it is there",
	.run = run,
};
