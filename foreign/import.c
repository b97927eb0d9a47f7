/*
 * The offsets of all payloads follow from the config alone, so the records are written before the
 * weights and the file is written once, front to back. At any time two tensors are in memory, as
 * read and as packed, and of codes what one of the two stands for: while one is written and
 * digested the next one is read and packed.
 */
#include "foreign/import.h"

#include "engine/chat.h"
#include "foreign/tokenizer_json.h"
#include "store/base.h"
#include "store/model_digest.h"
#include "store/parallel.h"
#include "store/writer.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#define VECTOR_ALIGNMENT 64u
#define MATRIX_ALIGNMENT FORMAT_PAGE

struct plan {
	struct tensor_record *records; /* offsets count from the beginning of the weights */
	size_t n_records;
	uint64_t weights_bytes;
	uint64_t n_parameters;
	uint64_t max_tensor_bytes; /* as packed */
	uint64_t max_numbers;      /* in one tensor */
};

/* The sections of text handling; a model without them is still a model. */
struct text_sections {
	uint8_t *tokenizer;
	size_t n_tokenizer;
	uint8_t *chat;
	size_t n_chat;
};

/* A tensor on its way, and room for the largest one. */
struct passing {
	const struct tensor_record *t;
	void *source; /* in the form that is digested */
	void *packed;
	const void *payload; /* one of these two: what goes into the file */
	size_t n_source_bytes;
};

/* One import under way. */
struct import {
	struct checkpoint *checkpoint;
	const struct model_config *config;
	const struct import_settings *settings;
	struct plan plan;
	struct text_sections text;
	struct writer *writer;
	struct model_digest *digest, *served_digest; /* the latter NULL without codes */
	struct passing passing[2];
	float *served; /* where there are codes: what those of the tensor that goes stand for */
	struct import_report *report;
	struct reason *reason;
};

static void import_done(struct import *in)
{
	free(in->plan.records);
	free(in->text.tokenizer);
	free(in->text.chat);
	writer_free(in->writer);
	model_digest_free(in->digest);
	model_digest_free(in->served_digest);
	free(in->served);
	for (size_t i = 0; i < array_len(in->passing); i++) {
		free(in->passing[i].source);
		free(in->passing[i].packed);
	}
}

static void plan_tensor(struct plan *plan, enum weights weights, enum tensor_role role,
	uint32_t layer, uint32_t rows, uint32_t cols)
{
	bool vector = tensor_role_is_vector(role);
	struct tensor_record *record = &plan->records[plan->n_records++];

	*record = (struct tensor_record){
		.role = role,
		.layer = layer,
		.rows = rows,
		.cols = cols,
		.offset =
			align_up(plan->weights_bytes, vector ? VECTOR_ALIGNMENT : MATRIX_ALIGNMENT),
	};
	weights_record(weights, record);
	plan->weights_bytes = record->offset + record->bytes;
	plan->n_parameters += (uint64_t)rows * cols;
	plan->max_tensor_bytes = max_u64(plan->max_tensor_bytes, record->bytes);
	plan->max_numbers = max_u64(plan->max_numbers, (uint64_t)rows * cols);
}

static int plan_tensors(struct import *in)
{
	const struct model_config *c = in->config;
	uint32_t rows, cols;

	in->plan.records = calloc((size_t)c->n_layers * N_ROLES, sizeof(*in->plan.records));
	if (!in->plan.records)
		return reason_set(in->reason, -ENOMEM, "out of memory");
	for (uint32_t layer = 0; layer < c->n_layers; layer++)
		for (int role = 0; role < N_ROLES; role++)
			if (model_config_shape(c, (enum tensor_role)role, layer, &rows, &cols))
				plan_tensor(&in->plan, in->settings->weights,
					(enum tensor_role)role, layer, rows, cols);
	return 0;
}

static int name_chat_format(struct import *in)
{
	struct import_report *report = in->report;
	struct chat_format *format = NULL;
	int r = chat_format_new(in->text.chat, in->text.n_chat, &format, in->reason);

	if (r < 0)
		return r;
	snprintf(report->chat_format, sizeof(report->chat_format), "%s", chat_format_name(format));
	chat_format_free(format);
	return 0;
}

/* A template that we do not know costs the model its chat, not its completions. */
static int compile_chat(struct import *in)
{
	struct import_report *report = in->report;
	struct reason refusal = {0};
	int r = chat_format_compile(
		checkpoint_folder(in->checkpoint), &in->text.chat, &in->text.n_chat, &refusal);

	if (r == 0)
		return name_chat_format(in);
	if (r != -EOPNOTSUPP && r != -ENOENT)
		return reason_set(in->reason, r, "%s", refusal.text);
	snprintf(report->chat_refusal, sizeof(report->chat_refusal), "%.255s", refusal.text);
	return 0;
}

