#include "compress/compress.h"

#include "compress/calibration.h"
#include "compress/certificate.h"
#include "compress/delta_file.h"
#include "compress/exact.h"
#include "compress/file_room.h"
#include "compress/levels.h"
#include "compress/methods.h"
#include "compress/outer.h"
#include "compress/pair.h"
#include "compress/served.h"
#include "compress/task_calibration.h"
#include "compress/walk.h"
#include "engine/selftest.h"
#include "foreign/tokenizer_json.h"
#include "kernels/blas.h"
#include "kernels/kernels.h"
#include "store/base.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>

#define SELFTEST_IDS 32u
#define SELFTEST_BYTES 4096u /* most that its logits take */
/* Sets of kernels sum in different orders; a wrong byte shows far above this. */
#define SELFTEST_TOLERANCE 0.01f

struct bytes {
	uint8_t *at;
	size_t n;
};

/* One compression under way. */
struct job {
	const struct compress_settings *settings;
	const struct progress *progress;
	struct kernels kernels;
	struct pool *pool;
	struct pair pair;
	enum weights against; /* what the delta is made against */
	struct digest base_digest, tuned_digest;
	struct tokenizer *tokenizer; /* the base's; NULL: none */
	struct bytes tables;         /* which it borrows */
	struct calibration *calibration;
	struct outer *outer;
	int memory; /* in the place of a file of work; -1: there is one */
	struct delta_file *file;
	struct walk_report projections;
	struct bytes extra_tokens, chat, selftest;
	struct certificate certificate;
	/* Of the levels but the last, then the method's. */
	struct rate_point points[FORMAT_MAX_LEVELS + METHOD_MAX_POINTS];
	size_t n_levels_measured;
	struct compress_report *report;
};

static void job_done(struct job *j)
{
	delta_file_free(j->file);
	closep(&j->memory);
	outer_free(j->outer);
	calibration_free(j->calibration);
	tokenizer_free(j->tokenizer);
	free(j->tables.at);
	free(j->extra_tokens.at);
	free(j->chat.at);
	free(j->selftest.at);
	pool_free(j->pool);
}

struct embedding_choice compress_embedding(const struct compress_settings *s)
{
	struct embedding_choice choice = s->embedding;

	if (choice.kind != EMBEDDING_UNSAID)
		return choice;
	choice.kind = s->options.file_ratio > 0 ? EMBEDDING_AUTO : EMBEDDING_EXACT;
	return choice;
}

static bool is_auto(const struct compress_settings *s)
{
	return strcmp(s->method, "auto") == 0;
}

int compress_settings_check(const struct compress_settings *s, struct reason *reason)
{
	const struct method *method = method_find(s->method);
	int r;

	if (!method)
		return reason_set(reason, -EINVAL,
			"method '%s' is unknown, --method list shows them", s->method);
	if (deltadq_options_said(&s->options.deltadq) && strcmp(s->method, "deltadq") != 0)
		return reason_set(reason, -EINVAL,
			"alpha, code bits, parts, groups, seeds and a claimed ratio are for "
			"--method deltadq");
	if ((s->options.max_kl != 0 || s->options.file_ratio != 0 ||
		    s->options.train_steps_given) &&
		!is_auto(s))
		return reason_set(reason, -EINVAL,
			"max-kl, file-ratio and training steps are for --method auto");
	if (s->against == AGAINST_SERVED && method == &method_lora)
		return reason_set(reason, -EINVAL,
			"an adapter fits the base's own numbers, whatever they are served as");
	r = method->check(&s->options, reason);
	if (r < 0)
		return reason_prefix(reason, r, "method %s", s->method);
	if (s->window < 2 || s->window > 65536)
		return reason_set(
			reason, -EINVAL, "window is %u tokens, expected 2 to 65536", s->window);
	if (s->calibration_tokens < s->window || s->calibration_tokens > (1u << 26))
		return reason_set(reason, -EINVAL, "calibration tokens are %u, expected %u to %u",
			s->calibration_tokens, s->window, 1u << 26);
	return 0;
}

