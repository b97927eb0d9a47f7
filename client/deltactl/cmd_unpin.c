#include "client/deltactl/commands.h"
#include "client/deltactl/remote.h"

static int run(int argc, char **argv)
{
	return remote_simple(&command_unpin, argc, argv, PROTO_UNPIN, true);
}

const struct command command_unpin = {
	.name = "unpin",
	.arguments = "[--socket PATH] NAME",
	.summary = "let a pinned variant be evicted again",
	.run = run,
};
