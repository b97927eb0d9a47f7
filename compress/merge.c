/*
 * Shard by shard, tensor by tensor, in the order of the base's files. A tensor of a file is one
 * role or, where a family fuses them, several that follow each other row by row.
 */
#include "compress/merge.h"

#include "common/file.h"
#include "compress/merge_files.h"
#include "compress/merge_tensor.h"
#include "foreign/json.h"
#include "foreign/safetensors_write.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

struct merge_part {
	const struct safetensors_tensor *tensor;
	uint32_t first_row;
	uint32_t rows, cols; /* of the fine-tune */
	enum tensor_role role;
	uint32_t layer;
};

struct merge {
	const struct merge_job *job;
	struct delta *delta;
	struct merge_part *parts; /* by tensor, then by row */
	size_t n_parts;
	uint64_t done_bytes, total_bytes;
	const struct safetensors_tensor *changed; /* the last one that was */
	json_t *weight_map;
	enum weights weights; /* that the delta was made for */
	const struct progress *progress;
	struct merge_report report;
};

static void merge_done(struct merge *m)
{
	/* The image stays the caller's. */
	if (m->delta)
		m->delta->image = NULL;
	delta_free(m->delta);
	free(m->parts);
	json_decref(m->weight_map);
}

/* The first kind of weights that serves what the delta was made for; the checkpoint's own if there
 * is none. */
static int find_weights(struct merge *m, struct format_header *identity, struct reason *reason)
{
	struct checkpoint *base = m->job->base;
	const struct format_header *delta = &m->job->delta->header;
	int r = weights_digest(base, WEIGHTS_BF16, m->progress, &identity->model, reason);

	for (int w = WEIGHTS_BF16 + 1; r == 0 && w < N_WEIGHTS && !image_fits(delta, identity);
		w++) {
		r = weights_digest(base, (enum weights)w, m->progress, &identity->tuned, reason);
		if (r == 0 && image_fits(delta, identity))
			m->weights = (enum weights)w;
	}
	return r;
}

/* A base to check the delta against: without weights, the checks look at config and digests. */
static int bind_delta(struct merge *m, struct reason *reason)
{
	struct image identity = {.kind = IMAGE_KIND_BASE};
	struct base base = {.image = &identity, .config = *checkpoint_config(m->job->base)};
	int r = find_weights(m, &identity.header, reason);

	if (r < 0)
		return r;
	if (m->weights == WEIGHTS_BF16)
		identity.header.tuned = (struct digest){0};
	return delta_bind(m->job->delta, &base, &m->delta, reason);
}

static int compare_parts(const void *a, const void *b)
{
	const struct merge_part *x = a, *y = b;

	if (x->tensor != y->tensor)
		return x->tensor < y->tensor ? -1 : 1;
	return (x->first_row > y->first_row) - (x->first_row < y->first_row);
}

static int collect_parts(struct merge *m, struct reason *reason)
{
	const struct model_config *config = &m->delta->config;
	struct checkpoint_part part;

	m->parts = calloc((size_t)config->n_layers * N_ROLES, sizeof(*m->parts));
	if (!m->parts)
		return reason_set(reason, -ENOMEM, "out of memory");
	for (uint32_t layer = 0; layer < config->n_layers; layer++)
		for (int i = 0; i < N_ROLES; i++) {
			enum tensor_role role = (enum tensor_role)i;
			struct merge_part *p = &m->parts[m->n_parts];

			if (!checkpoint_part(m->job->base, role, layer, &part) ||
				!model_config_shape(config, role, layer, &p->rows, &p->cols))
				continue;
			p->tensor = part.tensor;
			p->first_row = part.first_row;
			p->role = role;
			p->layer = layer;
			m->total_bytes += (uint64_t)p->rows * p->cols * sizeof(uint16_t);
			m->n_parts++;
		}
	qsort(m->parts, m->n_parts, sizeof(*m->parts), compare_parts);
	return 0;
}

/* The tensors of one file as they will be written; `n` of them, `ret` has room for all parts. */
static size_t list_tensors(const struct merge *m, size_t file, struct safetensors_tensor *ret)
{
	const struct safetensors_tensor *last = NULL;
	size_t n = 0;

	for (size_t i = 0; i < m->n_parts; i++) {
		const struct merge_part *p = &m->parts[i];

		if (p->tensor->file != file)
			continue;
		if (p->tensor == last) {
			ret[n - 1].shape[0] += p->rows;
			continue;
		}
		last = p->tensor;
		ret[n++] = (struct safetensors_tensor){
			.name = last->name,
			.dtype = SAFETENSORS_BF16,
			.n_dims = last->n_dims,
			.shape = {p->rows, p->cols},
		};
	}
	return n;
}