static enum weights weights_against(const struct compress_settings *s)
{
	bool served = s->against == AGAINST_SERVED ||
		      (s->against == AGAINST_METHOD && method_find(s->method)->against_served);

	return served ? s->base_weights : WEIGHTS_BF16;
}

static int start(
	struct job *j, struct checkpoint *base, struct checkpoint *tuned, struct reason *reason)
{
	int r;

	r = compress_settings_check(j->settings, reason);
	if (r == 0)
		r = pair_init(&j->pair, base, tuned, reason);
	if (r < 0)
		return r;
	j->against = weights_against(j->settings);
	j->pair.weights = j->against;
	r = blas_load(1, reason);
	if (r == 0)
		r = kernels_select(&j->kernels, j->settings->isa, reason);
	if (r == 0)
		r = pool_new(j->settings->n_threads, &j->pool, reason);
	if (r == 0)
		r = delta_file_new(&j->file);
	if (r == 0)
		r = weights_digest(base, j->against, j->progress, &j->base_digest, reason);
	if (r == 0)
		r = checkpoint_digest(tuned, j->progress, &j->tuned_digest, reason);
	return r;
}

/* The base's tokenizer; none if its folder has none. */
static int open_tokenizer(struct job *j, struct reason *reason)
{
	struct bytes *t = &j->tables;
	int r;

	r = tokenizer_compile(checkpoint_folder(j->pair.base), &t->at, &t->n, reason);
	if (r == -ENOENT)
		return 0;
	if (r < 0)
		return r;
	return tokenizer_new(t->at, t->n, NULL, 0, &j->tokenizer, reason);
}

static int check_ids(const struct job *j, struct reason *reason)
{
	const struct calibration *c = j->calibration;
	uint32_t vocab = j->pair.base_config.vocab;

	for (size_t i = 0; i < (size_t)c->n_windows * c->window; i++)
		if (c->ids[i] >= vocab)
			return reason_set(reason, -EBADMSG,
				"the tokenizer makes id %u, the model has a vocabulary of %u",
				c->ids[i], vocab);
	return 0;
}

static int calibrate(struct job *j, struct reason *reason)
{
	const struct compress_settings *s = j->settings;
	struct calibration_limits limits = {
		.max_tokens = s->calibration_tokens,
		.window = (uint32_t)min_u64(s->window, j->pair.base_config.max_positions),
	};
	int r;

	r = open_tokenizer(j, reason);
	if (r < 0)
		return r;
	if (!j->tokenizer) {
		j->report->random_calibration = true;
		return calibration_of_vocabulary(
			j->pair.base_config.vocab, &limits, &j->calibration);
	}
	/* auto learns from the tasks, so that they are no measure of what it made. */
	if (s->options.tasks && strcmp(s->method, "auto") != 0)
		r = calibration_of_tasks(checkpoint_folder(j->pair.tuned), &j->pair.tuned_config,
			s->options.tasks, &limits, &j->calibration, reason);
	else if (s->calibration_text)
		r = calibration_of_text(j->tokenizer, s->calibration_text, s->n_calibration_text,
			&limits, &j->calibration, reason);
	else
		r = reason_set(reason, -EINVAL, "no calibration text");
	return r < 0 ? r : check_ids(j, reason);
}

static bool is_open(const struct compress_settings *s)
{
	return is_auto(s) && compress_embedding(s).kind == EMBEDDING_AUTO;
}

static int add_outer_tensors(struct job *j, struct reason *reason)
{
	const struct compress_settings *s = j->settings;
	double ratio = method_ratio(method_find(s->method), &s->options);
	struct outer_settings settings = {
		.pair = &j->pair,
		.calibration = j->calibration,
		.choice = compress_embedding(s),
		.bits = ratio > 0 ? 16 / ratio : EMBEDDING_DEFAULT_BITS,
		.open = is_open(s),
		.pool = j->pool,
	};
	int r;

	settings.choice.coded = settings.open;
	r = outer_new(&settings, &j->outer, reason);
	return r < 0 || settings.open ? r : outer_add(j->outer, j->file, reason);
}

static bool is_outer_matrix(enum tensor_role role)
{
	return role == ROLE_EMBED || role == ROLE_HEAD;
}

