#include "client/deltactl/variants.h"

#include "client/deltactl/table.h"

#define SHORT_DIGEST 12

static const char *residency_text(const struct proto_variant *v, char ret[static 32])
{
	if (v->residency == PROTO_RESIDENCY_LOADING && v->file_bytes > 0)
		snprintf(ret, 32, "loading %.0f %%",
			100.0 * (double)v->loaded_bytes / (double)v->file_bytes);
	else
		snprintf(ret, 32, "%s%s", proto_residency_name(v->residency),
			v->flags & PROTO_VARIANT_PINNED ? ", pinned" : "");
	return ret;
}

/* Only a loaded file tells its context. */
static void context_cell(struct table *t, uint32_t context)
{
	if (context)
		table_cell(t, "%u", context);
	else
		table_cell(t, "-");
}

/* Zero where the file has no header that could be read. */
static void digest_cell(struct table *t, const struct digest *d)
{
	const struct digest unknown = {{0}};
	char hex[DIGEST_HEX_SIZE];

	digest_hex(d, hex);
	if (digest_equal(d, &unknown))
		table_cell(t, "-");
	else
		table_cell(t, "%.*s", SHORT_DIGEST, hex);
}

int variants_print_catalog(const struct proto_variants *variants)
{
	_cleanup_(table_done) struct table t = {0};
	char text[32], size[16];

	table_column(&t, "NAME", false);
	table_column(&t, "STATE", false);
	table_column(&t, "FILE", true);
	table_column(&t, "CONTEXT", true);
	table_column(&t, "CHAT", false);
	table_column(&t, "DIGEST", false);
	table_column(&t, "REMARK", false);
	for (uint32_t i = 0; i < variants->n; i++) {
		const struct proto_variant *v = &variants->items[i];

		table_cell(&t, "%.*s", (int)v->name.n, v->name.bytes);
		table_cell(&t, "%s", residency_text(v, text));
		table_cell(&t, "%s", human_bytes(v->file_bytes, size));
		context_cell(&t, v->context);
		table_cell(&t, "%s", v->flags & PROTO_VARIANT_CHAT ? "yes" : "no");
		digest_cell(&t, &v->digest);
		if (v->flags & PROTO_VARIANT_BASE && v->words.n == 0)
			table_cell(&t, "the base");
		else
			table_cell(&t, "%.*s", (int)v->words.n, v->words.bytes);
	}
	return table_print(&t, stdout, 0);
}

int variants_print_running(
	const struct proto_variants *variants, const double *rates, size_t max_rows)
{
	_cleanup_(table_done) struct table t = {0};
	char text[32], size[16];

	table_column(&t, "NAME", false);
	table_column(&t, "STATE", false);
	table_column(&t, "MEMORY", true);
	table_column(&t, "STREAMS", true);
	table_column(&t, "REQUESTS", true);
	table_column(&t, "TOKENS", true);
	if (rates)
		table_column(&t, "TOKENS/S", true);
	table_column(&t, "IDLE", true);
	for (uint32_t i = 0; i < variants->n; i++) {
		const struct proto_variant *v = &variants->items[i];

		table_cell(&t, "%.*s", (int)v->name.n, v->name.bytes);
		table_cell(&t, "%s", residency_text(v, text));
		table_cell(&t, "%s", human_bytes(v->memory_bytes, size));
		table_cell(&t, "%u", v->streams);
		table_cell(&t, "%llu", (unsigned long long)v->requests);
		table_cell(&t, "%llu", (unsigned long long)v->generated);
		if (rates)
			table_cell(&t, "%.1f", rates[i]);
		table_cell(&t, "%s", v->streams ? "-" : human_duration(v->idle_ns, size));
	}
	return table_print(&t, stdout, max_rows);
}

json_t *variant_json(const struct proto_variant *v)
{
	char digest[DIGEST_HEX_SIZE];

	digest_hex(&v->digest, digest);
	return json_pack("{so ss sb sb sb ss sI sI sI sI sI sI sI sI sI so}", "name",
		remote_json_str(v->name), "state", proto_residency_name(v->residency), "base",
		!!(v->flags & PROTO_VARIANT_BASE), "chat", !!(v->flags & PROTO_VARIANT_CHAT),
		"pinned", !!(v->flags & PROTO_VARIANT_PINNED), "digest", digest, "file_bytes",
		(json_int_t)v->file_bytes, "memory_bytes", (json_int_t)v->memory_bytes,
		"loaded_bytes", (json_int_t)v->loaded_bytes, "context", (json_int_t)v->context,
		"vocabulary", (json_int_t)v->vocabulary, "streams", (json_int_t)v->streams,
		"requests", (json_int_t)v->requests, "generated_tokens", (json_int_t)v->generated,
		"idle_ns", (json_int_t)v->idle_ns, "words", remote_json_str(v->words));
}

json_t *variants_json(const struct proto_variants *variants)
{
	json_t *list = json_array();

	for (uint32_t i = 0; i < variants->n; i++)
		if (json_array_append_new(list, variant_json(&variants->items[i])) < 0) {
			json_decref(list);
			return NULL;
		}
	return list;
}