static int write_part(
	struct merge *m, const struct merge_part *p, int fd, uint64_t offset, struct reason *reason)
{
	size_t n_bytes = (size_t)p->rows * p->cols * sizeof(uint16_t);
	const struct merge_tensor tensor = {
		.base = m->job->base,
		.weights = m->weights,
		.delta = m->delta,
		.role = p->role,
		.layer = p->layer,
	};
	/* Rows that the base does not have are told from zeros. */
	_cleanup_(freep) uint16_t *values = calloc(1, n_bytes);
	bool changed = false;
	int r;

	if (!values)
		return reason_set(reason, -ENOMEM, "out of memory");
	r = merge_tensor(&tensor, values, &changed, reason);
	if (r < 0)
		return r;
	if (changed && m->changed != p->tensor) {
		m->changed = p->tensor;
		m->report.n_changed++;
	}
	r = file_write_at(fd, values, n_bytes, offset);
	if (r < 0)
		return reason_set(reason, r, "cannot write: %s", strerror(-r));
	m->done_bytes += n_bytes;
	progress_update(m->progress, "merging", m->done_bytes, m->total_bytes);
	return 0;
}

/* The parts of a file lie in it in the order of the list, without gaps. */
static int write_parts(struct merge *m, size_t file, int fd, uint64_t offset, struct reason *reason)
{
	int r = 0;

	for (size_t i = 0; i < m->n_parts && r == 0; i++) {
		const struct merge_part *p = &m->parts[i];

		if (p->tensor->file != file)
			continue;
		r = write_part(m, p, fd, offset, reason);
		offset += (uint64_t)p->rows * p->cols * sizeof(uint16_t);
	}
	m->report.file_bytes += offset;
	if (r == 0 && fsync(fd) < 0)
		return reason_set(reason, -errno, "cannot write: %s", strerror(errno));
	return r;
}

static int write_shard(struct merge *m, size_t file, struct reason *reason)
{
	const char *name = safetensors_file_name(checkpoint_tensors(m->job->base), file);
	_cleanup_(freep) struct safetensors_tensor *tensors = calloc(m->n_parts, sizeof(*tensors));
	_cleanup_(freep) char *path = NULL;
	_cleanup_(closep) int fd = -1;
	size_t n;
	int r;

	if (!tensors || asprintf(&path, "%s/%s", m->job->folder, name) < 0)
		return reason_set(reason, -ENOMEM, "out of memory");
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
	if (fd < 0)
		return reason_set(reason, -errno, "%s: cannot create: %s", path, strerror(errno));
	n = list_tensors(m, file, tensors);
	r = safetensors_write_header(fd, tensors, n, reason);
	if (r == 0)
		r = write_parts(m, file, fd, n ? tensors[0].offset : 0, reason);
	for (size_t i = 0; i < n && r == 0; i++)
		if (json_object_set_new(m->weight_map, tensors[i].name, json_string(name)) < 0)
			r = reason_set(reason, -ENOMEM, "out of memory");
	m->report.n_tensors += n;
	return r < 0 ? reason_prefix(reason, r, "%s", path) : 0;
}

static int write_index(struct merge *m, struct reason *reason)
{
	_cleanup_(json_freep) json_t *index = json_pack("{s:{s:I}, s:O}", "metadata", "total_size",
		(json_int_t)m->total_bytes, "weight_map", m->weight_map);

	if (!index)
		return reason_set(reason, -ENOMEM, "out of memory");
	return merge_files_json(m->job->folder, SAFETENSORS_INDEX_NAME, index, reason);
}

static int write_small_files(struct merge *m, struct reason *reason)
{
	const struct merge_tokenizer tokenizer = {
		.base_folder = checkpoint_folder(m->job->base),
		.folder = m->job->folder,
		.base_config = checkpoint_config(m->job->base),
		.config = &m->delta->config,
		.delta = m->job->delta,
	};
	int r = merge_files_config(
		tokenizer.base_folder, tokenizer.folder, tokenizer.config, reason);

	return r < 0 ? r : merge_tokenizer(&tokenizer, &m->report.tokenizer, reason);
}

static int write_folder(struct merge *m, struct reason *reason)
{
	size_t n_files = safetensors_n_files(checkpoint_tensors(m->job->base));
	int r = 0;

	m->weight_map = json_object();
	for (size_t file = 0; file < n_files && r == 0; file++)
		r = write_shard(m, file, reason);
	if (r == 0 && safetensors_has_index(checkpoint_tensors(m->job->base)))
		r = write_index(m, reason);
	if (r < 0)
		return r;
	return write_small_files(m, reason);
}

int merge_folder(const struct merge_job *job, const struct progress *progress,
	struct merge_report *ret, struct reason *reason)
{
	_cleanup_(merge_done) struct merge m = {.job = job, .progress = progress};
	int r;

	r = bind_delta(&m, reason);
	if (r == 0)
		r = collect_parts(&m, reason);
	if (r == 0)
		r = write_folder(&m, reason);
	if (r < 0)
		return r;
	*ret = m.report;
	return 0;
}