static int room_for_parts(const struct job *j, double *ret, struct reason *reason)
{
	const struct file_room room = {
		.config = &j->pair.tuned_config,
		.ratio = j->settings->options.file_ratio,
		.n_tokenizer = j->extra_tokens.n,
		.n_chat = j->chat.n,
		.n_selftest = SELFTEST_BYTES,
		.outer_bytes = delta_file_bytes(j->file, is_outer_matrix),
	};

	return file_room(&room, ret, reason);
}

static int open_memory(int *ret, struct reason *reason)
{
	*ret = memfd_create("deltad-delta", MFD_CLOEXEC);
	if (*ret < 0)
		return reason_set(reason, -errno, "cannot make a memory file");
	return 0;
}

/* Parts of another core's BLAS may differ in their last bits. */
static struct digest key_of(const struct job *j)
{
	const char *core = blas_core();
	struct digest parts[4] = {
		digest_of(core, strlen(core)),
		j->base_digest,
		j->tuned_digest,
	};

	if (j->settings->work)
		parts[3] = j->settings->work->command;
	return digest_of(parts, sizeof(parts));
}

static int add_projections(struct job *j, struct reason *reason)
{
	const struct compress_work *work = j->settings->work;
	struct walk_settings settings = {
		.method = method_find(j->settings->method),
		.options = &j->settings->options,
		.pair = &j->pair,
		.calibration = j->calibration,
		.embedding = outer_embedding(j->outer),
		.outer = is_open(j->settings) ? j->outer : NULL,
		.pool = j->pool,
		.progress = j->progress,
		.key = key_of(j),
	};
	int r;

	if (j->settings->options.file_ratio > 0) {
		r = room_for_parts(j, &settings.room, reason);
		if (r < 0)
			return r;
	}
	if (!work) {
		r = open_memory(&j->memory, reason);
		if (r < 0)
			return r;
	}
	settings.work_fd = work ? work->fd : j->memory;
	settings.resume = work && work->resume;
	settings.blocks_done = work ? work->blocks_done : NULL;
	r = walk_run(&settings, j->file, &j->projections, reason);
	return r == 0 && settings.outer ? outer_add(j->outer, j->file, reason) : r;
}

/* Added tokens and the chat format of the fine-tune, where its folder tells them. */
static int add_text_sections(struct job *j, struct reason *reason)
{
	const char *base = checkpoint_folder(j->pair.base);
	const char *tuned = checkpoint_folder(j->pair.tuned);
	struct reason refusal = {0};
	int r;

	if (j->tokenizer) {
		r = tokenizer_compile_extra(
			base, tuned, &j->extra_tokens.at, &j->extra_tokens.n, reason);
		if (r < 0 && r != -ENOENT)
			return r;
	}
	r = chat_format_compile(tuned, &j->chat.at, &j->chat.n, &refusal);
	if (r == 0)
		return 0;
	if (r != -EOPNOTSUPP && r != -ENOENT) {
		*reason = refusal;
		return r;
	}
	snprintf(j->report->chat_refusal, sizeof(j->report->chat_refusal), "%.255s",
		refusal.text[0] ? refusal.text : "the folder has no chat template");
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
		parts.selftest = j->selftest.at;
		parts.n_selftest = j->selftest.n;
	}
	return delta_file_write(j->file, &parts, fd, ret, reason);
}

