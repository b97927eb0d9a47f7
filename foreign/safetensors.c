/*
 * A safetensors file is: u64 length of the header, the header, the tensors' bytes. Owns one
 * descriptor and one parsed header per file; tensor names are borrowed from the headers.
 */
#include "foreign/safetensors.h"

#include "common/file.h"
#include "foreign/safetensors_header.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define MAX_INDEX_BYTES (64u << 20)
#define MAX_INDEX_VALUES (1u << 20)
#define MAX_FILES 512u

struct tensor_file {
	char *name;
	int fd;
	uint64_t bytes;
	struct safetensors_header header;
};

struct safetensors {
	struct tensor_file *files;
	size_t n_files;
	struct safetensors_tensor *tensors;
	size_t n_tensors;
	const struct safetensors_tensor **by_name;
	bool has_index;
};

static inline void safetensors_freep(struct safetensors **s)
{
	safetensors_free(*s);
}

/* Appends the tensors of a header to the list; offsets now count from the file's beginning. */
static int add_tensors(struct safetensors *s, const struct safetensors_header *header,
	uint64_t data_offset, struct reason *reason)
{
	struct safetensors_tensor *tensors =
		reallocarray(s->tensors, s->n_tensors + header->n_tensors + 1, sizeof(*tensors));

	if (!tensors)
		return reason_set(
			reason, -ENOMEM, "out of memory for %zu tensors", header->n_tensors);
	s->tensors = tensors;
	for (size_t i = 0; i < header->n_tensors; i++) {
		struct safetensors_tensor *t = &tensors[s->n_tensors++];

		*t = header->tensors[i];
		t->offset += data_offset;
		t->file = (uint32_t)(s->n_files - 1);
	}
	return 0;
}

static int read_header(struct tensor_file *file, uint64_t *ret_data_offset, struct reason *reason)
{
	_cleanup_(freep) char *text = NULL;
	uint64_t n;
	int r;

	if (file->bytes < 8)
		return reason_set(reason, -EBADMSG,
			"%llu bytes, expected at least the header's length",
			(unsigned long long)file->bytes);
	r = file_read_at(file->fd, &n, sizeof(n), 0);
	if (r < 0)
		return reason_set(reason, r, "cannot read: %s", strerror(-r));
	n = le64toh(n);
	if (n > SAFETENSORS_MAX_HEADER)
		return reason_set(reason, -EBADMSG, "a header of %llu bytes, expected at most %u",
			(unsigned long long)n, SAFETENSORS_MAX_HEADER);
	if (n < 2 || n > file->bytes - 8)
		return reason_set(reason, -EBADMSG,
			"a header of %llu bytes, the file holds %llu after its length",
			(unsigned long long)n, (unsigned long long)(file->bytes - 8));
	text = malloc(n);
	if (!text)
		return reason_set(reason, -ENOMEM, "out of memory for the header");
	r = file_read_at(file->fd, text, n, 8);
	if (r < 0)
		return reason_set(reason, r, "cannot read: %s", strerror(-r));
	r = safetensors_header_parse(text, n, file->bytes - 8 - n, &file->header, reason);
	if (r < 0)
		return r;
	*ret_data_offset = 8 + n;
	return 0;
}

/* Opens path as the next file. On failure the file stays in the list, to be freed with it. */
static int add_file(
	struct safetensors *s, const char *path, const char *name, struct reason *reason)
{
	struct tensor_file *files = reallocarray(s->files, s->n_files + 1, sizeof(*files));
	struct tensor_file *file;
	uint64_t data_offset = 0;
	struct stat st;
	int r;

	if (!files)
		return reason_set(reason, -ENOMEM, "out of memory");
	s->files = files;
	file = &files[s->n_files];
	*file = (struct tensor_file){.fd = -1};
	s->n_files++;
	file->name = strdup(name);
	if (!file->name)
		return reason_set(reason, -ENOMEM, "out of memory");
	/* Not blocking, so that a FIFO in a model folder cannot hold us. */
	file->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (file->fd < 0 || fstat(file->fd, &st) < 0)
		return reason_set(reason, -errno, "cannot open: %s", strerror(errno));
	if (!S_ISREG(st.st_mode))
		return reason_set(reason, -EBADMSG, "not a regular file");
	file->bytes = (uint64_t)st.st_size;
	r = read_header(file, &data_offset, reason);
	return r < 0 ? r : add_tensors(s, &file->header, data_offset, reason);
}

static int compare_names(const void *a, const void *b)
{
	const struct safetensors_tensor *const *x = a, *const *y = b;

	return strcmp((*x)->name, (*y)->name);
}

