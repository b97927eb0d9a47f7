#include "compress/job.h"

#include "compress/block_compare.h"
#include "compress/exact.h"
#include "compress/levels.h"
#include "compress/served.h"
#include "engine/selftest.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#define SELFTEST_IDS 32u
/* Sets of kernels sum in different orders; a wrong byte shows far above this. */
#define SELFTEST_TOLERANCE 0.01f

int job_open_memory(int *ret, struct reason *reason)
{
	*ret = memfd_create("deltad-delta", MFD_CLOEXEC);
	if (*ret < 0)
		return reason_set(reason, -errno, "cannot make a memory file");
	return 0;
}

static int write_file(
	struct job *j, bool whole, int fd, struct format_header *ret, struct reason *reason)
{
	struct delta_file_parts parts = {
		.config = &j->pair.tuned_config,
		.base = &j->base_digest,
		.tuned = &j->tuned_digest,
		.tokenizer = j->extra_tokens.at,
		.n_tokenizer = j->extra_tokens.n,
		.chat = j->chat.at,
		.n_chat = j->chat.n,
	};

	if (whole) {
		parts.certificate = &j->certificate;
		parts.points = j->points;
		parts.tasks = &j->certificate_tasks;
		parts.selftest = j->selftest.at;
		parts.n_selftest = j->selftest.n;
	}
	return delta_file_write(j->file, &parts, fd, ret, reason);
}

/* `fd` holds the delta so far, which base has; it has none afterwards. */
static int measure_served(struct job *j, struct served *base, const struct served *tuned, int fd,
	const struct format_header *header, struct reason *reason)
{
	const struct calibration *c = j->calibration;
	const struct certificate_settings settings = {
		.base = base,
		.tuned = tuned,
		.calibration = c,
		.pool = j->pool,
		.progress = j->progress,
	};
	int r;

	r = certificate_measure(&settings, &j->certificate, reason);
	if (r == 0 && j->kept_back.n > 0)
		r = certificate_measure_tasks(
			&settings, &j->kept_back, &j->certificate_tasks, reason);
	if (r < 0)
		return r;
	served_drop_delta(base);
	j->n_levels_measured = header->n_levels - 1;
	return levels_measure(
		&settings, base, fd, header, j->projections.original_bytes, j->points, reason);
}

/* The base with these weights, and the delta so far, which `fd` holds. */
static int open_served(
	struct job *j, enum weights weights, int fd, struct served *ret, struct reason *reason)
{
	struct delta *delta;
	int r;

	r = served_of_checkpoint(j->pair.base, weights, &j->kernels, j->progress, ret, reason);
	if (r == 0)
		r = delta_load(fd, ret->base, &delta, NULL, reason);
	return r < 0 ? r : served_add_delta(ret, delta, reason);
}

/* On a base that serves the values that the delta was made for. */
static int make_selftest(struct job *j, const struct served *base, struct reason *reason)
{
	const struct calibration *c = j->calibration;

	return selftest_make(base->with_delta, j->pool, c->held_out,
		min_u64(SELFTEST_IDS, c->window), SELFTEST_TOLERANCE, &j->selftest.at,
		&j->selftest.n, reason);
}

/* Certificate and self-test, by the engine that will serve the file. */
static int measure(struct job *j, struct reason *reason)
{
	_cleanup_(served_done) struct served base = {0};
	_cleanup_(served_done) struct served tuned = {0};
	_cleanup_(served_done) struct served original = {0};
	_cleanup_(closep) int fd = -1;
	struct format_header header;
	int r;

	r = job_open_memory(&fd, reason);
	if (r == 0)
		r = write_file(j, false, fd, &header, reason);
	if (r == 0)
		r = open_served(j, j->settings->base_weights, fd, &base, reason);
	if (r == 0 && j->against != j->settings->base_weights)
		r = open_served(j, j->against, fd, &original, reason);
	if (r == 0)
		r = make_selftest(j, original.base ? &original : &base, reason);
	if (r == 0)
		r = served_of_checkpoint(
			j->pair.tuned, WEIGHTS_BF16, &j->kernels, j->progress, &tuned, reason);
	if (r == 0)
		r = measure_served(j, &base, &tuned, fd, &header, reason);
	return r;
}

