#include "tests/small_image.h"

#include "kernels/convert.h"
#include "store/model_digest.h"
#include "store/writer.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#define MAX_BODY (UINT64_C(16) << 20)

const struct model_config small_config = {
	.family = MODEL_FAMILY_QWEN3,
	.flags = MODEL_QKV_BIAS | MODEL_O_BIAS | MODEL_MLP_BIAS | MODEL_QK_NORM,
	.n_layers = 2,
	.hidden = 71,
	.ffn = 150,
	.n_heads = 4,
	.n_kv_heads = 2,
	.head_dim = 22,
	.vocab = 301,
	.max_positions = 64,
	.rope_theta = 10000,
	.rope_attention_factor = 1,
	.norm_eps = 1e-5f,
	.bos = 1,
	.pad = -1,
	.n_eos = 1,
	.eos = {2},
};

/* Exact in bf16: an integer of 7 bits times a power of two. */
float small_value(enum tensor_role role, uint32_t layer, uint32_t row, uint32_t col)
{
	uint32_t mixed = (role + 31 * layer) * 2654435761u ^ (row * 40503u + col * 9973u);

	return ((float)((mixed >> 7) & 127) - 64) / 64;
}

static uint64_t tensor_bytes(enum tensor_role role, uint32_t rows, uint32_t cols)
{
	return tensor_role_is_vector(role) ? rows * sizeof(float) : mat_bf16_bytes(rows, cols);
}

/* Canonical values of one tensor for the digest: row by row. */
static void digest_tensor(
	struct model_digest *m, enum tensor_role role, uint32_t layer, uint32_t rows, uint32_t cols)
{
	bool vector = tensor_role_is_vector(role);
	size_t n = (size_t)rows * cols, n_bytes = n * (vector ? 4 : 2);
	uint8_t *values = malloc(n_bytes);

	assert_non_null(values);
	for (size_t i = 0; i < n; i++) {
		float value = small_value(role, layer, (uint32_t)(i / cols), (uint32_t)(i % cols));
		uint16_t half = bf16_from_f32(value);

		memcpy(values + i * (vector ? 4 : 2), vector ? (void *)&value : (void *)&half,
			vector ? 4 : 2);
	}
	model_digest_add(m, role, layer, rows, cols, values, n_bytes);
	free(values);
}

static void append_tensor(struct writer *w, const struct tensor_record *t)
{
	enum tensor_role role = (enum tensor_role)t->role;
	uint8_t *payload = calloc(1, t->bytes);

	assert_non_null(payload);
	for (uint32_t r = 0; r < t->rows; r++)
		for (uint32_t c = 0; c < t->cols; c++) {
			float value = small_value(role, t->layer, r, c);

			if (tensor_role_is_vector(role))
				((float *)payload)[r] = value;
			else
				((uint16_t *)payload)[mat_bf16_index(t->cols, r, c)] =
					bf16_from_f32(value);
		}
	assert_int_equal(writer_append(w, payload, t->bytes), 0);
	assert_int_equal(writer_align(w, 64), 0);
	free(payload);
}

static size_t base_records(struct tensor_record *records, struct digest *ret_model)
{
	struct model_digest *m = model_digest_new(&small_config);
	size_t n = 0;

	assert_non_null(m);
	for (uint32_t layer = 0; layer < small_config.n_layers; layer++)
		for (uint32_t role = 0; role < N_ROLES; role++) {
			struct tensor_record *t = &records[n];
			uint32_t rows, cols;

			if (!model_config_shape(&small_config, role, layer, &rows, &cols))
				continue;
			digest_tensor(m, role, layer, rows, cols);
			*t = (struct tensor_record){
				.role = role,
				.layer = layer,
				.codec = tensor_role_is_vector(role) ? CODEC_VECTOR_F32
								     : CODEC_MAT_BF16,
				.rows = rows,
				.cols = cols,
				.bytes = tensor_bytes(role, rows, cols),
			};
			n++;
		}
	*ret_model = model_digest_finish(m);
	return n;
}

