#include "tests/small_image.h"

#include "compress/delta_file.h"
#include "foreign/weights.h"
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

static void append_codes(struct writer *w, const struct tensor_record *t)
{
	uint16_t *values = calloc((size_t)t->rows * t->cols, sizeof(*values));
	uint8_t *payload = aligned_alloc(64, align_up(t->bytes, 64));

	assert_true(values && payload);
	for (uint32_t r = 0; r < t->rows; r++)
		for (uint32_t c = 0; c < t->cols; c++)
			values[(size_t)r * t->cols + c] = bf16_from_f32(
				small_value((enum tensor_role)t->role, t->layer, r, c));
	weights_pack(t, values, payload);
	assert_int_equal(writer_append(w, payload, t->bytes), 0);
	assert_int_equal(writer_align(w, 64), 0);
	free(values);
	free(payload);
}

static void append_tensor(struct writer *w, const struct tensor_record *t)
{
	enum tensor_role role = (enum tensor_role)t->role;
	uint8_t *payload;

	if (t->codec == CODEC_MAT_INT) {
		append_codes(w, t);
		return;
	}
	payload = calloc(1, t->bytes);
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

static enum weights weights_of(bool codes, uint32_t role, uint32_t layer)
{
	if (codes && role == ROLE_Q && layer == 0)
		return WEIGHTS_INT4;
	return codes && role == ROLE_DOWN && layer == 1 ? WEIGHTS_INT8 : WEIGHTS_BF16;
}

static size_t base_records(struct tensor_record *records, bool codes, struct digest *ret_model)
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
				.rows = rows,
				.cols = cols,
			};
			weights_record(weights_of(codes, role, layer), t);
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

static int base_file(bool codes)
{
	struct tensor_record records[2 * N_ROLES];
	struct digest model, served = digest_of("served", 6);
	size_t n = base_records(records, codes, &model);
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
	assert_int_equal(writer_finish(w, &model, codes ? &served : NULL, NULL, NULL), 0);
	writer_free(w);
	return fd;
}

int small_base_file(void)
{
	return base_file(false);
}

int small_coded_base_file(void)
{
	return base_file(true);
}

static struct part_place place_of(
	const struct model_config *config, enum tensor_role role, uint32_t layer, uint8_t level)
{
	struct part_place place = {.role = role, .layer = layer, .level = level};

	assert_true(model_config_shape(config, role, layer, &place.rows, &place.cols));
	return place;
}

static struct code_matrix *small_codes(
	uint32_t n_rows, uint32_t n_cols, uint8_t bits, enum grid_kind grid)
{
	size_t n_scales = grid == GRID_GROUP ? n_rows * qmat_groups(n_cols) : n_rows;
	struct code_matrix *m;

	assert_int_equal(code_matrix_new(n_rows, n_cols, bits, grid, &m), 0);
	for (size_t i = 0; i < (size_t)n_rows * n_cols; i++)
		m->codes[i] = (uint8_t)((i * 7 + i / n_cols) & ((1u << bits) - 1));
	for (size_t i = 0; m->scales && i < n_scales; i++)
		m->scales[i] = f16_from_f32(0.01f * (float)(i + 1));
	for (size_t i = 0; m->zeros && i < n_scales; i++)
		m->zeros[i] = 1;
	if (grid != GRID_GROUP)
		m->zero = 0.5f;
	return m;
}

static void add(struct delta_file *f, struct part *part)
{
	assert_int_equal(delta_file_add(f, part), 0);
}

static void add_factors(struct delta_file *f, struct part_place place, uint32_t n, uint8_t bits,
	enum grid_kind grid)
{
	struct code_matrix *v = small_codes(n, place.cols, bits, grid);
	struct code_matrix *u = small_codes(n, place.rows, bits, grid);
	float sigma[32];
	struct part part;

	assert_true(n <= array_len(sigma));
	for (uint32_t i = 0; i < n; i++)
		sigma[i] = 1.0f / (float)(i + 1);
	assert_int_equal(part_factors(&place, v, u, sigma, grid == GRID_MATRIX, &part), 0);
	add(f, &part);
	code_matrix_free(v);
	code_matrix_free(u);
}

static void add_plain_factors(struct delta_file *f, struct part_place place)
{
	float v[200], u[200];
	const float sigma = 0.5f;
	const struct plain_factors one = {.n = 1, .v = v, .u = u, .sigma = &sigma};
	struct part part;

	assert_true(place.rows <= array_len(u) && place.cols <= array_len(v));
	for (size_t i = 0; i < array_len(u); i++)
		u[i] = v[i] = (float)i / 64;
	assert_int_equal(part_factors_plain(&place, &one, 16, &part), 0);
	add(f, &part);
}

