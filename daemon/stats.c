#include "daemon/stats.h"

#include "common/clock.h"
#include "daemon/server.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

struct collection {
	struct proto_stat *items;
	uint32_t n;
};

static void add(struct collection *c, const char *name, enum proto_stat_kind kind, uint64_t value)
{
	assert(c->n < STATS_MAX);
	c->items[c->n++] =
		(struct proto_stat){.name = proto_str(name), .kind = kind, .value = value};
}

/* "VmRSS:   1234 kB" of /proc/self/status. Lines that an older kernel lacks stay out. */
static void add_kernel_memory(struct collection *c)
{
	static const struct {
		const char *field;
		const char *name;
	} fields[] = {
		{"VmRSS:", "kernel_resident_bytes"},
		{"RssAnon:", "kernel_anonymous_bytes"},
		{"RssFile:", "kernel_file_bytes"},
		{"RssShmem:", "kernel_shared_bytes"},
		{"VmLck:", "kernel_locked_bytes"},
	};
	FILE *f = fopen("/proc/self/status", "re");
	char line[256];

	while (f && fgets(line, sizeof(line), f)) {
		for (size_t i = 0; i < array_len(fields); i++) {
			size_t n = strlen(fields[i].field);

			if (strncmp(line, fields[i].field, n) == 0)
				add(c, fields[i].name, PROTO_STAT_BYTES,
					strtoull(line + n, NULL, 10) * 1024);
		}
	}
	if (f)
		fclose(f);
}

static void add_engine(struct collection *c, const struct engine *engine)
{
	struct engine_stats s;

	if (!engine)
		return;
	engine_stats(engine, &s);
	add(c, "engine_running", PROTO_STAT_GAUGE, s.n_running);
	add(c, "engine_waiting", PROTO_STAT_GAUGE, s.n_waiting);
	add(c, "engine_steps", PROTO_STAT_COUNTER, s.n_steps);
	add(c, "prompt_tokens", PROTO_STAT_COUNTER, s.n_prompt_tokens);
	add(c, "generated_tokens", PROTO_STAT_COUNTER, s.n_generated_tokens);
	add(c, "kv_pages", PROTO_STAT_GAUGE, s.kv_pages);
	add(c, "kv_pages_free", PROTO_STAT_GAUGE, s.kv_pages_free);
	add(c, "kv_bytes", PROTO_STAT_BYTES, s.kv_bytes);
	add(c, "scratch_bytes", PROTO_STAT_BYTES, s.scratch_bytes);
}

static void add_registry(struct collection *c, const struct server *server)
{
	uint64_t base = server->base ? server->base->memory_bytes : 0;
	struct registry_stats s;

	registry_stats(server->registry, &s);
	add(c, "base_bytes", PROTO_STAT_BYTES, base);
	add(c, "deltas_bytes", PROTO_STAT_BYTES, s.memory_bytes - base);
	add(c, "deltas_budget_bytes", PROTO_STAT_BYTES, s.budget_bytes);
	add(c, "deltas_charged_bytes", PROTO_STAT_BYTES, s.charged_bytes);
	add(c, "variants_resident", PROTO_STAT_GAUGE, s.n_resident);
	add(c, "loads", PROTO_STAT_COUNTER, s.n_loads);
	add(c, "load_failures", PROTO_STAT_COUNTER, s.n_failures);
	add(c, "evictions", PROTO_STAT_COUNTER, s.n_evictions);
}

uint32_t stats_collect(const struct server *server, struct proto_stat ret[static STATS_MAX])
{
	struct collection c = {.items = ret};

	add(&c, "uptime", PROTO_STAT_NANOSECONDS, clock_ns() - server->started_ns);
	add(&c, "connections", PROTO_STAT_GAUGE, server->n_sessions);
	add(&c, "users", PROTO_STAT_GAUGE, acct_users(server->acct));
	add(&c, "requests", PROTO_STAT_GAUGE, server->n_requests);
	add(&c, "requests_paused", PROTO_STAT_GAUGE, server->n_paused);
	add(&c, "queued_bytes", PROTO_STAT_BYTES, acct_total(server->acct, ACCT_KIND_QUEUED_BYTES));
	add_registry(&c, server);
	add_engine(&c, server->engine);
	add_kernel_memory(&c);
	return c.n;
}
