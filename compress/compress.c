#include "compress/compress.h"

#include "common/clock.h"
#include "compress/auto_text.h"
#include "compress/exact.h"
#include "compress/file_room.h"
#include "compress/job.h"
#include "compress/task_calibration.h"
#include "foreign/tokenizer_json.h"
#include "kernels/blas.h"

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

static void job_done(struct job *j)
{
	delta_file_free(j->file);
	closep(&j->memory);
	outer_free(j->outer);
	calibration_free(j->calibration);
	sequences_done(&j->kept_back);
	tokenizer_free(j->tokenizer);
	free(j->tables.at);
	free(j->extra_tokens.at);
	free(j->chat.at);
	free(j->selftest.at);
	pool_free(j->pool);
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
	j->against = compress_against(j->settings);
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

static bool learns_from_tasks(const struct compress_settings *s)
{
	return s->options.tasks && method_find(s->method)->takes & METHOD_TAKES_TASKS;
}

/* Those that the method keeps back. */
static int keep_back(struct job *j, struct reason *reason)
{
	const struct method_model model = {
		.options = &j->settings->options,
		.pair = &j->pair,
		.calibration = j->calibration,
	};

	return auto_text_kept_back(&model, &j->kept_back, reason);
}

/* Text for second moments and for the certificate. */
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
	if (!j->tokenizer || s->options.text == METHOD_TEXT_NONE) {
		j->certificate_tasks.text = CERTIFICATE_RANDOM;
		return calibration_of_vocabulary(
			j->pair.base_config.vocab, &limits, &j->calibration);
	}
	if (s->options.tasks && !learns_from_tasks(s))
		j->certificate_tasks.text = CERTIFICATE_TASKS;
	if (s->options.tasks && !learns_from_tasks(s))
		r = calibration_of_tasks(
			&j->pair, s->options.tasks, &limits, &j->calibration, reason);
	else if (s->calibration_text)
		r = calibration_of_text(j->tokenizer, s->calibration_text, s->n_calibration_text,
			&limits, &j->calibration, reason);
	else
		r = reason_set(reason, -EINVAL, "no calibration text");
	return r < 0 ? r : calibration_check(j->calibration, j->pair.tuned_config.vocab, reason);
}

static bool is_open(const struct compress_settings *s)
{
	return method_find(s->method)->takes & METHOD_TAKES_OUTER &&
	       compress_embedding(s).kind == EMBEDDING_AUTO;
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
		.whole_head = method_find(s->method)->exact &&
			      weights_bits(s->base_weights, ROLE_HEAD) > 0,
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
		.n_selftest = JOB_SELFTEST_BYTES,
		.outer_bytes = delta_file_bytes(j->file, is_outer_matrix),
	};

	return file_room(&room, ret, reason);
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

/* The method, or what stands in for it where it would take too much memory. */
static int choose_method(const struct job *j, const struct method **ret, struct reason *reason)
{
	const struct method *m = method_find(j->settings->method);
	uint64_t limit = j->settings->memory ? j->settings->memory : COMPRESS_DEFAULT_MEMORY;
	size_t n_threads = pool_threads(j->pool);
	uint64_t wanted = m->memory ? m->memory(&j->pair.tuned_config, n_threads) : 0;

	if (wanted > limit && m->streamed) {
		m = m->streamed;
		wanted = m->memory(&j->pair.tuned_config, n_threads);
	}
	if (wanted > limit)
		return reason_set(reason, -EINVAL,
			"method %s takes up to %.1f MB of memory for this model, the limit is %.1f "
			"MB",
			m->name, (double)wanted / 1e6, (double)limit / 1e6);
	*ret = m;
	return 0;
}

static int add_projections(struct job *j, struct reason *reason)
{
	const struct compress_work *work = j->settings->work;
	struct walk_settings settings = {
		.options = &j->settings->options,
		.pair = &j->pair,
		.calibration = j->calibration,
		.embedding = outer_embedding(j->outer),
		.outer = is_open(j->settings) ? j->outer : NULL,
		.pool = j->pool,
		.progress = j->progress,
		.key = key_of(j),
	};
	int r = choose_method(j, &settings.method, reason);

	if (r < 0)
		return r;
	/* What takes the method's place in little memory learns from all tasks. */
	if (learns_from_tasks(j->settings) && settings.method == method_find(j->settings->method))
		r = keep_back(j, reason);
	if (r < 0)
		return r;
	if (j->settings->options.file_ratio > 0) {
		r = room_for_parts(j, &settings.room, reason);
		if (r < 0)
			return r;
	}
	if (!work) {
		r = job_open_memory(&j->memory, reason);
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

static void fill_report(struct job *j)
{
	const struct certificate *c = &j->certificate;
	const struct walk_report *p = &j->projections;
	uint32_t n_changed = p->n_stored + p->n_left_out;
	struct compress_report *r = j->report;

	r->original_bytes = model_16bit_bytes(&j->pair.tuned_config);
	r->projection_bytes = c->projection_bytes;
	r->projection_original_bytes = c->projection_original_bytes;
	r->embedding_bytes = delta_file_bytes(j->file, is_outer_matrix);
	r->other_bytes = r->file_bytes - r->projection_bytes - r->embedding_bytes;
	r->n_projections = p->n_stored;
	r->n_unchanged = p->n_unchanged;
	r->n_left_out = p->n_left_out;
	r->mean_weight_error = n_changed ? p->sum_weight_error / n_changed : 0;
	r->mean_calibration_error = n_changed ? p->sum_calibration_error / n_changed : 0;
	r->mean_activation_error = n_changed ? p->sum_held_out_error / n_changed : 0;
	memcpy(r->figures, p->figures, sizeof(r->figures));
	r->n_figures = p->n_figures;
	r->kl = c->kl;
	r->agreement = c->agreement;
	r->perplexity_base = c->perplexity_base;
	r->perplexity_tuned = c->perplexity_tuned;
	r->perplexity_delta = c->perplexity_delta;
	r->n_calibration_tokens = c->n_calibration_tokens;
	r->n_eval_tokens = c->n_eval_tokens;
	r->tasks = j->certificate_tasks;
	r->self_tested = j->selftest.n > 0;
	r->n_resumed = p->n_resumed;
	r->began_anew = p->began_anew;
	r->against_served = j->against == j->settings->base_weights;
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
	return r < 0 ? r : job_write(j, fd, reason);
}

int compress_delta(struct checkpoint *base, struct checkpoint *tuned,
	const struct compress_settings *settings, int fd, const struct progress *progress,
	struct compress_report *ret, struct reason *reason)
{
	uint64_t started = clock_ns();
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
	report.seconds = 1e-9 * (double)(clock_ns() - started);
	report.peak_bytes = peak_bytes();
	snprintf(report.blas_core, sizeof(report.blas_core), "%s", blas_core());
	*ret = report;
	return 0;
}