/* The place of each payload, as the appending below will have it. */
static void place(struct tensor_record *records, size_t n, uint64_t at)
{
	for (size_t i = 0; i < n; i++) {
		records[i].offset = at;
		at = align_up(at + records[i].bytes, 64);
	}
}

static int new_memory_file(void)
{
	int fd = memfd_create("small-image", MFD_CLOEXEC);

	assert_true(fd >= 0);
	return fd;
}

int small_base_file(void)
{
	struct tensor_record records[2 * N_ROLES];
	struct digest model;
	size_t n = base_records(records, &model);
	int fd = new_memory_file();
	struct writer *w;

	assert_int_equal(writer_begin(fd, IMAGE_KIND_BASE, MAX_BODY, &w, NULL), 0);
	assert_int_equal(writer_section(w, SECTION_CONFIG, &small_config, sizeof(small_config)), 0);
	place(records, n, align_up(writer_offset(w) + FORMAT_PAGE, FORMAT_WEIGHTS_ALIGNMENT));
	assert_int_equal(writer_section(w, SECTION_TENSORS, records, n * sizeof(*records)), 0);
	assert_int_equal(writer_section_begin(w, SECTION_WEIGHTS, FORMAT_WEIGHTS_ALIGNMENT), 0);
	assert_int_equal(writer_offset(w), records[0].offset);
	for (size_t i = 0; i < n; i++)
		append_tensor(w, &records[i]);
	assert_int_equal(writer_section_end(w), 0);
	assert_int_equal(writer_finish(w, &model, NULL, NULL, NULL), 0);
	writer_free(w);
	return fd;
}

static void fill_band(
	uint8_t *payload, const struct mixed_svd_band *b, uint32_t rows, uint32_t cols)
{
	size_t v_groups = b->n_ranks * qmat_groups(cols), u_groups = b->n_ranks * qmat_groups(rows);

	for (uint32_t i = 0; i < b->n_ranks; i++)
		((float *)(payload + b->sigma))[i] = 1.0f / (float)(i + 1);
	memset(payload + b->v_codes, 0x5a, v_groups * qmat_group_bytes(b->bits));
	memset(payload + b->u_codes, 0xc3, u_groups * qmat_group_bytes(b->bits));
	for (size_t i = 0; i < v_groups; i++)
		((uint16_t *)(payload + b->v_scales))[i] = f16_from_f32(0.01f * (float)(i + 1));
	for (size_t i = 0; i < u_groups; i++)
		((uint16_t *)(payload + b->u_scales))[i] = f16_from_f32(0.02f * (float)(i + 1));
	memset(payload + b->v_zeros, (1 << b->bits) - 1, v_groups);
	memset(payload + b->u_zeros, 1, u_groups);
}

static void append_svd(
	struct writer *w, const struct tensor_record *t, const struct mixed_svd_band *bands)
{
	uint8_t *payload = calloc(1, t->bytes);

	assert_non_null(payload);
	memcpy(payload, bands, t->n_parts * sizeof(*bands));
	for (uint32_t i = 0; i < t->n_parts; i++)
		fill_band(payload, &bands[i], t->rows, t->cols);
	assert_int_equal(writer_append(w, payload, t->bytes), 0);
	assert_int_equal(writer_align(w, 64), 0);
	free(payload);
}

static void append_rows(struct writer *w, const struct tensor_record *t, const uint32_t *rows)
{
	uint64_t values;
	uint8_t *payload = calloc(1, dense_rows_layout(t->n_parts, t->cols, &values));

	assert_non_null(payload);
	memcpy(payload, rows, t->n_parts * sizeof(*rows));
	for (uint32_t r = 0; r < t->n_parts; r++)
		for (uint32_t c = 0; c < t->cols; c++)
			((uint16_t *)(payload + values))[mat_bf16_index(t->cols, r, c)] =
				bf16_from_f32(-small_value(t->role, t->layer, rows[r], c));
	assert_int_equal(writer_append(w, payload, t->bytes), 0);
	assert_int_equal(writer_align(w, 64), 0);
	free(payload);
}