/* Where levels end is known once everything has its size; telling it changes no size. */
static int write_whole(struct job *j, int fd, struct reason *reason)
{
	_cleanup_(closep) int draft = -1;
	const struct walk_report *p = &j->projections;
	struct format_header header;
	int r;

	memcpy(j->points + j->n_levels_measured, p->points, p->n_points * sizeof(*p->points));
	j->certificate.n_points = j->n_levels_measured + p->n_points;
	r = job_open_memory(&draft, reason);
	if (r == 0)
		r = write_file(j, true, draft, &header, reason);
	if (r < 0)
		return r;
	for (size_t i = 0; i < j->n_levels_measured; i++)
		j->points[i].file_bytes = header.level_end[i];
	r = write_file(j, true, fd, &header, reason);
	if (r < 0)
		return r;
	j->report->root = header.root;
	j->report->file_bytes = header.file_bytes;
	return 0;
}

/* What the method has looked at; rows of a coded embedding are weighed by the calibration text. */
static struct method_tokens text_of(const struct job *j)
{
	const struct calibration *c = j->calibration;

	if (j->projections.text.n > 0 || compress_embedding(j->settings).kind == EMBEDDING_EXACT)
		return j->projections.text;
	return (struct method_tokens){.ids = c->digest, .n = (uint64_t)c->n_windows * c->window};
}

static void fill_certificate(struct job *j)
{
	const struct method_tokens text = text_of(j);

	snprintf(j->certificate.method, sizeof(j->certificate.method), "%s", j->settings->method);
	j->certificate.calibration = text.ids;
	j->certificate.n_calibration_tokens = text.n;
	j->certificate.projection_bytes = delta_file_bytes(j->file, tensor_role_is_projection);
	j->certificate.projection_original_bytes = j->projections.original_bytes;
}

static enum compress_measure how_measured(const struct job *j)
{
	uint64_t bytes =
		model_16bit_bytes(&j->pair.base_config) + model_16bit_bytes(&j->pair.tuned_config);

	if (j->settings->measure != COMPRESS_MEASURE_AUTO)
		return j->settings->measure;
	return bytes <= COMPRESS_MEASURE_BYTES ? COMPRESS_MEASURE_ENGINE : COMPRESS_MEASURE_BLOCKS;
}

/* Certificate alone, one block of one model in memory. */
static int measure_blocks(struct job *j, struct reason *reason)
{
	const struct block_compare compare = {
		.models =
			{
				.pool = j->pool,
				.pair = &j->pair,
				.base_weights = j->settings->base_weights,
				.file = j->file,
			},
		.calibration = j->calibration,
		.progress = j->progress,
	};
	struct comparison sums;
	int r = block_compare_run(&compare, &sums, reason);

	if (r == 0)
		certificate_set(&j->certificate, &sums);
	return r;
}

static void leave_unmeasured(struct job *j)
{
	struct certificate *c = &j->certificate;
	struct certificate_tasks *t = &j->certificate_tasks;

	c->kl = c->agreement = (double)__builtin_nanf("");
	c->perplexity_base = c->perplexity_tuned = c->perplexity_delta = c->kl;
	t->kl = t->agreement = c->kl;
	t->perplexity_base = t->perplexity_tuned = t->perplexity_delta = c->kl;
}

int job_write(struct job *j, int fd, struct reason *reason)
{
	enum compress_measure how = how_measured(j);
	int r = 0;

	fill_certificate(j);
	leave_unmeasured(j);
	j->report->measured = how != COMPRESS_MEASURE_NEVER;
	switch (how) {
	case COMPRESS_MEASURE_AUTO:
	case COMPRESS_MEASURE_ENGINE:
		r = measure(j, reason);
		break;
	case COMPRESS_MEASURE_BLOCKS:
		r = measure_blocks(j, reason);
		break;
	case COMPRESS_MEASURE_NEVER:
		break;
	}
	return r < 0 ? r : write_whole(j, fd, reason);
}
