#include "client/deltactl/commands.h"
#include "client/deltactl/remote.h"

static int run(int argc, char **argv)
{
	return remote_simple(&command_drain, argc, argv, PROTO_DRAIN, false);
}

const struct command command_drain = {
	.name = "drain",
	.arguments = "[--socket PATH]",
	.summary = "take no new requests, finish the running ones, then stop the daemon",
	.run = run,
};
