/*
 * What reads images, without the digests that would keep a fuzzer out. The first byte chooses:
 *
 *   0   the rest is a header page
 *   1   a small good base image in memory, the rest are edits of it; header and records are checked
 *   2   the same with a delta file
 *
 * The image ends where memory ends, so reading past it is a fault. What is bound is walked through.
 */
#include "kernels/pack.h"
#include "store/base.h"
#include "store/bf16_stream.h"
#include "store/delta.h"
#include "store/part.h"

#include <string.h>
#include <sys/mman.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

#define MAX_EDITS 16
#define CONFIG_AT 8192
#define RECORDS_AT 12288
#define CERTIFICATE_AT 16384
#define DELTA_WEIGHTS_AT 20480
#define N_DELTA_RECORDS 10

enum edit_part {
	EDIT_HEADER,
	EDIT_CONFIG,
	EDIT_RECORD, /* the index-th */
	EDIT_PAYLOAD,
	EDIT_ANYWHERE,
	N_EDIT_PARTS,
};

struct edit {
	uint8_t part;
	uint8_t log2_width;
	uint16_t index;
	uint32_t offset;
	uint64_t value;
};

struct file {
	uint8_t *bytes;
	uint64_t n_bytes, n_mapped;
	struct format_header header;
	size_t n_records;
};

static const struct model_config config = {
	.family = MODEL_FAMILY_QWEN3,
	.flags = MODEL_QKV_BIAS | MODEL_QK_NORM,
	.n_layers = 2,
	.hidden = 33,
	.ffn = 40,
	.n_heads = 2,
	.n_kv_heads = 1,
	.head_dim = 10,
	.vocab = 50,
	.max_positions = 16,
	.rope_theta = 10000,
	.rope_attention_factor = 1,
	.norm_eps = 1e-5f,
	.bos = -1,
	.pad = -1,
};

/* Both widths that a base may have, in its second layer. */
static void make_codes(struct tensor_record *t)
{
	if (t->layer != 1 || (t->role != ROLE_Q && t->role != ROLE_DOWN))
		return;
	t->codec = CODEC_MAT_INT;
	t->bits = t->role == ROLE_Q ? 4 : 8;
}

static size_t base_records(struct tensor_record *records, uint64_t *at)
{
	size_t n = 0;

	for (uint32_t layer = 0; layer < config.n_layers; layer++)
		for (uint32_t role = 0; role < N_ROLES; role++) {
			bool vector = tensor_role_is_vector(role);
			struct tensor_record t = {.role = role, .layer = layer, .offset = *at};

			if (!model_config_shape(&config, role, layer, &t.rows, &t.cols))
				continue;
			t.codec = vector ? CODEC_VECTOR_F32 : CODEC_MAT_BF16;
			make_codes(&t);
			t.bytes = part_layout(&t).end;
			*at = align_up(*at + t.bytes, 64);
			records[n++] = t;
		}
	return n;
}

/* A good stream of codes that all stand for zero, at the end of a payload. */
static void append_stream(uint8_t *bytes, struct tensor_record *t, uint32_t rows, uint32_t cols)
{
	const struct code_shape shape = part_code_shape(t, rows, cols);
	uint8_t *codes = malloc((size_t)rows * cols), *stream = NULL;
	uint64_t n = 0;

	if (!codes)
		abort();
	memset(codes, shape.centre, (size_t)rows * cols);
	if (code_stream_encode(&shape, codes, &stream, &n) < 0)
		abort();
	memcpy(bytes + t->offset + t->bytes, stream, n);
	t->bytes += n;
	free(codes);
	free(stream);
}

static void zero_row(void *user, uint32_t row, uint16_t *ret_words)
{
	const struct tensor_record *t = user;

	(void)row;
	memset(ret_words, 0, t->cols * sizeof(*ret_words));
}

/* Likewise of words that are all the base's. */
static void append_words(uint8_t *bytes, struct tensor_record *t)
{
	const struct bf16_rows zeros = {.get = zero_row, .user = t};
	uint8_t *stream = NULL;
	uint64_t n = 0;

	if (bf16_stream_encode(t->n, t->cols, &zeros, &zeros, &stream, &n) < 0)
		abort();
	memcpy(bytes + t->offset + t->bytes, stream, n);
	t->bytes += n;
	free(stream);
}

