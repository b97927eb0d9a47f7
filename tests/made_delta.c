#include "tests/made_delta.h"

#include "common/file.h"
#include "foreign/tokenizer_json.h"
#include "kernels/convert.h"
#include "store/delta.h"
#include "store/writer.h"
#include "tests/random_delta.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define BITS 8
#define N_RANKS 4
#define SIGMA 1.0f
#define MAX_BODY (UINT64_C(64) << 20)

static const enum tensor_role projections[] = {
	ROLE_Q, ROLE_K, ROLE_V, ROLE_O, ROLE_GATE, ROLE_UP, ROLE_DOWN};

/* Rows of `n` random codes around the middle, scaled to about unit length. */
static void fill_factor(
	uint8_t *codes, uint16_t *scales, uint8_t *zeros, uint32_t n, uint32_t *random)
{
	size_t n_groups = N_RANKS * qmat_groups(n);
	float scale = 1 / (sqrtf((float)n) * 74);

	for (size_t i = 0; i < n_groups * qmat_group_bytes(BITS); i++)
		codes[i] = (uint8_t)random_u32(random);
	for (size_t i = 0; i < n_groups; i++)
		scales[i] = f16_from_f32(scale);
	memset(zeros, 1 << (BITS - 1), n_groups);
}

static void append_projection(struct writer *w, const struct tensor_record *t, uint32_t *random)
{
	struct mixed_svd_band band = {.bits = BITS, .n_ranks = N_RANKS};
	uint8_t *payload = calloc(1, t->bytes);

	assert_non_null(payload);
	assert_int_equal(mixed_svd_layout(&band, 1, t->rows, t->cols), t->bytes);
	memcpy(payload, &band, sizeof(band));
	for (uint32_t i = 0; i < N_RANKS; i++)
		((float *)(void *)(payload + band.sigma))[i] = SIGMA;
	fill_factor(payload + band.v_codes, (uint16_t *)(void *)(payload + band.v_scales),
		payload + band.v_zeros, t->cols, random);
	fill_factor(payload + band.u_codes, (uint16_t *)(void *)(payload + band.u_scales),
		payload + band.u_zeros, t->rows, random);
	assert_int_equal(writer_append(w, payload, t->bytes), 0);
	assert_int_equal(writer_align(w, 64), 0);
	free(payload);
}

static size_t list_projections(const struct model_config *c, uint64_t at, struct tensor_record *ret)
{
	size_t n = 0;

	for (uint32_t layer = 0; layer < c->n_layers; layer++)
		for (size_t i = 0; i < array_len(projections); i++) {
			struct mixed_svd_band band = {.bits = BITS, .n_ranks = N_RANKS};
			struct tensor_record *t = &ret[n++];

			*t = (struct tensor_record){
				.role = projections[i],
				.layer = layer,
				.codec = CODEC_MIXED_SVD,
				.n_parts = 1,
				.offset = at,
			};
			assert_true(
				model_config_shape(c, projections[i], layer, &t->rows, &t->cols));
			t->bytes = mixed_svd_layout(&band, 1, t->rows, t->cols);
			at = align_up(at + t->bytes, 64);
		}
	return n;
}

static void append_chat(struct writer *w, const char *folder)
{
	_cleanup_(freep) uint8_t *bytes = NULL;
	struct reason reason = {""};
	size_t n;

	if (chat_format_compile(folder, &bytes, &n, &reason) < 0)
		fail_msg("%s: %s", folder, reason.text);
	assert_int_equal(writer_section(w, SECTION_CHAT, bytes, n), 0);
}

static void write_delta(const struct base *base, uint32_t seed, const char *chat_folder, int fd)
{
	const struct model_config *c = &base->config;
	size_t room = c->n_layers * array_len(projections);
	struct tensor_record *t = calloc(room, sizeof(*t));
	struct digest tuned = digest_of(&seed, sizeof(seed));
	uint32_t random = seed * 2654435761u + 1;
	uint64_t weights_at;
	struct writer *w;

	assert_non_null(t);
	assert_int_equal(writer_begin(fd, IMAGE_KIND_DELTA, MAX_BODY, &w, NULL), 0);
	assert_int_equal(writer_section(w, SECTION_CONFIG, c, sizeof(*c)), 0);
	weights_at = align_up(writer_offset(w), FORMAT_PAGE) +
		     align_up(room * sizeof(*t), FORMAT_PAGE) + (chat_folder ? FORMAT_PAGE : 0);
	assert_int_equal(list_projections(c, weights_at, t), room);
	assert_int_equal(writer_section(w, SECTION_TENSORS, t, room * sizeof(*t)), 0);
	if (chat_folder)
		append_chat(w, chat_folder);
	assert_int_equal(writer_section_begin(w, SECTION_WEIGHTS, FORMAT_PAGE), 0);
	/* The chat format takes one page. */
	assert_int_equal(writer_offset(w), weights_at);
	for (size_t i = 0; i < room; i++)
		append_projection(w, &t[i], &random);
	assert_int_equal(writer_section_end(w), 0);
	assert_int_equal(writer_finish(w, base_model_digest(base), &tuned, NULL, NULL), 0);
	writer_free(w);
	free(t);
}

void made_delta(const struct base *base, uint32_t seed, const char *chat_folder, const char *path)
{
	struct new_file f = NEW_FILE_INIT;

	assert_int_equal(new_file_open(&f, path, NULL), 0);
	write_delta(base, seed, chat_folder, f.fd);
	assert_int_equal(new_file_commit(&f, NULL), 0);
	new_file_done(&f);
}