static int compile_text(struct import *in)
{
	struct import_report *report = in->report;
	int r = tokenizer_compile(checkpoint_folder(in->checkpoint), &in->text.tokenizer,
		&in->text.n_tokenizer, in->reason);

	report->has_tokenizer = r == 0;
	if (r == 0)
		return compile_chat(in);
	if (r != -ENOENT)
		return r;
	snprintf(report->chat_refusal, sizeof(report->chat_refusal), "there is no tokenizer");
	return 0;
}

static uint64_t after_section(uint64_t at, uint64_t n_bytes)
{
	return align_up(at, FORMAT_PAGE) + n_bytes;
}

/* Where the weights will begin, seen from the end of the config. */
static uint64_t weights_offset(const struct import *in)
{
	uint64_t at = writer_offset(in->writer);

	at = after_section(at, in->plan.n_records * sizeof(*in->plan.records));
	if (in->text.n_tokenizer)
		at = after_section(at, in->text.n_tokenizer);
	if (in->text.n_chat)
		at = after_section(at, in->text.n_chat);
	return align_up(at, FORMAT_WEIGHTS_ALIGNMENT);
}

static int write_head_sections(struct import *in)
{
	uint64_t weights;
	int r;

	r = writer_section(in->writer, SECTION_CONFIG, in->config, sizeof(*in->config));
	if (r < 0)
		return r;
	weights = weights_offset(in);
	for (size_t i = 0; i < in->plan.n_records; i++)
		in->plan.records[i].offset += weights;
	r = writer_section(in->writer, SECTION_TENSORS, in->plan.records,
		in->plan.n_records * sizeof(*in->plan.records));
	if (r == 0)
		r = writer_section(
			in->writer, SECTION_TOKENIZER, in->text.tokenizer, in->text.n_tokenizer);
	if (r == 0)
		r = writer_section(in->writer, SECTION_CHAT, in->text.chat, in->text.n_chat);
	return r;
}

static int read_tensor(struct import *in, struct passing *p)
{
	const struct tensor_record *t = p->t;
	enum tensor_role role = (enum tensor_role)t->role;
	uint64_t n_inexact;
	int r;

	if (t->codec == CODEC_VECTOR_F32) {
		p->payload = p->source;
		p->n_source_bytes = t->bytes;
		return checkpoint_read_f32(in->checkpoint, role, t->layer, p->source, in->reason);
	}
	r = checkpoint_read_bf16(in->checkpoint, role, t->layer, p->source, &n_inexact, in->reason);
	if (r < 0)
		return r;
	in->report->n_inexact += n_inexact;
	p->payload = p->packed;
	p->n_source_bytes = (size_t)t->rows * t->cols * sizeof(uint16_t);
	if (in->settings->rounding && t->codec == CODEC_MAT_INT && tensor_role_is_projection(role))
		return in->settings->rounding->pack(
			in->settings->rounding->user, t, p->packed, in->reason);
	weights_pack(t, p->source, p->packed);
	return 0;
}

static void digest_source(struct model_digest *digest, const struct passing *p)
{
	model_digest_add(digest, (enum tensor_role)p->t->role, p->t->layer, p->t->rows, p->t->cols,
		p->source, p->n_source_bytes);
}

static void digest_served(struct import *in, const struct passing *p)
{
	const struct tensor_record *t = p->t;

	if (t->codec != CODEC_MAT_INT) {
		digest_source(in->served_digest, p);
		return;
	}
	weights_values(t, p->packed, in->served);
	model_digest_add(in->served_digest, (enum tensor_role)t->role, t->layer, t->rows, t->cols,
		in->served, (size_t)t->rows * t->cols * sizeof(*in->served));
}

static int write_tensor(struct import *in, const struct passing *p)
{
	const struct tensor_record *t = p->t;
	int r;

	r = writer_align(
		in->writer, t->codec == CODEC_VECTOR_F32 ? VECTOR_ALIGNMENT : MATRIX_ALIGNMENT);
	if (r < 0)
		return r;
	assert(writer_offset(in->writer) == t->offset);
	return writer_append(in->writer, p->payload, t->bytes);
}

/* What is done at the same time; the longest task first. */
enum task {
	TASK_SERVED,
	TASK_WRITE,
	TASK_READ,
	TASK_DIGEST,
	N_TASKS,
};

struct step {
	struct import *in;
	struct passing *coming, *going; /* NULL at the end, at the beginning */
	int read_error, write_error;
};