/* What the payload needs beside zeros. */
static void fill_payload(uint8_t *bytes, struct tensor_record *t)
{
	uint8_t *payload = bytes + t->offset;
	uint64_t n_v;

	if (t->codec == CODEC_ROWS && t->n < t->rows)
		((uint32_t *)(void *)payload)[1] = 7;
	if (t->codec == CODEC_CODES && t->n < t->rows)
		payload[part_layout(t).list] = 3; /* the first two rows */
	if (t->coding == CODING_PLAIN)
		return;
	if (t->codec == CODEC_ROWS)
		append_words(bytes, t);
	if (t->codec == CODEC_CODES)
		append_stream(bytes, t, t->n, t->cols);
	if (t->codec == CODEC_DROPOUT)
		append_stream(bytes, t, t->rows, part_dropout_layout(t).entries_of_row);
	if (t->codec == CODEC_FACTORS) {
		append_stream(bytes, t, t->n, t->cols);
		n_v = t->bytes - part_layout(t).end;
		memcpy(payload, &n_v, sizeof(n_v));
		append_stream(bytes, t, t->n, t->rows);
	}
}

static size_t delta_records(uint8_t *bytes, struct tensor_record *records, uint64_t *at)
{
	static const struct tensor_record all[N_DELTA_RECORDS] = {
		{.role = ROLE_EMBED, .codec = CODEC_ROWS, .n = 2},
		{.role = ROLE_ATTN_NORM, .codec = CODEC_VECTOR_F32},
		{.role = ROLE_K,
			.codec = CODEC_CODES,
			.n = 2,
			.bits = 3,
			.grid = GRID_ROW,
			.step = 1,
			.zero = 3.5f},
		{.role = ROLE_V,
			.codec = CODEC_DROPOUT,
			.n = 2,
			.bits = 4,
			.grid = GRID_MATRIX,
			.step = 1,
			.zero = 7,
			.group = 11,
			.seed = 5,
			.coding = CODING_STREAM},
		{.role = ROLE_GATE, .codec = CODEC_ROWS, .n = 40, .coding = CODING_STREAM},
		{.role = ROLE_UP,
			.codec = CODEC_CODES,
			.n = 40,
			.bits = 2,
			.grid = GRID_MATRIX,
			.step = 1,
			.zero = 1,
			.coding = CODING_STREAM},
		{.role = ROLE_Q,
			.layer = 1,
			.codec = CODEC_FACTORS,
			.n = 9,
			.bits = 8,
			.grid = GRID_GROUP},
		{.role = ROLE_O,
			.layer = 1,
			.codec = CODEC_FACTORS,
			.n = 3,
			.bits = 4,
			.grid = GRID_MATRIX,
			.step = 1,
			.zero = 7,
			.coding = CODING_STREAM},
		{.role = ROLE_DOWN, .layer = 1, .codec = CODEC_FACTORS, .n = 1, .bits = 16},
		{.role = ROLE_FINAL_NORM, .layer = 1, .codec = CODEC_VECTOR_F32},
	};

	for (size_t i = 0; i < N_DELTA_RECORDS; i++) {
		struct tensor_record *t = &records[i];

		*t = all[i];
		t->offset = *at;
		if (!model_config_shape(
			    &config, (enum tensor_role)t->role, t->layer, &t->rows, &t->cols))
			abort();
		t->bytes = part_layout(t).end;
		fill_payload(bytes, t);
		*at = align_up(*at + t->bytes, 64);
	}
	return N_DELTA_RECORDS;
}

static uint64_t expanded_bytes(const struct tensor_record *records, size_t n)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += part_layout(&records[i]).expanded_bytes;
	return sum;
}

static void add_section(
	struct format_header *h, enum section_kind kind, uint64_t offset, uint64_t n)
{
	h->sections[h->n_sections++] =
		(struct format_section){.kind = kind, .offset = offset, .bytes = n};
}

/* A good file of that kind, all weights zero. Memory after its end may not be touched. */
static struct file make_file(bool is_base)
{
	uint64_t begin = is_base ? FORMAT_WEIGHTS_ALIGNMENT : DELTA_WEIGHTS_AT, end = begin;
	struct file f = {.n_mapped = begin + (1 << 20)};
	struct tensor_record *records;

