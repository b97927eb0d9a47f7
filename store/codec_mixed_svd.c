#include "store/codec.h"

#include <inttypes.h>
#include <string.h>

#define ALIGNMENT 64

static uint64_t take(uint64_t *at, uint64_t n_bytes)
{
	uint64_t offset = *at;

	*at = align_up(offset + n_bytes, ALIGNMENT);
	return offset;
}

uint64_t mixed_svd_layout(
	struct mixed_svd_band *bands, uint32_t n_bands, uint32_t rows, uint32_t cols)
{
	uint64_t at = align_up(n_bands * sizeof(*bands), ALIGNMENT);

	for (struct mixed_svd_band *b = bands; b < bands + n_bands; b++) {
		uint64_t v_groups = (uint64_t)b->n_ranks * qmat_groups(cols);
		uint64_t u_groups = (uint64_t)b->n_ranks * qmat_groups(rows);

		b->sigma = take(&at, b->n_ranks * sizeof(float));
		b->v_codes = take(&at, v_groups * qmat_group_bytes(b->bits));
		b->v_scales = take(&at, v_groups * sizeof(uint16_t));
		b->v_zeros = take(&at, v_groups);
		b->u_codes = take(&at, u_groups * qmat_group_bytes(b->bits));
		b->u_scales = take(&at, u_groups * sizeof(uint16_t));
		b->u_zeros = take(&at, u_groups);
	}
	return at;
}

static bool bits_known(uint32_t bits)
{
	return bits == 2 || bits == 3 || bits == 4 || bits == 8;
}

/* Widths and ranks first: the layout is computed from them, and must not overflow. */
static int check_bands(const struct tensor_record *record, const struct mixed_svd_band *bands,
	uint32_t *ret_total, struct reason *reason)
{
	uint32_t most = record->rows < record->cols ? record->rows : record->cols;
	uint32_t total = 0;

	for (uint32_t i = 0; i < record->n_parts; i++) {
		if (!bits_known(bands[i].bits))
			return reason_set(reason, -EBADMSG,
				"band %" PRIu32 " has %" PRIu32 " bits, expected 2, 3, 4 or 8", i,
				bands[i].bits);
		if (bands[i].n_ranks == 0 || bands[i].n_ranks > most - total)
			return reason_set(reason, -EBADMSG,
				"band %" PRIu32 " has %" PRIu32 " ranks, expected 1 to %" PRIu32, i,
				bands[i].n_ranks, most - total);
		total += bands[i].n_ranks;
	}
	*ret_total = total;
	return 0;
}

/* A band's offsets have one right value each, so that none needs a check of its own. */
static int check_layout(
	const struct payload *p, const struct mixed_svd_band *bands, struct reason *reason)
{
	struct mixed_svd_band expected[FORMAT_MAX_BANDS];
	uint32_t n = p->record->n_parts;
	uint64_t n_bytes;
	int r;

	memcpy(expected, bands, n * sizeof(*bands));
	n_bytes = mixed_svd_layout(expected, n, p->record->rows, p->record->cols);
	r = codec_expect(p, CODEC_MIXED_SVD, n_bytes, reason);
	if (r < 0)
		return r;
	for (uint32_t i = 0; i < n; i++) {
		const uint64_t *found = &bands[i].sigma, *right = &expected[i].sigma;
		static const char *const names[] = {"sigma", "v_codes", "v_scales", "v_zeros",
			"u_codes", "u_scales", "u_zeros"};

		for (size_t k = 0; k < array_len(names); k++)
			if (found[k] != right[k])
				return reason_set(reason, -EBADMSG,
					"band %" PRIu32 " has %s at %" PRIu64 ", expected %" PRIu64,
					i, names[k], found[k], right[k]);
	}
	return 0;
}

static int check_grids(const struct qmat *m, const char *name, struct reason *reason)
{
	uint64_t n = (uint64_t)m->rows * qmat_groups(m->cols);
	uint8_t largest = (uint8_t)((1u << m->bits) - 1);

	for (uint64_t i = 0; i < n; i++) {
		if ((m->scales[i] & 0x7c00) == 0x7c00)
			return reason_set(reason, -EBADMSG,
				"scale %" PRIu64 " of %s is not a finite number", i, name);
		if (m->zeros[i] > largest)
			return reason_set(reason, -EBADMSG,
				"zero %" PRIu64 " of %s is %u, expected at most %u", i, name,
				m->zeros[i], largest);
	}
	return 0;
}

static int bind_band(const struct payload *p, const struct mixed_svd_band *band,
	struct mixed_svd_view *ret, struct reason *reason)
{
	const uint8_t *at = p->bytes;
	int r;

	*ret = (struct mixed_svd_view){
		.v = {.codes = at + band->v_codes,
			.scales = (const void *)(at + band->v_scales),
			.zeros = at + band->v_zeros,
			.rows = band->n_ranks,
			.cols = p->record->cols,
			.bits = band->bits,
			.scale_row = (uint32_t)qmat_groups(p->record->cols),
			.scale_group = 1,
			.step = 1},
		.u = {.codes = at + band->u_codes,
			.scales = (const void *)(at + band->u_scales),
			.zeros = at + band->u_zeros,
			.rows = band->n_ranks,
			.cols = p->record->rows,
			.bits = band->bits,
			.scale_row = (uint32_t)qmat_groups(p->record->rows),
			.scale_group = 1,
			.step = 1},
		.sigma = (const void *)(at + band->sigma),
	};
	r = codec_expect_finite(ret->sigma, band->n_ranks, "sigma", reason);
	if (r == 0)
		r = check_grids(&ret->v, "v", reason);
	if (r == 0)
		r = check_grids(&ret->u, "u", reason);
	return r;
}

int codec_mixed_svd(const struct payload *p, struct mixed_svd *ret, struct reason *reason)
{
	const struct mixed_svd_band *bands = (const void *)p->bytes;
	uint32_t n = p->record->n_parts;
	struct mixed_svd svd = {.n_bands = n};
	int r;

	if (n == 0 || n > FORMAT_MAX_BANDS)
		return reason_set(reason, -EBADMSG, "has %" PRIu32 " bands, expected 1 to %u", n,
			FORMAT_MAX_BANDS);
	if (p->record->bytes < n * sizeof(*bands))
		return reason_set(reason, -EBADMSG,
			"payload has %" PRIu64 " bytes, too few for %" PRIu32 " bands",
			p->record->bytes, n);
	r = check_bands(p->record, bands, &svd.total_ranks, reason);
	if (r == 0)
		r = check_layout(p, bands, reason);
	for (uint32_t i = 0; r == 0 && i < n; i++) {
		r = bind_band(p, &bands[i], &svd.bands[i], reason);
		if (r < 0)
			reason_prefix(reason, r, "band %" PRIu32, i);
	}
	if (r < 0)
		return r;
	*ret = svd;
	return 0;
}