static void run_task(void *arg, size_t task)
{
	struct step *s = arg;
	struct import *in = s->in;

	switch ((enum task)task) {
	case TASK_SERVED:
		if (s->going && in->served_digest)
			digest_served(in, s->going);
		break;
	case TASK_WRITE:
		if (s->going)
			s->write_error = write_tensor(in, s->going);
		break;
	case TASK_READ:
		if (s->coming)
			s->read_error = read_tensor(in, s->coming);
		break;
	case TASK_DIGEST:
		if (s->going)
			digest_source(in->digest, s->going);
		break;
	case N_TASKS:
		break;
	}
}

static int write_weights(struct import *in)
{
	int r = writer_section_begin(in->writer, SECTION_WEIGHTS, FORMAT_WEIGHTS_ALIGNMENT);
	uint64_t begin = writer_offset(in->writer);
	struct step step = {.in = in};

	for (size_t i = 0; i <= in->plan.n_records && r == 0; i++) {
		step.going = step.coming;
		step.coming = i < in->plan.n_records ? &in->passing[i % 2] : NULL;
		if (step.coming)
			step.coming->t = &in->plan.records[i];
		parallel_for(N_TASKS, run_task, &step);
		/* The reader's first: it has said why in words. */
		r = step.read_error < 0 ? step.read_error : step.write_error;
		progress_update(in->settings->progress, "importing",
			writer_offset(in->writer) - begin, in->plan.weights_bytes);
	}
	return r < 0 ? r : writer_section_end(in->writer);
}

static int write_sections(struct import *in)
{
	int r = write_head_sections(in);

	if (r < 0)
		return reason_set(in->reason, r, "cannot write: %s", strerror(-r));
	in->reason->text[0] = '\0';
	r = write_weights(in);
	if (r < 0 && !in->reason->text[0])
		return reason_set(in->reason, r, "cannot write: %s", strerror(-r));
	return r;
}

/* Vectors are read as f32, matrices as bf16. */
static bool passing_init(struct passing *p, const struct plan *plan)
{
	p->source = malloc(max_u64(plan->max_numbers * sizeof(uint16_t), plan->max_tensor_bytes));
	p->packed =
		aligned_alloc(MATRIX_ALIGNMENT, align_up(plan->max_tensor_bytes, MATRIX_ALIGNMENT));
	return p->source && p->packed;
}

static int take_memory(struct import *in)
{
	const struct plan *plan = &in->plan;
	bool codes = in->settings->weights != WEIGHTS_BF16;

	in->digest = model_digest_new(in->config);
	in->served_digest = codes ? model_digest_new(in->config) : NULL;
	in->served = codes ? malloc(plan->max_numbers * sizeof(*in->served)) : NULL;
	if (in->digest && codes == !!in->served_digest && codes == !!in->served &&
		passing_init(&in->passing[0], plan) && passing_init(&in->passing[1], plan))
		return 0;
	return reason_set(in->reason, -ENOMEM, "out of memory for tensors of %llu numbers",
		(unsigned long long)plan->max_numbers);
}

static int prepare(struct import *in, int fd)
{
	uint64_t body_bytes;
	int r;

	r = plan_tensors(in);
	if (r == 0)
		r = compile_text(in);
	if (r < 0)
		return r;
	body_bytes = in->plan.weights_bytes + sizeof(*in->config) +
		     in->plan.n_records * sizeof(*in->plan.records) + in->text.n_tokenizer +
		     in->text.n_chat;
	r = writer_begin(fd, IMAGE_KIND_BASE, body_bytes, &in->writer, in->reason);
	if (r < 0)
		return r;
	return take_memory(in);
}

int import_image(struct checkpoint *checkpoint, const struct import_settings *settings, int fd,
	struct import_report *ret, struct reason *reason)
{
	struct import_report report = {0};
	struct reason ignored;
	_cleanup_(import_done) struct import in = {
		.checkpoint = checkpoint,
		.config = checkpoint_config(checkpoint),
		.settings = settings,
		.report = &report,
		.reason = reason ? reason : &ignored,
	};
	struct format_header header;
	int r;

	r = prepare(&in, fd);
	if (r == 0)
		r = write_sections(&in);
	if (r < 0)
		return r;
	report.model = report.served = model_digest_finish(take_ptr(in.digest));
	if (in.served_digest)
		report.served = model_digest_finish(take_ptr(in.served_digest));
	r = writer_finish(in.writer, &report.model,
		settings->weights == WEIGHTS_BF16 ? NULL : &report.served, &header, in.reason);
	if (r < 0)
		return r;
	report.root = header.root;
	report.file_bytes = header.file_bytes;
	report.n_parameters = in.plan.n_parameters;
	*ret = report;
	return 0;
}

int import_base(struct checkpoint *checkpoint, enum weights weights, int fd,
	const struct progress *progress, struct import_report *ret, struct reason *reason)
{
	const struct import_settings settings = {.weights = weights, .progress = progress};

	return import_image(checkpoint, &settings, fd, ret, reason);
}