	f.bytes =
		mmap(NULL, f.n_mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (f.bytes == MAP_FAILED)
		abort();
	records = (void *)(f.bytes + RECORDS_AT);
	f.n_records = is_base ? base_records(records, &end) : delta_records(f.bytes, records, &end);
	f.n_bytes = align_up(end, FORMAT_PAGE);
	f.header.version = FORMAT_VERSION;
	f.header.file_bytes = f.n_bytes;
	f.header.body_offset = CONFIG_AT;
	f.header.n_chunks = div_up(f.n_bytes - CONFIG_AT, FORMAT_CHUNK);
	f.header.n_levels = 1;
	f.header.level_end[0] = f.n_bytes;
	f.header.expanded_bytes = expanded_bytes(records, f.n_records);
	f.header.tuned.bytes[0] = 1; /* of what the codes of the base serve */
	memcpy(f.header.magic, is_base ? FORMAT_MAGIC_BASE : FORMAT_MAGIC_DELTA, 8);
	memcpy(f.bytes + CONFIG_AT, &config, sizeof(config));
	add_section(&f.header, SECTION_CONFIG, CONFIG_AT, sizeof(config));
	add_section(&f.header, SECTION_TENSORS, RECORDS_AT, f.n_records * sizeof(*records));
	if (!is_base)
		add_section(&f.header, SECTION_CERTIFICATE, CERTIFICATE_AT,
			sizeof(struct certificate) + f.n_records * sizeof(struct tensor_quality));
	add_section(&f.header, SECTION_WEIGHTS, begin, end - begin);
	memcpy(f.bytes, &f.header, sizeof(f.header));
	if (mprotect(f.bytes + f.n_bytes, f.n_mapped - f.n_bytes, PROT_NONE) < 0)
		abort();
	return f;
}

static void apply(const struct file *f, const struct edit *e)
{
	const struct tensor_record *good = (const void *)(f->bytes + RECORDS_AT);
	uint64_t width = UINT64_C(1) << e->log2_width % 4, at = e->offset;
	size_t index = e->index % f->n_records;

	switch ((enum edit_part)(e->part % N_EDIT_PARTS)) {
	case EDIT_HEADER:
		at %= sizeof(struct format_header);
		break;
	case EDIT_CONFIG:
		at = CONFIG_AT + at % sizeof(config);
		break;
	case EDIT_RECORD:
		at = RECORDS_AT + index * sizeof(*good) + at % sizeof(*good);
		break;
	case EDIT_PAYLOAD:
		at += good[index].offset;
		break;
	case EDIT_ANYWHERE:
	case N_EDIT_PARTS:
		break;
	}
	at %= f->n_bytes - width;
	memcpy(f->bytes + at, &e->value, width);
}

/* Kept from being optimised away. */
static volatile uint8_t touched;

static void touch(const void *bytes, size_t n)
{
	const uint8_t *at = bytes;

	for (size_t i = 0; at && i < n; i += 64)
		touched ^= at[i];
	if (at && n)
		touched ^= at[n - 1];
}

static void touch_matrix(const struct mat_bf16 *m)
{
	touch(m->data, mat_bf16_bytes(m->rows, m->cols));
}

static void touch_qmat(const struct qmat *m)
{
	size_t n = m->rows * qmat_groups(m->cols);

	touch(m->codes, n * qmat_group_bytes(m->bits));
	touch(m->scales, n * sizeof(uint16_t));
	touch(m->zeros, n);
}

static void touch_mat_int(const struct mat_int *m)
{
	touch(m->codes, mat_int_codes_bytes(m->rows, m->cols, m->bits));
	touch(m->scales, mat_int_n_scales(m->rows, m->cols) * sizeof(uint16_t));
	touch(m->grids, mat_int_grids_bytes(m->rows, m->cols));
}

static void touch_base_matrix(const struct base_matrix *m)
{
	if (m->codec == CODEC_MAT_INT)
		touch_mat_int(&m->ints);
	else
		touch_matrix(&m->bf16);
}

static void walk_base(const struct base *b)
{
	touch_base_matrix(&b->embed);
	touch_base_matrix(&b->head);
	touch(b->final_norm, b->config.hidden * sizeof(float));
	for (uint32_t i = 0; i < b->config.n_layers; i++) {
		const struct base_layer *l = &b->layers[i];

		touch_base_matrix(&l->q);
		touch_base_matrix(&l->o);
		touch_base_matrix(&l->down);
		touch(l->vectors.k_bias, l->k.rows * sizeof(float));
		touch(l->vectors.q_norm, b->config.head_dim * sizeof(float));
	}
}

static void walk_part(const struct delta_part *part)
{
	switch ((int)part->codec) {
	case CODEC_ROWS:
		touch(part->rows.rows, part->rows.n_rows * sizeof(uint32_t));
		touch_matrix(&part->rows.values);
		return;
	case CODEC_FACTORS:
		touch_qmat(&part->factors.u);
		touch_qmat(&part->factors.v);
		touch(part->factors.sigma, part->factors.v.rows * sizeof(float));
		return;
	case CODEC_CODES:
		touch_qmat(&part->codes.q);
		touch(part->codes.rows, part->codes.q.rows * sizeof(uint32_t));
		return;
	case CODEC_DROPOUT:
		touch(part->dropout.entries, dropmat_entries_bytes(&part->dropout));
		touch(part->dropout.scales, part->dropout.rows * sizeof(uint16_t));
		return;
	}
}

static void walk_matrix(const struct linear_delta *m)
{
	for (uint32_t i = 0; i < m->n_parts; i++)
		walk_part(&m->parts[i]);
}

static void walk_delta(const struct delta *d)
{
	walk_matrix(&d->embed);
	walk_matrix(&d->head);
	touch(d->final_norm, d->config.hidden * sizeof(float));
	touch(d->qualities, d->n_records * sizeof(*d->qualities));
	for (uint32_t i = 0; i < d->config.n_layers; i++) {
		const struct delta_layer *l = &d->layers[i];

		touch(l->vectors.attn_norm, d->config.hidden * sizeof(float));
		walk_matrix(&l->q);
		walk_matrix(&l->k);
		walk_matrix(&l->v);
		walk_matrix(&l->o);
		walk_matrix(&l->gate);
		walk_matrix(&l->up);
		walk_matrix(&l->down);
	}
}

static struct image *image_of(const struct file *f, enum image_kind kind)
{
	struct image *image = calloc(1, sizeof(*image));

