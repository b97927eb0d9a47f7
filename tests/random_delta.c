#include "tests/random_delta.h"

#include "common/file.h"
#include "foreign/tokenizer_json.h"
#include "kernels/convert.h"
#include "store/writer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#define N_BANDS 3

static const uint32_t band_bits[N_BANDS] = {8, 3, 2};
static const uint32_t band_ranks[N_BANDS] = {2, 5, 7};

struct plan {
	const struct base *base;
	bool projections_only;
	uint8_t *chat; /* section; or NULL */
	size_t n_chat;
	struct model_config config;
	uint32_t state;
	uint32_t n_added;
	uint32_t n_replaced; /* rows of a dense_rows payload */
	struct tensor_record *records;
	size_t n;
};

uint32_t random_u32(uint32_t *state)
{
	*state = *state * 1664525u + 1013904223u;
	return *state >> 8 ^ *state >> 20;
}

float random_float(uint32_t *state)
{
	return (float)(random_u32(state) & 0xffff) / 32768.0f - 1.0f;
}

static void layout_bands(struct mixed_svd_band bands[static N_BANDS], uint32_t rows, uint32_t cols,
	uint64_t *ret_bytes)
{
	for (uint32_t b = 0; b < N_BANDS; b++)
		bands[b] = (struct mixed_svd_band){.bits = band_bits[b], .n_ranks = band_ranks[b]};
	*ret_bytes = mixed_svd_layout(bands, N_BANDS, rows, cols);
}

static void plan_tensor(struct plan *p, enum tensor_role role, uint32_t layer)
{
	struct tensor_record *t = &p->records[p->n];
	struct mixed_svd_band bands[N_BANDS];
	uint64_t values;
	uint32_t rows, cols;

	if (!model_config_shape(&p->config, role, layer, &rows, &cols))
		return;
	*t = (struct tensor_record){.role = role, .layer = layer, .rows = rows, .cols = cols};
	if (tensor_role_is_projection(role)) {
		t->codec = CODEC_MIXED_SVD;
		t->n_parts = N_BANDS;
		layout_bands(bands, rows, cols, &t->bytes);
	} else if (p->projections_only) {
		return;
	} else if (role == ROLE_EMBED || role == ROLE_HEAD) {
		t->codec = CODEC_DENSE_ROWS;
		t->n_parts = p->n_replaced;
		t->bytes = dense_rows_layout(t->n_parts, cols, &values);
	} else if (role == ROLE_ATTN_NORM) {
		t->codec = CODEC_VECTOR_F32;
		t->bytes = rows * sizeof(float);
	} else {
		return;
	}
	p->n++;
}

static void fill_qmat(struct plan *p, uint8_t *codes, uint16_t *scales, uint8_t *zeros,
	size_t n_groups, uint32_t bits)
{
	for (size_t i = 0; i < n_groups * qmat_group_bytes(bits); i++)
		codes[i] = (uint8_t)random_u32(&p->state);
	for (size_t i = 0; i < n_groups; i++) {
		float step = (1.5f + random_float(&p->state)) / (float)(1 << bits);

		scales[i] = f16_from_f32(0.2f * step);
		zeros[i] = (uint8_t)(random_u32(&p->state) & ((1u << bits) - 1));
	}
}

static void fill_svd(struct plan *p, const struct tensor_record *t, uint8_t *payload)
{
	struct mixed_svd_band bands[N_BANDS];
	uint64_t bytes;

	layout_bands(bands, t->rows, t->cols, &bytes);
	assert_int_equal(bytes, t->bytes);
	memcpy(payload, bands, sizeof(bands));
	for (uint32_t b = 0; b < N_BANDS; b++) {
		const struct mixed_svd_band *band = &bands[b];
		float *sigma = (float *)(void *)(payload + band->sigma);

		for (uint32_t i = 0; i < band->n_ranks; i++)
			sigma[i] = 0.75f + 0.25f * random_float(&p->state);
		fill_qmat(p, payload + band->v_codes,
			(uint16_t *)(void *)(payload + band->v_scales), payload + band->v_zeros,
			band->n_ranks * qmat_groups(t->cols), band->bits);
		fill_qmat(p, payload + band->u_codes,
			(uint16_t *)(void *)(payload + band->u_scales), payload + band->u_zeros,
			band->n_ranks * qmat_groups(t->rows), band->bits);
	}
}

/* A whole block, every seventh row after it, and all added tokens. */
static uint32_t replaced_row(const struct plan *p, uint32_t i)
{
	if (i < MAT_BLOCK)
		return MAT_BLOCK + i;
	if (i < RANDOM_DELTA_REPLACED)
		return 7 * i;
	return p->base->config.vocab + i - RANDOM_DELTA_REPLACED;
}

