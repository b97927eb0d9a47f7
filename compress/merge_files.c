#include "compress/merge_files.h"

#include "common/file.h"
#include "foreign/json.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define MAX_JSON_BYTES (1u << 20)
#define COPY_BYTES (1u << 20)

static int create(const char *folder, const char *name, int *ret, struct reason *reason)
{
	_cleanup_(freep) char *path = NULL;
	int fd;

	if (asprintf(&path, "%s/%s", folder, name) < 0)
		return reason_set(reason, -ENOMEM, "out of memory");
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
	if (fd < 0)
		return reason_set(reason, -errno, "%s: cannot create: %s", path, strerror(errno));
	*ret = fd;
	return 0;
}

static int write_whole(
	const char *folder, const char *name, const char *text, size_t n, struct reason *reason)
{
	_cleanup_(closep) int fd = -1;
	int r = create(folder, name, &fd, reason);

	if (r < 0)
		return r;
	r = file_write_at(fd, text, n, 0);
	if (r == 0 && fsync(fd) < 0)
		r = -errno;
	if (r < 0)
		return reason_set(reason, r, "%s/%s: cannot write: %s", folder, name, strerror(-r));
	return 0;
}

/* Reals in as few digits as give the same numbers again. */
static char *dump(const json_t *json)
{
	for (size_t digits = 15;; digits++) {
		_cleanup_(json_freep) json_t *again = NULL;
		char *text = json_dumps(json, JSON_INDENT(2) | JSON_REAL_PRECISION(digits));

		if (!text || digits == 17)
			return text;
		again = json_loads(text, JSON_ALLOW_NUL, NULL);
		if (json_equal(json, again))
			return text;
		free(text);
	}
}

int merge_files_json(
	const char *folder, const char *name, const json_t *json, struct reason *reason)
{
	_cleanup_(freep) char *text = dump(json);

	if (!text)
		return reason_set(reason, -ENOMEM, "out of memory");
	return write_whole(folder, name, text, strlen(text), reason);
}

/* One id stays a number, several are a list, none is null. */
static json_t *eos_value(const struct model_config *c)
{
	json_t *list;

	if (c->n_eos == 0)
		return json_null();
	if (c->n_eos == 1)
		return json_integer(c->eos[0]);
	list = json_array();
	for (uint32_t i = 0; i < c->n_eos; i++)
		json_array_append_new(list, json_integer(c->eos[i]));
	return list;
}

/* None is null too: without the key a reader takes what it knows of the family. */
static int set_id(json_t *json, const char *key, int32_t id)
{
	return json_object_set_new(json, key, id >= 0 ? json_integer(id) : json_null());
}

static int set_tokens(json_t *json, const struct model_config *c)
{
	int r = json_object_set_new(json, "eos_token_id", eos_value(c));

	if (r == 0)
		r = set_id(json, "bos_token_id", c->bos);
	return r < 0 ? r : set_id(json, "pad_token_id", c->pad);
}

static int load(const char *folder, const char *name, json_t **ret, struct reason *reason)
{
	static const struct json_limits limits = {MAX_JSON_BYTES, 32, 1u << 16, 0};

	return json_object_load(folder, name, &limits, ret, reason);
}

static int write_config(const char *base_folder, const char *folder, const struct model_config *c,
	struct reason *reason)
{
	_cleanup_(json_freep) json_t *json = NULL;
	const char *dtype;
	int r = load(base_folder, "config.json", &json, reason);

	if (r < 0)
		return r;
	dtype = json_object_get(json, "dtype") ? "dtype" : "torch_dtype";
	if (json_object_set_new(json, dtype, json_string("bfloat16")) < 0 ||
		json_object_set_new(json, "vocab_size", json_integer(c->vocab)) < 0 ||
		json_object_set_new(
			json, "max_position_embeddings", json_integer(c->max_positions)) < 0 ||
		set_tokens(json, c) < 0)
		return reason_set(reason, -ENOMEM, "out of memory");
	return merge_files_json(folder, "config.json", json, reason);
}

/* A base without the file needs none: its ids are in config.json. */
static int write_generation_config(const char *base_folder, const char *folder,
	const struct model_config *c, struct reason *reason)
{
	_cleanup_(json_freep) json_t *json = NULL;
	int r = load(base_folder, "generation_config.json", &json, reason);

	if (r == -ENOENT)
		return 0;
	if (r < 0)
		return r;
	if (set_tokens(json, c) < 0)
		return reason_set(reason, -ENOMEM, "out of memory");
	return merge_files_json(folder, "generation_config.json", json, reason);
}

static int copy_bytes(int from, int to)
{
	_cleanup_(freep) uint8_t *buffer = malloc(COPY_BYTES);
	uint64_t at = 0;
	ssize_t n;
	int r;

	if (!buffer)
		return -ENOMEM;
	for (;;) {
		n = pread(from, buffer, COPY_BYTES, (off_t)at);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : 0;
		r = file_write_at(to, buffer, (size_t)n, at);
		if (r < 0)
			return r;
		at += (uint64_t)n;
	}
}

int merge_files_copy(
	const char *base_folder, const char *folder, const char *name, struct reason *reason)
{
	_cleanup_(closep) int from = -1, to = -1;
	_cleanup_(freep) char *path = NULL;
	struct stat st;
	int r;

	if (asprintf(&path, "%s/%s", base_folder, name) < 0)
		return reason_set(reason, -ENOMEM, "out of memory");
	from = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (from < 0 && errno == ENOENT)
		return 0;
	if (from < 0 || fstat(from, &st) < 0)
		return reason_set(reason, -errno, "%s: cannot open: %s", path, strerror(errno));
	if (!S_ISREG(st.st_mode))
		return reason_set(reason, -EBADMSG, "%s: not a regular file", path);
	r = create(folder, name, &to, reason);
	if (r < 0)
		return r;
	r = copy_bytes(from, to);
	if (r == 0 && fsync(to) < 0)
		r = -errno;
	return r < 0 ? reason_set(reason, r, "%s: cannot copy: %s", path, strerror(-r)) : 0;
}

int merge_files_config(const char *base_folder, const char *folder,
	const struct model_config *config, struct reason *reason)
{
	int r = write_config(base_folder, folder, config, reason);

	return r < 0 ? r : write_generation_config(base_folder, folder, config, reason);
}