	if (!image)
		abort();
	*image = (struct image){
		.kind = kind,
		.fd = -1,
		.bytes = f->bytes,
		.n_bytes = f->n_bytes,
		.n_levels = 1,
		.mapped_bytes = f->n_mapped,
		.header = f->header,
	};
	return image;
}

/* What deltas are bound to. */
static const struct base *good_base(void)
{
	static struct base *base;
	struct file f;

	if (base)
		return base;
	f = make_file(true);
	if (base_bind(image_of(&f, IMAGE_KIND_BASE), &base, NULL) < 0)
		abort();
	return base;
}

static bool bind(struct image *image, bool with_base)
{
	struct reason reason;
	struct delta *delta;
	struct base *base;

	if (image->kind == IMAGE_KIND_BASE && base_bind(image, &base, &reason) == 0) {
		walk_base(base);
		base_free(base);
		return true;
	}
	if (image->kind == IMAGE_KIND_DELTA &&
		delta_bind(image, with_base ? good_base() : NULL, &delta, &reason) == 0) {
		if (with_base)
			walk_delta(delta);
		delta_free(delta);
		return true;
	}
	image_free(image);
	return false;
}

/* Edits of the header count only if the header still parses; else the good one stands. */
static void bind_edited(bool is_base, const uint8_t *data, size_t n)
{
	bool edited = n >= sizeof(struct edit), with_base = n % 2 == 0;
	struct file f = make_file(is_base);
	struct image *image;
	struct edit e;

	for (size_t i = 0; i < MAX_EDITS && n >= sizeof(e); i++) {
		memcpy(&e, data, sizeof(e));
		apply(&f, &e);
		data += sizeof(e);
		n -= sizeof(e);
	}
	image = image_of(&f, is_base ? IMAGE_KIND_BASE : IMAGE_KIND_DELTA);
	(void)!image_parse_header(f.bytes, f.n_bytes, &image->header, NULL);
	/* Without edits it is good: else nothing that follows would be reached. */
	if (!bind(image, with_base) && !edited)
		abort();
}

static void parse_header(const uint8_t *data, size_t n)
{
	uint8_t page[FORMAT_PAGE] = {0};
	struct format_header h;
	struct reason reason;
	uint64_t n_bytes;

	memcpy(page, data, n < sizeof(page) ? n : sizeof(page));
	memcpy(&h, page, sizeof(h));
	if (image_parse_header(page, h.file_bytes, &h, &reason) < 0)
		return;
	for (uint32_t i = 0; i < h.n_sections; i++)
		if (!range_inside(h.sections[i].offset, h.sections[i].bytes, h.file_bytes))
			abort();
	for (uint64_t i = 0; i < min_u64(h.n_chunks, 64); i++)
		if (image_chunk(&h, i, &n_bytes) >= h.file_bytes || n_bytes == 0)
			abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	if (n == 0)
		return 0;
	if (data[0] % 3 == 0)
		parse_header(data + 1, n - 1);
	else
		bind_edited(data[0] % 3 == 1, data + 1, n - 1);
	return 0;
}
