#include "daemon/config.h"

#include "common/file.h"
#include "daemon/config_value.h"
#include "daemon/config_yaml.h"
#include "engine/kv.h"

#include <string.h>
#include <sys/un.h>

#define MAX_FILE (UINT64_C(1) << 20)
#define KIB (UINT64_C(1) << 10)
#define MIB (UINT64_C(1) << 20)
#define TIB (UINT64_C(1) << 40)

static const char *const log_words[] = {"error", "warning", "info", "debug", NULL};

#define AT(field) offsetof(struct config, field)

/* etc/deltad.yaml and deltad.yaml(5) say the same in more words; a test compares them. */
const struct config_key config_keys[] = {
	{"store.folder", CONFIG_TYPE_PATH, AT(store_folder), "/var/lib/deltad", .live = false},
	{"store.base", CONFIG_TYPE_TEXT, AT(store_base), "base.base", .live = false},
	{"sockets.inference", CONFIG_TYPE_PATH, AT(sockets_inference), "/run/deltad/deltad.sock",
		.live = false},
	{"sockets.inference_mode", CONFIG_TYPE_MODE, AT(sockets_inference_mode), "0660", 0, 0777,
		.live = false},
	{"sockets.admin", CONFIG_TYPE_PATH, AT(sockets_admin), "/run/deltad/admin.sock",
		.live = false},
	{"sockets.admin_mode", CONFIG_TYPE_MODE, AT(sockets_admin_mode), "0600", 0, 0777,
		.live = false},
	{"memory.deltas", CONFIG_TYPE_SIZE, AT(memory_deltas), "4 GiB", 0, 1024 * TIB,
		.live = true},
	{"memory.kv", CONFIG_TYPE_SIZE, AT(memory_kv), "1 GiB", MIB, 1024 * TIB, .live = false},
	{"engine.threads", CONFIG_TYPE_COUNT, AT(engine_threads), "0", 0, 4096, .live = false},
	{"engine.batch_rows", CONFIG_TYPE_COUNT, AT(engine_batch_rows), "128", 1, 4096,
		.live = false},
	{"engine.prompt_chunk", CONFIG_TYPE_COUNT, AT(engine_prompt_chunk), "64", 1, 4096,
		.live = false},
	{"engine.jobs", CONFIG_TYPE_COUNT, AT(engine_jobs), "64", 1, 4096, .live = false},
	{"engine.kv_type", CONFIG_TYPE_WORD, AT(engine_kv_type), "bf16", .words = kv_type_names,
		.live = false},
	{"limits.connections", CONFIG_TYPE_COUNT, AT(limits_connections), "256", 1, 65536,
		.live = true},
	{"limits.connections_per_user", CONFIG_TYPE_COUNT, AT(limits_connections_per_user), "64", 1,
		65536, .live = true},
	{"limits.requests_per_user", CONFIG_TYPE_COUNT, AT(limits_requests_per_user), "32", 1,
		65536, .live = true},
	{"limits.queue_per_user", CONFIG_TYPE_SIZE, AT(limits_queue_per_user), "16 MiB", 64 * KIB,
		TIB, .live = true},
	{"queue.high", CONFIG_TYPE_SIZE, AT(queue_high), "64 KiB", KIB, 64 * MIB, .live = true},
	{"queue.low", CONFIG_TYPE_SIZE, AT(queue_low), "16 KiB", 0, 64 * MIB, .live = true},
	{"queue.stall", CONFIG_TYPE_DURATION, AT(queue_stall), "30 s", 100, 86400000, .live = true},
	{"shutdown.drain", CONFIG_TYPE_DURATION, AT(shutdown_drain), "30 s", 0, 86400000,
		.live = true},
	{"log.level", CONFIG_TYPE_WORD, AT(log_level), "info", .words = log_words, .live = true},
};
const size_t n_config_keys = array_len(config_keys);

static bool key_is_text(const struct config_key *key)
{
	return key->type == CONFIG_TYPE_PATH || key->type == CONFIG_TYPE_TEXT;
}

static char **text_at(const struct config *c, const struct config_key *key)
{
	return (char **)((uintptr_t)c + key->offset);
}

static uint64_t *number_at(const struct config *c, const struct config_key *key)
{
	return (uint64_t *)((uintptr_t)c + key->offset);
}

/* Edits that turn one word into the other, to find the key that was meant. */
static size_t distance(const char *a, const char *b)
{
	size_t row[64], n = strlen(b);

	if (n >= array_len(row))
		return SIZE_MAX;
	for (size_t j = 0; j <= n; j++)
		row[j] = j;
	for (size_t i = 1; *a; a++, i++) {
		size_t diagonal = row[0];

		row[0] = i;
		for (size_t j = 1; j <= n; j++) {
			size_t best = diagonal + (*a != b[j - 1]);

			diagonal = row[j];
			best = min_u64(best, min_u64(row[j], row[j - 1]) + 1);
			row[j] = best;
		}
	}
	return row[n];
}

static int unknown_key(const char *name, struct reason *reason)
{
	const struct config_key *nearest = &config_keys[0];

	for (size_t i = 1; i < n_config_keys; i++)
		if (distance(name, config_keys[i].name) < distance(name, nearest->name))
			nearest = &config_keys[i];
	return reason_set(reason, -EBADMSG, "unknown key %s; the nearest known one is %s", name,
		nearest->name);
}

static int set_text(
	struct config *c, const struct config_key *key, const char *text, struct reason *reason)
{
	char *copy;

