#include "client/deltactl/commands.h"
#include "client/deltactl/remote.h"

static int run(int argc, char **argv)
{
	return remote_simple(&command_pin, argc, argv, PROTO_PIN, true);
}

const struct command command_pin = {
	.name = "pin",
	.arguments = "[--socket PATH] NAME",
	.summary = "bring a variant into memory and keep it there",
	.run = run,
};
