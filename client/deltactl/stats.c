#include "client/deltactl/stats.h"

#include "client/deltactl/table.h"

static void value_cell(struct table *t, const struct proto_stat *s)
{
	char text[16];

	switch (s->kind) {
	case PROTO_STAT_COUNTER:
	case PROTO_STAT_GAUGE:
		table_cell(t, "%llu", (unsigned long long)s->value);
		return;
	case PROTO_STAT_BYTES:
		table_cell(t, "%s", human_bytes(s->value, text));
		return;
	case PROTO_STAT_NANOSECONDS:
		table_cell(t, "%s", human_duration(s->value, text));
		return;
	}
}

int stats_print(const struct proto_stats_reply *stats, size_t max_rows)
{
	_cleanup_(table_done) struct table t = {0};

	table_column(&t, "STATISTIC", false);
	table_column(&t, "VALUE", true);
	for (uint32_t i = 0; i < stats->n; i++) {
		table_cell(&t, "%.*s", (int)stats->items[i].name.n, stats->items[i].name.bytes);
		value_cell(&t, &stats->items[i]);
	}
	return table_print(&t, stdout, max_rows);
}

json_t *stats_json(const struct proto_stats_reply *stats)
{
	json_t *object = json_object();

	for (uint32_t i = 0; i < stats->n; i++) {
		char name[PROTO_MAX_NAME + 1];

		snprintf(name, sizeof(name), "%.*s", (int)stats->items[i].name.n,
			stats->items[i].name.bytes);
		if (json_object_set_new(
			    object, name, json_integer((json_int_t)stats->items[i].value)) < 0) {
			json_decref(object);
			return NULL;
		}
	}
	return object;
}