static void add_codes(struct delta_file *f, struct part_place place, const uint32_t *rows,
	uint32_t n, enum grid_kind grid)
{
	struct code_matrix *m = small_codes(n, place.cols, 2, grid);
	struct part part;

	assert_int_equal(part_codes(&place, m, rows, grid == GRID_MATRIX, &part), 0);
	add(f, &part);
	code_matrix_free(m);
}

static void add_dropout(struct delta_file *f, struct part_place place)
{
	struct code_matrix *m = small_codes(place.rows, 5, 3, GRID_ROW);
	const struct survivors s = {.group = place.cols, .n_keep = 5, .seed = 0x1234, .codes = m};
	struct part part;

	assert_int_equal(part_dropout(&place, &s, false, &part), 0);
	add(f, &part);
	code_matrix_free(m);
}

/* Rows NULL: all, and told from the base's. */
static void add_rows(
	struct delta_file *f, struct part_place place, const uint32_t *rows, uint32_t n)
{
	size_t n_values = (size_t)n * place.cols;
	uint16_t *values = malloc(2 * n_values * sizeof(*values)), *base = values + n_values;
	const struct new_rows new_rows = {.n = n,
		.rows = rows,
		.values = values,
		.base = rows ? NULL : base,
		.base_rows = place.rows};
	struct part part;

	assert_non_null(values);
	for (size_t i = 0; i < n_values; i++) {
		uint32_t row = (uint32_t)(i / place.cols), col = (uint32_t)(i % place.cols);
		float value = small_value(place.role, place.layer, rows ? rows[row] : row, col);

		base[i] = bf16_from_f32(value);
		values[i] = bf16_from_f32(-value);
	}
	assert_int_equal(part_rows(&place, &new_rows, &part), 0);
	add(f, &part);
	free(values);
}

static void add_norm(struct delta_file *f, struct part_place place)
{
	float values[200];
	struct part part;

	assert_true(place.rows <= array_len(values));
	for (uint32_t i = 0; i < place.rows; i++)
		values[i] = small_value(place.role, place.layer, i, 0);
	assert_int_equal(part_vector(&place, values, &part), 0);
	add(f, &part);
}

static void add_all(struct delta_file *f, const struct model_config *c)
{
	static const uint32_t changed[] = {7, 300, 301, 302, 303}, coded[] = {1, 5, 43};

	add_rows(f, place_of(c, ROLE_EMBED, 0, 0), changed, array_len(changed));
	add_norm(f, place_of(c, ROLE_ATTN_NORM, 0, 0));
	add_factors(f, place_of(c, ROLE_Q, 0, 0), 2, 8, GRID_GROUP);
	add_codes(f, place_of(c, ROLE_K, 0, 0), coded, array_len(coded), GRID_ROW);
	add_dropout(f, place_of(c, ROLE_V, 0, 0));
	add_codes(f, place_of(c, ROLE_UP, 0, 0), NULL, c->ffn, GRID_MATRIX);
	add_factors(f, place_of(c, ROLE_O, 1, 0), c->hidden > 32 ? 32 : c->hidden, 2, GRID_MATRIX);
	add_rows(f, place_of(c, ROLE_GATE, 1, 0), NULL, c->ffn);
	add_plain_factors(f, place_of(c, ROLE_DOWN, 1, 0));
	add_rows(f, place_of(c, ROLE_HEAD, 1, 0), changed, array_len(changed));
	add_factors(f, place_of(c, ROLE_Q, 0, 1), 17, 3, GRID_GROUP);
}

int small_delta_file(void)
{
	struct model_config config = small_config;
	struct certificate certificate = {.method = "delta-come", .kl = 0.5, .n_points = 1};
	const struct rate_point point = {.bits = 1, .file_bytes = 1000, .kl = 0.5};
	const struct certificate_tasks tasks = {.n_tasks = 7, .n_tokens = 70, .kl = 0.25};
	struct tensor_record base_tensors[2 * N_ROLES];
	struct digest model, tuned = digest_of("tuned", 5);
	const struct delta_file_parts parts = {
		.config = &config,
		.base = &model,
		.tuned = &tuned,
		.certificate = &certificate,
		.points = &point,
		.tasks = &tasks,
	};
	struct format_header header;
	struct delta_file *f;
	int fd = new_memory_file();

	config.vocab += SMALL_ADDED_TOKENS;
	base_records(base_tensors, false, &model);
	assert_int_equal(delta_file_new(&f), 0);
	add_all(f, &config);
	assert_int_equal(delta_file_write(f, &parts, fd, &header, NULL), 0);
	delta_file_free(f);
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