static void fill_rows(struct plan *p, const struct tensor_record *t, uint8_t *payload)
{
	uint64_t values;

	assert_int_equal(dense_rows_layout(t->n_parts, t->cols, &values), t->bytes);
	for (uint32_t r = 0; r < t->n_parts; r++) {
		((uint32_t *)(void *)payload)[r] = replaced_row(p, r);
		for (uint32_t c = 0; c < t->cols; c++)
			((uint16_t *)(void *)(payload + values))[mat_bf16_index(t->cols, r, c)] =
				bf16_from_f32(0.1f * random_float(&p->state));
	}
}

static void append_tensor(struct writer *w, struct plan *p, const struct tensor_record *t)
{
	uint8_t *payload = calloc(1, t->bytes);

	assert_non_null(payload);
	if (t->codec == CODEC_MIXED_SVD)
		fill_svd(p, t, payload);
	else if (t->codec == CODEC_DENSE_ROWS)
		fill_rows(p, t, payload);
	else
		for (uint32_t i = 0; i < t->rows; i++)
			((float *)(void *)payload)[i] = 1 + 0.25f * random_float(&p->state);
	assert_int_equal(writer_offset(w), t->offset);
	assert_int_equal(writer_append(w, payload, t->bytes), 0);
	assert_int_equal(writer_align(w, 64), 0);
	free(payload);
}

static void write_delta(struct plan *p, int fd)
{
	struct digest tuned = digest_of(&p->state, sizeof(p->state));
	uint64_t records_bytes = p->n * sizeof(*p->records), at;
	struct writer *w;

	assert_int_equal(writer_begin(fd, IMAGE_KIND_DELTA, UINT64_C(64) << 20, &w, NULL), 0);
	assert_int_equal(writer_section(w, SECTION_CONFIG, &p->config, sizeof(p->config)), 0);
	at = align_up(writer_offset(w), FORMAT_PAGE) + align_up(records_bytes, FORMAT_PAGE) +
	     align_up(p->n_chat, FORMAT_PAGE);
	for (size_t i = 0; i < p->n; i++) {
		p->records[i].offset = at;
		at = align_up(at + p->records[i].bytes, 64);
	}
	assert_int_equal(writer_section(w, SECTION_TENSORS, p->records, records_bytes), 0);
	assert_int_equal(writer_section(w, SECTION_CHAT, p->chat, p->n_chat), 0);
	assert_int_equal(writer_section_begin(w, SECTION_WEIGHTS, FORMAT_PAGE), 0);
	for (size_t i = 0; i < p->n; i++)
		append_tensor(w, p, &p->records[i]);
	assert_int_equal(writer_section_end(w), 0);
	assert_int_equal(writer_finish(w, base_model_digest(p->base), &tuned, NULL, NULL), 0);
	writer_free(w);
}

static void make_delta(struct plan *p, uint32_t seed, int fd)
{
	p->config.vocab += p->n_added;
	p->n_replaced = RANDOM_DELTA_REPLACED + p->n_added;
	p->state = seed * 2654435761u + 1;
	p->records = calloc((size_t)p->config.n_layers * N_ROLES, sizeof(*p->records));
	assert_non_null(p->records);
	for (uint32_t layer = 0; layer < p->config.n_layers; layer++)
		for (uint32_t role = 0; role < N_ROLES; role++)
			plan_tensor(p, role, layer);
	write_delta(p, fd);
	free(p->records);
}

struct delta *random_delta(const struct base *base, uint32_t seed, uint32_t n_added)
{
	struct plan p = {.base = base, .config = base->config, .n_added = n_added};
	struct reason reason = {0};
	struct image *image = NULL;
	struct delta *delta = NULL;
	int fd = memfd_create("random-delta", MFD_CLOEXEC);

	assert_true(fd >= 0);
	make_delta(&p, seed, fd);
	if (image_load(fd, &image, NULL, &reason) < 0 ||
		delta_bind(image, base, &delta, &reason) < 0)
		fail_msg("random delta: %s", reason.text);
	close(fd);
	return delta;
}

void random_delta_file(
	const struct base *base, uint32_t seed, const char *chat_folder, const char *path)
{
	struct plan p = {.base = base, .config = base->config, .projections_only = true};
	_cleanup_(new_file_done) struct new_file file = NEW_FILE_INIT;
	struct reason reason = {0};

	if (chat_folder && chat_format_compile(chat_folder, &p.chat, &p.n_chat, &reason) < 0)
		fail_msg("%s: %s", chat_folder, reason.text);
	assert_int_equal(new_file_open(&file, path, NULL), 0);
	make_delta(&p, seed, file.fd);
	assert_int_equal(new_file_commit(&file, NULL), 0);
	free(p.chat);
}