/* The index by name; shards may not share one. */
static int index_names(struct safetensors *s, struct reason *reason)
{
	s->by_name = calloc(s->n_tensors + 1, sizeof(*s->by_name));
	if (!s->by_name)
		return reason_set(reason, -ENOMEM, "out of memory");
	for (size_t i = 0; i < s->n_tensors; i++)
		s->by_name[i] = &s->tensors[i];
	qsort(s->by_name, s->n_tensors, sizeof(*s->by_name), compare_names);
	for (size_t i = 1; i < s->n_tensors; i++)
		if (compare_names(&s->by_name[i - 1], &s->by_name[i]) == 0)
			return reason_set(reason, -EBADMSG, "tensor '%.128s' is in %s and in %s",
				s->by_name[i]->name, s->files[s->by_name[i - 1]->file].name,
				s->files[s->by_name[i]->file].name);
	return 0;
}

int safetensors_open(const char *path, struct safetensors **ret, struct reason *reason)
{
	_cleanup_(safetensors_freep) struct safetensors *s = calloc(1, sizeof(*s));
	const char *slash = strrchr(path, '/');
	int r;

	if (!s)
		return reason_set(reason, -ENOMEM, "out of memory");
	r = add_file(s, path, slash ? slash + 1 : path, reason);
	if (r == 0)
		r = index_names(s, reason);
	if (r < 0)
		return reason_prefix(reason, r, "%s", path);
	*ret = take_ptr(s);
	return 0;
}