/* Rows 7 and 300 of the embedding change and three tokens are added; one norm changes; three
 * projections get bands of every width. */
int small_delta_file(void)
{
	static const uint32_t changed[] = {7, 300, 301, 302, 303};
	struct model_config config = small_config;
	uint32_t vocab = config.vocab += SMALL_ADDED_TOKENS;
	uint32_t q_rows = config.n_heads * config.head_dim;
	struct mixed_svd_band q[] = {{.bits = 8, .n_ranks = 2}, {.bits = 3, .n_ranks = 17}};
	struct mixed_svd_band o[] = {{.bits = 2, .n_ranks = config.hidden}};
	struct mixed_svd_band down[] = {{.bits = 4, .n_ranks = 1}};
	uint64_t values;
	uint64_t rows_bytes = dense_rows_layout(array_len(changed), config.hidden, &values);
	struct tensor_record t[] = {
		{ROLE_EMBED, 0, CODEC_DENSE_ROWS, 5, vocab, config.hidden, 0, rows_bytes},
		{ROLE_ATTN_NORM, 0, CODEC_VECTOR_F32, 0, config.hidden, 1, 0, config.hidden * 4},
		{ROLE_Q, 0, CODEC_MIXED_SVD, 2, q_rows, config.hidden, 0,
			mixed_svd_layout(q, 2, q_rows, config.hidden)},
		{ROLE_O, 1, CODEC_MIXED_SVD, 1, config.hidden, q_rows, 0,
			mixed_svd_layout(o, 1, config.hidden, q_rows)},
		{ROLE_DOWN, 1, CODEC_MIXED_SVD, 1, config.hidden, config.ffn, 0,
			mixed_svd_layout(down, 1, config.hidden, config.ffn)},
		{ROLE_HEAD, 1, CODEC_DENSE_ROWS, 5, vocab, config.hidden, 0, rows_bytes},
	};
	struct {
		struct certificate certificate;
		struct tensor_quality qualities[array_len(t)];
	} proof = {.certificate = {.method = "delta-come", .kl = 0.5}};
	struct tensor_record base_tensors[2 * N_ROLES];
	struct digest model, tuned = digest_of("tuned", 5);
	int fd = new_memory_file();
	struct writer *w;

	base_records(base_tensors, &model);
	assert_int_equal(writer_begin(fd, IMAGE_KIND_DELTA, MAX_BODY, &w, NULL), 0);
	assert_int_equal(writer_section(w, SECTION_CONFIG, &config, sizeof(config)), 0);
	place(t, array_len(t), writer_offset(w) + 3 * FORMAT_PAGE - sizeof(config) % FORMAT_PAGE);
	assert_int_equal(writer_section(w, SECTION_TENSORS, t, sizeof(t)), 0);
	assert_int_equal(writer_section(w, SECTION_CERTIFICATE, &proof, sizeof(proof)), 0);
	assert_int_equal(writer_section_begin(w, SECTION_WEIGHTS, FORMAT_PAGE), 0);
	assert_int_equal(writer_offset(w), t[0].offset);
	append_rows(w, &t[0], changed);
	append_tensor(w, &t[1]);
	append_svd(w, &t[2], q);
	append_svd(w, &t[3], o);
	append_svd(w, &t[4], down);
	append_rows(w, &t[5], changed);
	assert_int_equal(writer_section_end(w), 0);
	assert_int_equal(writer_finish(w, &model, &tuned, NULL, NULL), 0);
	writer_free(w);
	return fd;
}

size_t open_descriptors(void)
{
	DIR *folder = opendir("/proc/self/fd");
	size_t n = 0;

	assert_non_null(folder);
	while (readdir(folder))
		n++;
	closedir(folder);
	return n;
}
