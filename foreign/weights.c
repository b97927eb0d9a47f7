#include "foreign/weights.h"

#include "kernels/convert.h"
#include "kernels/pack.h"
#include "store/codec.h"
#include "store/model_digest.h"
#include "store/parallel.h"

#include <string.h>

#define HEAD_BITS 8 /* with int4, too: its error goes straight into every choice of a token */

static const struct {
	const char *name;
	uint8_t bits;
} kinds[N_WEIGHTS] = {
	[WEIGHTS_BF16] = {"bf16", 0},
	[WEIGHTS_INT8] = {"int8", 8},
	[WEIGHTS_INT4] = {"int4", 4},
};

const char *weights_name(enum weights w)
{
	return kinds[w].name;
}

bool weights_parse(const char *name, enum weights *ret)
{
	for (int w = 0; w < N_WEIGHTS; w++)
		if (strcmp(kinds[w].name, name) == 0) {
			*ret = (enum weights)w;
			return true;
		}
	return false;
}

uint8_t weights_bits(enum weights w, enum tensor_role role)
{
	if (role == ROLE_HEAD && w != WEIGHTS_BF16)
		return HEAD_BITS;
	return tensor_role_is_projection(role) ? kinds[w].bits : 0;
}

void weights_record(enum weights w, struct tensor_record *record)
{
	enum tensor_role role = (enum tensor_role)record->role;

	record->bits = weights_bits(w, role);
	if (record->bits)
		record->codec = CODEC_MAT_INT;
	else
		record->codec = tensor_role_is_vector(role) ? CODEC_VECTOR_F32 : CODEC_MAT_BF16;
	record->bytes = part_layout(record).end;
}

/* The blocks of a matrix on their way to integers. */
struct packing {
	const struct tensor_record *record;
	const uint16_t *values;
	struct mat_int m;
	uint8_t *payload;
};

void weights_put_group(const struct tensor_record *t, uint8_t *payload, uint32_t row, size_t group,
	const struct int_group *g)
{
	const struct payload p = {.record = t, .bytes = payload};
	const struct mat_int m = codec_mat_int(&p);
	const struct part_layout layout = part_layout(t);
	uint8_t *scales = payload + layout.v.scales;

	if (m.bits == 4)
		mat_int_grids_pack(scales, &m, row, group, g->grids, g->scale);
	else
		((uint16_t *)(void *)scales)[mat_int_lane(&m, row, group)] = g->scale;
	mat_int_group_pack(payload + layout.v.codes, &m, row, group, g->codes);
}

static void pack_group(const struct packing *p, uint32_t row, size_t group)
{
	const uint16_t *from = p->values + (size_t)row * p->m.cols + group * MAT_INT_GROUP;
	size_t n = min_u64(p->m.cols - group * MAT_INT_GROUP, MAT_INT_GROUP);
	float values[MAT_INT_GROUP] = {0};
	struct int_group g;

	for (size_t i = 0; i < n; i++)
		values[i] = bf16_to_f32(from[i]);
	int_group_fit(&g, values, NULL, p->m.bits);
	weights_put_group(p->record, p->payload, row, group, &g);
}

static void pack_block(void *arg, size_t block)
{
	const struct packing *p = arg;
	uint32_t end = (uint32_t)min_u64((block + 1) * MAT_BLOCK, p->m.rows);

	for (uint32_t row = (uint32_t)block * MAT_BLOCK; row < end; row++)
		for (size_t g = 0; g < mat_int_groups(p->m.cols); g++)
			pack_group(p, row, g);
}

static void pack_integers(const struct tensor_record *t, const uint16_t *values, uint8_t *ret)
{
	const struct payload payload = {.record = t, .bytes = ret};
	struct packing p = {
		.record = t,
		.values = values,
		.m = codec_mat_int(&payload),
		.payload = ret,
	};

	memset(ret, 0, t->bytes);
	parallel_for(mat_int_blocks(t->rows), pack_block, &p);
}

void weights_pack(const struct tensor_record *record, const uint16_t *values, uint8_t *ret)
{
	if (record->codec == CODEC_MAT_INT)
		pack_integers(record, values, ret);
	else
		mat_bf16_pack((uint16_t *)(void *)ret, values, record->rows, record->cols);
}