/* Only a plain name keeps a shard inside its folder. */
static bool shard_name_plain(const char *name)
{
	return name[0] && !strchr(name, '/') && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

static int compare_strings(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The distinct file names of a weight_map, sorted; the strings are borrowed from it. */
static int collect_shards(json_t *map, const char ***ret, size_t *ret_n, struct reason *reason)
{
	_cleanup_(freep) const char **names = calloc(json_object_size(map) + 1, sizeof(*names));
	size_t n = 0, n_distinct = 0;
	const char *tensor;
	json_t *file;

	if (!names)
		return reason_set(reason, -ENOMEM, "out of memory");
	json_object_foreach(map, tensor, file)
	{
		if (!json_is_string(file))
			return reason_set(reason, -EBADMSG,
				"weight_map: '%.128s': found %s, expected a file name", tensor,
				json_type_name(file));
		names[n++] = json_string_value(file);
		if (!shard_name_plain(names[n - 1]))
			return reason_set(reason, -EBADMSG,
				"weight_map: '%.128s': '%.128s' is not a plain file name", tensor,
				names[n - 1]);
	}
	qsort(names, n, sizeof(*names), compare_strings);
	for (size_t i = 0; i < n; i++)
		if (i == 0 || strcmp(names[i], names[n_distinct - 1]) != 0)
			names[n_distinct++] = names[i];
	if (n_distinct == 0 || n_distinct > MAX_FILES)
		return reason_set(reason, -EBADMSG, "weight_map names %zu files, expected 1 to %u",
			n_distinct, MAX_FILES);
	*ret = take_ptr(names);
	*ret_n = n_distinct;
	return 0;
}

/* The map and the shards must name the same tensors. */
static int check_map(const struct safetensors *s, json_t *map, struct reason *reason)
{
	const struct safetensors_tensor *t;
	const char *name;
	json_t *file;

	json_object_foreach(map, name, file)
	{
		t = safetensors_find(s, name);
		if (!t || strcmp(s->files[t->file].name, json_string_value(file)) != 0)
			return reason_set(reason, -EBADMSG,
				"weight_map: tensor '%.128s' is not in %.128s", name,
				json_string_value(file));
	}
	for (size_t i = 0; i < s->n_tensors; i++)
		if (!json_object_get(map, s->tensors[i].name))
			return reason_set(reason, -EBADMSG,
				"tensor '%.128s' of %.128s is not in weight_map",
				s->tensors[i].name, s->files[s->tensors[i].file].name);
	return 0;
}

/* Some writers give total_size as a number with a fraction; whole values are accepted. */
static int check_total_size(
	const struct safetensors *s, const json_t *metadata, struct reason *reason)
{
	const json_t *total_size = json_object_get(metadata, "total_size");
	uint64_t sum = 0;

	if (!total_size)
		return 0;
	for (size_t i = 0; i < s->n_tensors; i++)
		sum += s->tensors[i].bytes;
	if (!json_is_number(total_size) || json_number_value(total_size) != (double)sum)
		return reason_set(reason, -EBADMSG,
			"metadata: total_size: found %.0f, the tensors have %llu bytes",
			json_number_value(total_size), (unsigned long long)sum);
	return 0;
}

static int add_shards(struct safetensors *s, const char *folder, json_t *map, struct reason *reason)
{
	_cleanup_(freep) const char **names = NULL;
	size_t n = 0;
	int r;

	r = collect_shards(map, &names, &n, reason);
	for (size_t i = 0; i < n && r == 0; i++) {
		_cleanup_(freep) char *path = NULL;

		if (asprintf(&path, "%s/%s", folder, names[i]) < 0)
			return reason_set(reason, -ENOMEM, "out of memory");
		r = add_file(s, path, names[i], reason);
		if (r < 0)
			reason_prefix(reason, r, "%.128s", names[i]);
	}
	return r;
}

static int open_index(
	struct safetensors *s, const char *folder, json_t *index, struct reason *reason)
{
	json_t *map = json_object_get(index, "weight_map");
	int r;

	if (!json_is_object(map))
		return reason_set(reason, -EBADMSG, "weight_map: found %s, expected an object",
			json_type_name(map));
	r = add_shards(s, folder, map, reason);
	if (r == 0)
		r = index_names(s, reason);
	if (r == 0)
		r = check_map(s, map, reason);
	s->has_index = true;
	if (r == 0)
		r = check_total_size(s, json_object_get(index, "metadata"), reason);
	return r;
}

int safetensors_open_folder(const char *folder, struct safetensors **ret, struct reason *reason)
{
	static const struct json_limits limits = {MAX_INDEX_BYTES, 3, MAX_INDEX_VALUES, 0};
	_cleanup_(safetensors_freep) struct safetensors *s = NULL;
	_cleanup_(json_freep) json_t *index = NULL;
	_cleanup_(freep) char *path = NULL, *index_path = NULL;
	int r;

	if (asprintf(&path, "%s/model.safetensors", folder) < 0 ||
		asprintf(&index_path, "%s/" SAFETENSORS_INDEX_NAME, folder) < 0)
		return reason_set(reason, -ENOMEM, "out of memory");
	if (access(path, F_OK) == 0)
		return safetensors_open(path, ret, reason);
	if (access(index_path, F_OK) != 0)
		return reason_set(reason, -ENOENT,
			"%s: neither model.safetensors nor " SAFETENSORS_INDEX_NAME, folder);
	s = calloc(1, sizeof(*s));
	if (!s)
		return reason_set(reason, -ENOMEM, "out of memory");
	r = json_object_load(folder, SAFETENSORS_INDEX_NAME, &limits, &index, reason);
	if (r < 0)
		return r;
	r = open_index(s, folder, index, reason);
	if (r < 0)
		return reason_prefix(reason, r, "%s", index_path);
	*ret = take_ptr(s);
	return 0;
}

struct safetensors *safetensors_free(struct safetensors *s)
{
	if (!s)
		return NULL;
	for (size_t i = 0; i < s->n_files; i++) {
		closep(&s->files[i].fd);
		safetensors_header_done(&s->files[i].header);
		free(s->files[i].name);
	}
	free(s->by_name);
	free(s->tensors);
	free(s->files);
	free(s);
	return NULL;
}

size_t safetensors_n_tensors(const struct safetensors *s)
{
	return s->n_tensors;
}

const struct safetensors_tensor *safetensors_at(const struct safetensors *s, size_t i)
{
	return &s->tensors[i];
}

static int compare_name_to_tensor(const void *name, const void *tensor)
{
	return strcmp(name, (*(const struct safetensors_tensor *const *)tensor)->name);
}

const struct safetensors_tensor *safetensors_find(const struct safetensors *s, const char *name)
{
	const struct safetensors_tensor **found = bsearch(
		name, s->by_name, s->n_tensors, sizeof(*s->by_name), compare_name_to_tensor);

	return found ? *found : NULL;
}

bool safetensors_has_index(const struct safetensors *s)
{
	return s->has_index;
}

size_t safetensors_n_files(const struct safetensors *s)
{
	return s->n_files;
}

const char *safetensors_file_name(const struct safetensors *s, size_t file)
{
	return s->files[file].name;
}

uint64_t safetensors_file_bytes(const struct safetensors *s, size_t file)
{
	return s->files[file].bytes;
}

int safetensors_read(const struct safetensors *s, const struct safetensors_tensor *tensor,
	uint64_t from, void *ret, size_t n, struct reason *reason)
{
	const struct tensor_file *file = &s->files[tensor->file];
	int r;

	if (!range_inside(from, n, tensor->bytes))
		return reason_set(reason, -EINVAL, "%s: '%.128s': read past the tensor's end",
			file->name, tensor->name);
	r = file_read_at(file->fd, ret, n, tensor->offset + from);
	if (r == -ENODATA)
		return reason_set(reason, -EBADMSG,
			"%s: '%.128s': the file became shorter while read", file->name,
			tensor->name);
	if (r < 0)
		return reason_set(reason, r, "%s: '%.128s': cannot read: %s", file->name,
			tensor->name, strerror(-r));
	return 0;
}
