#include "foreign/json_file.h"
#include "common/file.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define MAX_JSON_BYTES (256ll << 20)
#define MAX_PATH_BYTES 4096

int file_load_text(const char *folder, const char *name, long long max_bytes, char **ret,
	size_t *ret_n, struct reason *reason)
{
	_cleanup_(closep) int fd = -1;
	_cleanup_(freep) char *bytes = NULL;
	char path[MAX_PATH_BYTES];
	struct stat st;
	int r;

	if ((size_t)snprintf(path, sizeof(path), "%s/%s", folder, name) >= sizeof(path))
		return reason_set(reason, -ENAMETOOLONG, "%s: path too long", folder);
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 || fstat(fd, &st) < 0)
		return reason_set(reason, -errno, "%s: %s", path, strerror(errno));
	if (!S_ISREG(st.st_mode) || st.st_size > max_bytes)
		return reason_set(reason, -EOPNOTSUPP, "%s: not a file of at most %lld bytes", path,
			max_bytes);
	bytes = malloc((size_t)st.st_size + 1);
	if (!bytes)
		return -ENOMEM;
	r = file_read_at(fd, bytes, (size_t)st.st_size, 0);
	if (r < 0)
		return reason_set(reason, r, "%s: %s", path, strerror(-r));
	*ret_n = (size_t)st.st_size;
	*ret = take_ptr(bytes);
	return 0;
}

int json_file_load(
	const char *folder, const char *name, size_t flags, json_t **ret, struct reason *reason)
{
	_cleanup_(freep) char *bytes = NULL;
	json_error_t error;
	json_t *json;
	size_t n = 0;
	int r = file_load_text(folder, name, MAX_JSON_BYTES, &bytes, &n, reason);

	if (r < 0)
		return r;
	json = json_loadb(bytes, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | flags, &error);
	if (!json)
		return reason_set(reason, -EBADMSG, "%s/%s: line %d: %s", folder, name, error.line,
			error.text);
	if (!json_is_object(json)) {
		json_decref(json);
		return reason_set(reason, -EBADMSG, "%s/%s: not an object", folder, name);
	}
	*ret = json;
	return 0;
}

const char *json_config_token(const json_t *config, const char *key)
{
	const json_t *value = json_object_get(config, key);

	return json_string_value(json_is_object(value) ? json_object_get(value, "content") : value);
}
