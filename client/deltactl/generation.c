#include "client/deltactl/generation.h"

#include "client/deltactl/number.h"

#include <string.h>

#define DEFAULT_MAX_TOKENS 256

void generation_init(struct generation *g, const struct command *command)
{
	const struct deltad_complete_options defaults = DELTAD_COMPLETE_INIT;

	*g = (struct generation){.command = command, .complete = defaults};
	g->complete.max_tokens = DEFAULT_MAX_TOKENS;
	g->complete.stops = g->stops;
	g->complete.biases = g->biases;
}

static int take_stop(struct generation *g, const char *value)
{
	if (g->complete.n_stops == array_len(g->stops))
		return command_usage(g->command, "at most %zu --stop", array_len(g->stops));
	g->stops[g->complete.n_stops++] = value;
	return EXIT_OK;
}

static bool take_bias(struct generation *g, const char *value)
{
	struct deltad_bias *bias = &g->biases[g->complete.n_biases];
	const char *equals = strchr(value, '=');
	char token[16];

	if (g->complete.n_biases == array_len(g->biases) || !equals ||
		(size_t)(equals - value) >= sizeof(token))
		return false;
	memcpy(token, value, (size_t)(equals - value));
	token[equals - value] = '\0';
	if (!number_u32(token, &bias->token) || !number_f32(equals + 1, &bias->bias))
		return false;
	g->complete.n_biases++;
	return true;
}

static bool take_number(struct generation *g, enum generation_option option, const char *value)
{
	struct deltad_complete_options *c = &g->complete;

	switch (option) {
	case GENERATION_MAX_TOKENS:
		return number_u32(value, &c->max_tokens);
	case GENERATION_SEED:
		return number_u64(value, UINT64_MAX, &c->seed);
	case GENERATION_TEMPERATURE:
		return number_f32(value, &c->temperature);
	case GENERATION_TOP_K:
		return number_u32(value, &c->top_k);
	case GENERATION_TOP_P:
		return number_f32(value, &c->top_p);
	case GENERATION_MIN_P:
		return number_f32(value, &c->min_p);
	case GENERATION_REPETITION:
		return number_f32(value, &c->repetition_penalty);
	case GENERATION_PRESENCE:
		return number_f32(value, &c->presence_penalty);
	case GENERATION_FREQUENCY:
		return number_f32(value, &c->frequency_penalty);
	case GENERATION_LOGIT_BIAS:
		return take_bias(g, value);
	case GENERATION_SOCKET:
	case GENERATION_STOP:
	case GENERATION_IGNORE_EOS:
		break;
	}
	return false;
}

static const char *option_name(int option)
{
	static const struct option options[] = {GENERATION_LONG_OPTIONS, {0}};
	const struct option *o = options;

	while (o->name && o->val != option)
		o++;
	return o->name ? o->name : "?";
}

int generation_take(struct generation *g, int option, const char *value)
{
	if (option == GENERATION_STOP)
		return take_stop(g, value);
	if (option == GENERATION_SOCKET)
		g->socket = value;
	else if (option == GENERATION_IGNORE_EOS)
		g->complete.flags |= DELTAD_IGNORE_EOS;
	else if (!take_number(g, (enum generation_option)option, value))
		return command_usage(
			g->command, "--%s: '%s' is not a value for it", option_name(option), value);
	return EXIT_OK;
}

int generation_connect(const struct command *command, const char *socket, struct deltad **ret)
{
	const char *path = socket ? socket : secure_getenv("DELTAD_SOCKET");
	struct reason reason;
	int r = deltad_connect(socket, ret);

	if (r == 0)
		return EXIT_OK;
	reason_set(&reason, r, "%s: %s", path ? path : DELTAD_SOCKET_PATH,
		r == -ENOENT ? "no daemon is there" : deltad_strerror(r));
	return remote_fail(command, r, reason.text);
}
