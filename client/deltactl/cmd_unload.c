#include "client/deltactl/commands.h"
#include "client/deltactl/remote.h"

static int run(int argc, char **argv)
{
	return remote_simple(&command_unload, argc, argv, PROTO_UNLOAD, true);
}

const struct command command_unload = {
	.name = "unload",
	.arguments = "[--socket PATH] NAME",
	.summary = "take a variant out of memory when its last request has ended",
	.run = run,
};