void weights_values(const struct tensor_record *record, const uint8_t *payload, float *ret)
{
	const struct payload p = {.record = record, .bytes = payload};
	struct base_matrix m = {.codec = record->codec, record->rows, record->cols, {{0}}};

	if (record->codec == CODEC_MAT_INT)
		m.ints = codec_mat_int(&p);
	else
		m.bf16 = (struct mat_bf16){(const void *)payload, record->rows, record->cols};
	for (uint32_t r = 0; r < record->rows; r++)
		base_matrix_row(ret + (size_t)r * record->cols, &m, r);
}

int weights_served(enum weights w, const struct tensor_record *shape, const uint16_t *values,
	float *ret, struct reason *reason)
{
	struct tensor_record record = *shape;
	_cleanup_(freep) uint8_t *payload = NULL;

	weights_record(w, &record);
	if (record.codec != CODEC_MAT_INT) {
		for (size_t i = 0; i < (size_t)record.rows * record.cols; i++)
			ret[i] = bf16_to_f32(values[i]);
		return 0;
	}
	payload = aligned_alloc(PART_ALIGNMENT, align_up(record.bytes + 1, PART_ALIGNMENT));
	if (!payload)
		return reason_set(reason, -ENOMEM, "out of memory");
	weights_pack(&record, values, payload);
	weights_values(&record, payload, ret);
	return 0;
}

/* As weights_digest() goes: a matrix that codes stand for is digested as what they serve. */
static int digest_matrix(struct checkpoint *c, enum weights w, const struct tensor_record *t,
	struct model_digest *digest, struct reason *reason)
{
	size_t n = (size_t)t->rows * t->cols;
	_cleanup_(freep) uint16_t *values = malloc(n * sizeof(*values));
	_cleanup_(freep) float *served = malloc(n * sizeof(*served));
	bool codes = weights_bits(w, (enum tensor_role)t->role) > 0;
	int r;

	if (!values || !served)
		return reason_set(reason, -ENOMEM, "out of memory");
	r = checkpoint_read_bf16(c, (enum tensor_role)t->role, t->layer, values, NULL, reason);
	if (r == 0 && codes)
		r = weights_served(w, t, values, served, reason);
	if (r < 0)
		return r;
	model_digest_add(digest, (enum tensor_role)t->role, t->layer, t->rows, t->cols,
		codes ? (void *)served : (void *)values,
		n * (codes ? sizeof(*served) : sizeof(*values)));
	return 0;
}

static int digest_vector(struct checkpoint *c, const struct tensor_record *t,
	struct model_digest *digest, struct reason *reason)
{
	_cleanup_(freep) float *values = malloc(t->rows * sizeof(*values));
	int r;

	if (!values)
		return reason_set(reason, -ENOMEM, "out of memory");
	r = checkpoint_read_f32(c, (enum tensor_role)t->role, t->layer, values, reason);
	if (r == 0)
		model_digest_add(digest, (enum tensor_role)t->role, t->layer, t->rows, t->cols,
			values, t->rows * sizeof(*values));
	return r;
}

int weights_digest(struct checkpoint *c, enum weights w, const struct progress *progress,
	struct digest *ret, struct reason *reason)
{
	const struct model_config *config = checkpoint_config(c);
	_cleanup_(model_digestp) struct model_digest *digest = model_digest_new(config);
	int r = 0;

	if (!digest)
		return reason_set(reason, -ENOMEM, "out of memory");
	for (uint32_t layer = 0; layer < config->n_layers; layer++) {
		for (uint32_t role = 0; r == 0 && role < N_ROLES; role++) {
			struct tensor_record t = {.role = role, .layer = layer};

			if (!model_config_shape(
				    config, (enum tensor_role)role, layer, &t.rows, &t.cols))
				continue;
			r = tensor_role_is_vector((enum tensor_role)role)
				    ? digest_vector(c, &t, digest, reason)
				    : digest_matrix(c, w, &t, digest, reason);
		}
		if (r < 0)
			return r;
		progress_update(progress, "digesting", layer + 1, config->n_layers);
	}
	*ret = model_digest_finish(take_ptr(digest));
	return 0;
}
