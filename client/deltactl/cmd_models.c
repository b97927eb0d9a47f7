#include "client/deltactl/commands.h"
#include "client/deltactl/generation.h"
#include "client/deltactl/table.h"

#include <getopt.h>

static int print_table(const struct deltad_models *models)
{
	_cleanup_(table_done) struct table t = {0};
	const struct deltad_model *m;
	char size[16];

	table_column(&t, "NAME", false);
	table_column(&t, "STATE", false);
	table_column(&t, "FILE", true);
	table_column(&t, "CONTEXT", true);
	table_column(&t, "CHAT", false);
	for (size_t i = 0; (m = deltad_models_get(models, i)); i++) {
		table_cell(&t, "%s%s", m->name, m->is_base ? " (base)" : "");
		table_cell(&t, "%s", proto_residency_name((enum proto_residency)m->residency));
		table_cell(&t, "%s", human_bytes(m->file_bytes, size));
		if (m->context)
			table_cell(&t, "%u", m->context);
		else
			table_cell(&t, "-");
		table_cell(&t, "%s", m->has_chat ? "yes" : "no");
	}
	return table_print(&t, stdout, 0) < 0 ? EXIT_FAILED : EXIT_OK;
}

static json_t *to_json(const struct deltad_models *models)
{
	json_t *list = json_array();
	const struct deltad_model *m;

	for (size_t i = 0; (m = deltad_models_get(models, i)); i++) {
		json_t *one = json_pack("{ss ss sb sb sI sI sI sI}", "name", m->name, "state",
			proto_residency_name((enum proto_residency)m->residency), "base",
			m->is_base, "chat", m->has_chat, "file_bytes", (json_int_t)m->file_bytes,
			"memory_bytes", (json_int_t)m->memory_bytes, "context",
			(json_int_t)m->context, "vocabulary", (json_int_t)m->vocabulary);

		if (json_array_append_new(list, one) < 0) {
			json_decref(list);
			return NULL;
		}
	}
	return list;
}

static int print_models(const char *socket, bool json)
{
	struct deltad_models *models = NULL;
	struct deltad *d = NULL;
	int code = generation_connect(&command_models, socket, &d);
	int r;

	if (code != EXIT_OK)
		return code;
	r = deltad_models(d, &models);
	if (r < 0)
		code = remote_fail(&command_models, r, deltad_reason(d));
	else
		code = json ? remote_print_json(&command_models, to_json(models))
			    : print_table(models);
	deltad_models_free(models);
	deltad_close(d);
	return code;
}

static int run(int argc, char **argv)
{
	static const struct option options[] = {
		{"socket", required_argument, NULL, 's'},
		{"json", no_argument, NULL, 'j'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	const char *socket = NULL;
	bool json = false;
	int o;

	opterr = 0;
	optind = 0;
	while ((o = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		if (o == 'h')
			return command_help(
				&command_models, GENERATION_SOCKET_OPTION REMOTE_JSON_OPTION);
		if (o == 's')
			socket = optarg;
		else if (o == 'j')
			json = true;
		else
			return command_bad_option(&command_models, argv);
	}
	if (optind < argc)
		return command_usage(&command_models, "too many arguments");
	return print_models(socket, json);
}

const struct command command_models = {
	.name = "models",
	.arguments = "[--socket PATH] [--json]",
	.summary = "the variants that you may use",
	.run = run,
};