	if (key->type == CONFIG_TYPE_PATH && text[0] != '/')
		return reason_set(
			reason, -EBADMSG, "%s: \"%s\" is not an absolute path", key->name, text);
	if (!*text)
		return reason_set(reason, -EBADMSG, "%s: is empty", key->name);
	for (const char *at = text; *at; at++)
		if ((unsigned char)*at < ' ' || *at == 0x7f)
			return reason_set(
				reason, -EBADMSG, "%s: has a control character", key->name);
	copy = strdup(text);
	if (!copy)
		return -ENOMEM;
	free(*text_at(c, key));
	*text_at(c, key) = copy;
	return 0;
}

int config_set(struct config *c, const char *name, const char *text, struct reason *reason)
{
	for (size_t i = 0; i < n_config_keys; i++) {
		const struct config_key *key = &config_keys[i];

		if (strcmp(key->name, name) != 0)
			continue;
		if (key_is_text(key))
			return set_text(c, key, text, reason);
		return config_value_parse(key, text, number_at(c, key), reason);
	}
	return unknown_key(name, reason);
}

int config_new(struct config **ret, struct reason *reason)
{
	_cleanup_(config_freep) struct config *c = calloc(1, sizeof(*c));

	if (!c)
		return reason_set(reason, -ENOMEM, "out of memory");
	for (size_t i = 0; i < n_config_keys; i++) {
		int r = config_set(c, config_keys[i].name, config_keys[i].initial, reason);

		if (r < 0)
			return r;
	}
	*ret = take_ptr(c);
	return 0;
}

struct config *config_free(struct config *c)
{
	if (!c)
		return NULL;
	for (size_t i = 0; i < n_config_keys; i++)
		if (key_is_text(&config_keys[i]))
			free(*text_at(c, &config_keys[i]));
	free(c);
	return NULL;
}

static int check_socket_path(const char *name, const char *path, struct reason *reason)
{
	size_t most = sizeof(((struct sockaddr_un *)NULL)->sun_path) - 1;

	if (strlen(path) > most)
		return reason_set(reason, -EBADMSG,
			"%s: %zu bytes, a socket's path has at most %zu", name, strlen(path), most);
	return 0;
}

int config_check(const struct config *c, struct reason *reason)
{
	int r;

	r = check_socket_path("sockets.inference", c->sockets_inference, reason);
	if (r < 0)
		return r;
	r = check_socket_path("sockets.admin", c->sockets_admin, reason);
	if (r < 0)
		return r;
	if (strcmp(c->sockets_inference, c->sockets_admin) == 0)
		return reason_set(reason, -EBADMSG,
			"sockets.inference and sockets.admin are the same path %s",
			c->sockets_admin);
	if (c->queue_low >= c->queue_high)
		return reason_set(reason, -EBADMSG, "queue.low must be less than queue.high");
	if (c->queue_high > c->limits_queue_per_user)
		return reason_set(
			reason, -EBADMSG, "queue.high must not exceed limits.queue_per_user");
	if (c->engine_prompt_chunk > c->engine_batch_rows)
		return reason_set(
			reason, -EBADMSG, "engine.prompt_chunk must not exceed engine.batch_rows");
	return 0;
}

static int set_from_file(void *user, const char *name, const char *text, struct reason *reason)
{
	return config_set(user, name, text, reason);
}

int config_read(const char *path, struct config **ret, struct reason *reason)
{
	_cleanup_(config_freep) struct config *c = NULL;
	_cleanup_(freep) char *text = NULL;
	size_t n = 0;
	int r;

	r = config_new(&c, reason);
	if (r < 0)
		return r;
	r = file_load(path, MAX_FILE, &text, &n, reason);
	if (r < 0)
		return r;
	r = config_yaml_walk(text, n, set_from_file, c, reason);
	if (r < 0)
		return reason_prefix(reason, r, "%s", path);
	r = config_check(c, reason);
	if (r < 0)
		return reason_prefix(reason, r, "%s", path);
	*ret = take_ptr(c);
	return 0;
}

static void print_quoted(const char *text, FILE *out)
{
	fputc('"', out);
	for (; *text; text++) {
		if (*text == '"' || *text == '\\')
			fputc('\\', out);
		fputc(*text, out);
	}
	fputc('"', out);
}

void config_print(const struct config *c, FILE *out)
{
	char value[CONFIG_VALUE_SIZE];
	size_t n_section = 0;

	for (size_t i = 0; i < n_config_keys; i++) {
		const struct config_key *key = &config_keys[i];
		const char *dot = strchr(key->name, '.');

		if (!n_section || strncmp(key->name, config_keys[i - 1].name, n_section + 1) != 0) {
			n_section = (size_t)(dot - key->name);
			fprintf(out, "%.*s:\n", (int)n_section, key->name);
		}
		fprintf(out, "  %s: ", dot + 1);
		if (key_is_text(key)) {
			print_quoted(*text_at(c, key), out);
		} else {
			config_value_format(key, *number_at(c, key), value);
			fputs(value, out);
		}
		fputc('\n', out);
	}
}

const struct config_key *config_difference(
	const struct config *a, const struct config *b, size_t *index)
{
	while (*index < n_config_keys) {
		const struct config_key *key = &config_keys[(*index)++];
		bool same = key_is_text(key) ? strcmp(*text_at(a, key), *text_at(b, key)) == 0
					     : *number_at(a, key) == *number_at(b, key);

		if (!same)
			return key;
	}
	return NULL;
}

void config_swap(struct config *a, struct config *b, const struct config_key *key)
{
	if (key_is_text(key)) {
		char *text = *text_at(a, key);

		*text_at(a, key) = *text_at(b, key);
		*text_at(b, key) = text;
	} else {
		uint64_t number = *number_at(a, key);

		*number_at(a, key) = *number_at(b, key);
		*number_at(b, key) = number;
	}
}
