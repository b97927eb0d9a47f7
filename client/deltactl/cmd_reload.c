#include "client/deltactl/commands.h"
#include "client/deltactl/remote.h"

static int run(int argc, char **argv)
{
	return remote_simple(&command_reload, argc, argv, PROTO_RELOAD, false);
}

const struct command command_reload = {
	.name = "reload",
	.arguments = "[--socket PATH]",
	.summary = "read the configuration again",
	.run = run,
};