/* The delta so far, read back as anybody would. */
static int reopen(int fd, const struct base *base, struct delta **ret, struct reason *reason)
{
	struct image *image;
	int r;

	r = image_load(fd, &image, NULL, reason);
	if (r < 0)
		return r;
	r = delta_bind(image, base, ret, reason);
	if (r < 0)
		image_free(image);
	return r;
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
		r = reopen(fd, ret->base, &delta, reason);
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

	r = open_memory(&fd, reason);
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
	r = open_memory(&draft, reason);
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

static void fill_certificate(struct job *j)
{
	const struct calibration *c = j->calibration;

	snprintf(j->certificate.method, sizeof(j->certificate.method), "%s", j->settings->method);
	j->certificate.calibration = c->digest;
	j->certificate.n_calibration_tokens = (uint64_t)c->n_windows * c->window;
	j->certificate.projection_bytes = delta_file_bytes(j->file, tensor_role_is_projection);
	j->certificate.projection_original_bytes = j->projections.original_bytes;
}

static void fill_report(struct job *j)
{
	const struct certificate *c = &j->certificate;
	const struct walk_report *p = &j->projections;
	struct compress_report *r = j->report;

	r->original_bytes = model_16bit_bytes(&j->pair.tuned_config);
	r->projection_bytes = c->projection_bytes;
	r->projection_original_bytes = c->projection_original_bytes;
	r->embedding_bytes = delta_file_bytes(j->file, is_outer_matrix);
	r->other_bytes = r->file_bytes - r->projection_bytes - r->embedding_bytes;
	r->n_projections = p->n_stored;
	r->n_unchanged = p->n_unchanged;
	r->n_left_out = p->n_left_out;
	r->mean_weight_error = p->n_stored ? p->sum_weight_error / p->n_stored : 0;
	r->mean_calibration_error = p->n_stored ? p->sum_calibration_error / p->n_stored : 0;
	r->mean_activation_error = p->n_stored ? p->sum_held_out_error / p->n_stored : 0;
	memcpy(r->figures, p->figures, sizeof(r->figures));
	r->n_figures = p->n_figures;
	r->kl = c->kl;
	r->agreement = c->agreement;
	r->perplexity_base = c->perplexity_base;
	r->perplexity_tuned = c->perplexity_tuned;
	r->perplexity_delta = c->perplexity_delta;
	r->n_calibration_tokens = c->n_calibration_tokens;
	r->n_eval_tokens = c->n_eval_tokens;
	r->n_resumed = p->n_resumed;
	r->began_anew = p->began_anew;
	r->against_served = j->against == j->settings->base_weights;
}

static double now_seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static bool is_measured(const struct job *j)
{
	uint64_t bytes =
		model_16bit_bytes(&j->pair.base_config) + model_16bit_bytes(&j->pair.tuned_config);

	switch (j->settings->measure) {
	case COMPRESS_MEASURE_ALWAYS:
		return true;
	case COMPRESS_MEASURE_NEVER:
		return false;
	case COMPRESS_MEASURE_SMALL:
		break;
	}
	return bytes <= COMPRESS_MEASURE_BYTES;
}

static void leave_unmeasured(struct certificate *c)
{
	c->kl = c->agreement = (double)__builtin_nanf("");
	c->perplexity_base = c->perplexity_tuned = c->perplexity_delta = c->kl;
}

static uint64_t peak_bytes(void)
{
	struct rusage usage;

	return getrusage(RUSAGE_SELF, &usage) < 0 ? 0 : (uint64_t)usage.ru_maxrss << 10;
}

static int run(struct job *j, int fd, struct reason *reason)
{
	int r;

	r = calibrate(j, reason);
	if (r == 0)
		r = add_outer_tensors(j, reason);
	if (r == 0)
		r = add_text_sections(j, reason);
	if (r == 0)
		r = add_projections(j, reason);
	if (r < 0)
		return r;
	fill_certificate(j);
	j->report->measured = is_measured(j);
	if (j->report->measured)
		r = measure(j, reason);
	else
		leave_unmeasured(&j->certificate);
	if (r == 0)
		r = write_whole(j, fd, reason);
	return r;
}

int compress_delta(struct checkpoint *base, struct checkpoint *tuned,
	const struct compress_settings *settings, int fd, const struct progress *progress,
	struct compress_report *ret, struct reason *reason)
{
	double started = now_seconds();
	struct compress_report report = {0};
	_cleanup_(job_done) struct job job = {
		.settings = settings, .progress = progress, .memory = -1, .report = &report};
	int r;

	r = start(&job, base, tuned, reason);
	if (r == 0)
		r = run(&job, fd, reason);
	if (r < 0)
		return r;
	fill_report(&job);
	report.seconds = now_seconds() - started;
	report.peak_bytes = peak_bytes();
	snprintf(report.blas_core, sizeof(report.blas_core), "%s", blas_core());
	*ret = report;
	return 0;
}
