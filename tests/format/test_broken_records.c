/*
 * Tensor records and payloads broken field by field, with digests that match.
 */
#include "tests/breakage.h"
#include "store/part.h"
#include "tests/small_image.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

/* Record 0 is the embedding, 1 the first norm, 2 the first q. */
static void broken_base_records_are_refused(void **state)
{
	struct breakable *f = &breakables[0];
	const struct format_section *tensors = breakable_section(f, SECTION_TENSORS);
	uint64_t weights = breakable_section(f, SECTION_WEIGHTS)->offset;
	uint64_t embed_bytes = mat_bf16_bytes(small_config.vocab, small_config.hidden);
	const struct breakage cases[] = {
		RECORD(2, role, N_ROLES, UNKNOWN, "role 21 is unknown"),
		RECORD(2, role, UINT32_MAX, UNKNOWN, "role 4294967295 is unknown"),
		RECORD(2, role, ROLE_HEAD, BAD, "layer 0 head: the model has no such tensor"),
		RECORD(2, role, ROLE_ATTN_NORM, BAD, "stands after level 0 layer 0 attn_norm"),
		RECORD(2, role, ROLE_EMBED, BAD, "stands after level 0 layer 0 attn_norm"),
		RECORD(2, layer, 2, BAD, "the model has no such tensor"),
		RECORD(2, layer, UINT32_MAX, BAD, "the model has no such tensor"),
		RECORD(2, layer, 1, BAD, "stands after level 0 layer 1 q"),
		RECORD(2, codec, 0, UNKNOWN, "layer 0 q: codec 0 is unknown"),
		RECORD(2, codec, CODEC_FACTORS, BAD, "layer 0 q: has n = 0, expected 1 to 71"),
		RECORD(1, codec, CODEC_MAT_BF16, BAD, "attn_norm: payload has 284 bytes"),
		RECORD(2, n, 1, BAD, "has n = 1, expected 0 to 0"),
		RECORD(1, n, 1, BAD, "has n = 1, expected 0 to 0"),
		RECORD(2, bits, 8, BAD, "has bits 8 and grid 0, expected none"),
		RECORD(2, grid, 1, BAD, "has bits 0 and grid 1, expected none"),
		RECORD(2, coding, 1, BAD, "has coding 1, which codec 2 does not have"),
		RECORD(2, level, 1, BAD, "has level 1, the file has 1 levels"),
		RECORD(2, level, 8, BAD, "has level 8, expected less than 8"),
		RECORD(2, group, 8, BAD, "has a group and a seed, expected none"),
		RECORD(2, seed, 8, BAD, "has a group and a seed, expected none"),
		RECORD(2, step, bits_of_f32(1), BAD, "expected none"),
		RECORD(2, rows, 89, BAD, "is 89 x 71, the config makes it 88 x 71"),
		RECORD(2, cols, UINT32_MAX, BAD, "is 88 x 4294967295"),
		RECORD(1, cols, 72, BAD, "is 71 x 72, the config makes it 71 x 1"),
		RECORD(2, offset, weights + 32, BAD, "expected a multiple of 64"),
		RECORD(2, offset, weights, BAD, "layer 0 q: payload takes"),
		RECORD(0, offset, 4096, BAD, "layer 0 embed: payload takes"),
		RECORD(2, offset, UINT64_MAX - 63, BAD, "layer 0 q: payload takes"),
		RECORD(2, bytes, UINT64_MAX, BAD, "payload has 18446744073709551615"),
		RECORD(2, bytes, 64, BAD, "payload has 64 bytes, expected"),
		RECORD(1, bytes, 4 * 70, BAD, "payload has 280 bytes, expected 284"),
		HEADER(sections[1].bytes, 8, tensors->bytes - 1, BAD, "expected a multiple of 64"),
		HEADER(sections[1].bytes, 8, tensors->bytes - 64, BAD, "layer 1 head is missing"),
		HEADER(sections[1].bytes, 8, 64, BAD, "layer 0 attn_norm is missing"),
		HEADER(sections[1].bytes, 8, 0, BAD, "layer 0 embed is missing"),
		HEADER(sections[2].bytes, 8, 64, BAD, "payload takes"),
		PAYLOAD(1, 0, 4, bits_of_f32(NAN), BAD, "attn_norm: value 0 is nan"),
		PAYLOAD(1, 70 * 4, 4, bits_of_f32(-INFINITY), BAD, "attn_norm: value 70 is -inf"),
		PAYLOAD(0, embed_bytes - 4, 2, 1, BAD, "embed: padding after row 300 is not zero"),
		PAYLOAD(0, 36 * 64 - 2, 2, 1, BAD, "embed: padding after column 70 is not zero"),
	};

	(void)state;
	breakable_expect_refused(f, cases, array_len(cases));
}

/* Record 2 is q, of 4 bits; 35 is down, of 8 bits. */
static void broken_base_codes_are_refused(void **state)
{
	struct breakable *f = &breakables[2];
	const struct part_layout down = part_layout(breakable_record(f, 35));
	const struct breakage cases[] = {
		RECORD(2, bits, 0, BAD, "has 0 bits on grid 0, expected 4 or 8"),
		RECORD(2, bits, 5, BAD, "has 5 bits on grid 0, expected 4 or 8"),
		RECORD(2, bits, 16, BAD, "has 16 bits on grid 0, expected 4 or 8"),
		RECORD(2, bits, 8, BAD, "layer 0 q: payload has"),
		RECORD(2, grid, GRID_GROUP, BAD, "has grid 1, which codec 9 does not have"),
		RECORD(2, grid, GRID_MATRIX, BAD, "has grid 3, which codec 9 does not have"),
		RECORD(2, coding, 1, BAD, "has coding 1, which codec 9 does not have"),
		RECORD(2, n, 88, BAD, "has n = 88, expected 0 to 0"),
		RECORD(2, step, bits_of_f32(1), BAD, "has step 1 and zero 0, which grid 0"),
		RECORD(2, codec, CODEC_CODES, BAD, "has n = 0, expected 1 to 88"),
		RECORD(2, codec, CODEC_MAT_BF16, BAD, "has bits 4 and grid 0, expected none"),
		RECORD(2, codec, 7, UNKNOWN, "codec 7 is of an older deltad: import the base"),
		RECORD(35, codec, 8, UNKNOWN, "codec 8 is of an older deltad: import the base"),
		RECORD(1, codec, CODEC_MAT_INT, BAD, "has 0 bits on grid 0, expected 4 or 8"),
		RECORD(35, bits, 4, BAD, "layer 1 down: payload has"),
		RECORD(35, zero, bits_of_f32(128), BAD, "zero 128, which grid 0 with 8 bits"),
		PAYLOAD(35, down.v.scales + 2, 2, 0xffc0, BAD, "scale 1 is not a finite number"),
	};

	(void)state;
	breakable_expect_refused(f, cases, array_len(cases));
}

/* Of 4 bits a scale stands in parts at the top of its row's grids, here of row 1. */
static void scales_in_grids_are_checked(void **state)
{
	struct breakable *f = &breakables[2];
	const struct tensor_record *q = breakable_record(f, 2);
	uint8_t *grids = f->broken + q->offset + part_layout(q).v.scales;
	struct reason reason;

	(void)state;
	memcpy(f->broken, f->good, f->n_bytes);
	for (size_t i = 4; i < 8; i++)
		grids[i] = grids[64 + i] = 0xc0;
	breakable_write(f);
	assert_int_equal(breakable_open(f, &reason), -EBADMSG);
	assert_non_null(strstr(reason.text, "q: scale 1 is not a finite number"));
	breakable_restore(f);
	assert_int_equal(breakable_open(f, &reason), 0);
}

/* The second digest is there exactly where codes are. */
static void digests_of_what_serves_are_checked(void **state)
{
	struct breakable *plain = &breakables[0], *coded = &breakables[2];
	const struct breakage needless[] = {
		HEADER(tuned, 1, 1, BAD, "a digest of the values as served, but none are codes")};
	struct format_header h = coded->header;
	struct reason reason;

	(void)state;
	breakable_expect_refused(plain, needless, array_len(needless));
	h.tuned = (struct digest){0};
	memcpy(coded->broken, coded->good, coded->n_bytes);
	memcpy(coded->broken, &h, sizeof(h));
	breakable_write(coded);
	assert_int_equal(breakable_open(coded, &reason), -EBADMSG);
	assert_non_null(strstr(reason.text, "no digest of the values as served"));
	breakable_restore(coded);
	assert_int_equal(breakable_open(coded, &reason), 0);
}

static void broken_delta_records_are_refused(void **state)
{
	struct breakable *f = &breakables[1];
	const struct breakage cases[] = {
		HEADER(model, 1, f->header.model.bytes[0] ^ 1, MISFIT, "made for the base with"),
		HEADER(expanded_bytes, 8, f->header.expanded_bytes + 64, BAD,
			"bytes when expanded, the records make it"),
		CONFIG(n_heads, 2, MISFIT, "n_heads is 2, the base has 4"),
		CONFIG(flags, 0, MISFIT, "bias of q, k and v is 0, the base has 1"),
		CONFIG(rope_theta, bits_of_f64(20000), MISFIT,
			"rope_theta is 20000, the base has 10000"),
		CONFIG(norm_eps, bits_of_f32(1e-6f), MISFIT, "norm_eps"),
		CONFIG(vocab, 300, MISFIT, "vocabulary of 300, the base has 301"),
		RECORD(1, codec, CODEC_FACTORS, BAD, "attn_norm: has n = 0, expected 1 to 1"),
		RECORD(2, codec, 0, UNKNOWN, "codec 0 is unknown"),
		RECORD(2, codec, CODEC_MAT_BF16, BAD, "has n = 2, expected 0 to 0"),
		RECORD(2, codec, 77, UNKNOWN, "codec 77 is unknown"),
		RECORD(2, role, ROLE_EMBED, BAD, "stands after"),
		RECORD(10, level, 0, BAD, "stands after level 0 layer 1 head"),
		RECORD(10, level, 2, BAD, "has level 2, the file has 2 levels"),
		RECORD(1, level, 1, BAD, "is a vector of level 1, expected 0"),
		RECORD(10, offset, breakable_record(f, 9)->offset + 64, BAD, "payload takes"),
	};

	(void)state;
	breakable_expect_refused(f, cases, array_len(cases));
}

/* A delta that was cut needs less memory than its header says, never more. */
static void cut_deltas_expand_within_bounds(void **state)
{
	struct breakable *f = &breakables[1];

	(void)state;
	for (int lie = 0; lie < 2; lie++) {
		struct format_header h = f->header;
		struct reason reason;

		if (lie)
			h.expanded_bytes = 0;
		memcpy(f->broken, f->good, f->n_bytes);
		memcpy(f->broken, &h, sizeof(h));
		breakable_write(f);
		assert_int_equal(ftruncate(f->fd, (off_t)h.level_end[0]), 0);
		assert_int_equal(breakable_open(f, &reason), lie ? -EBADMSG : 0);
		if (lie)
			assert_non_null(strstr(reason.text, "0 bytes when expanded"));
		breakable_restore(f);
	}
}

static void broken_replaced_rows_are_refused(void **state)
{
	struct breakable *f = &breakables[1];
	const struct breakage cases[] = {
		RECORD(0, n, 0, BAD, "has n = 0, expected 1 to 304"),
		RECORD(0, n, 4, BAD, "padding after row 3 is not zero"),
		RECORD(0, n, 17, BAD, "payload has"),
		RECORD(0, n, 305, BAD, "has n = 305, expected 1 to 304"),
		RECORD(0, n, UINT32_MAX, BAD, "has n = 4294967295"),
		RECORD(0, bits, 16, BAD, "has bits 16 and grid 0, expected none"),
		PAYLOAD(0, 0, 4, 300, BAD, "replaces row 300 after row 300"),
		PAYLOAD(0, 4, 4, 6, BAD, "replaces row 6 after row 7"),
		PAYLOAD(0, 16, 4, 304, BAD, "replaces row 304 of 304"),
		PAYLOAD(0, 16, 4, UINT32_MAX, BAD, "replaces row 4294967295 of 304"),
		PAYLOAD(7, 0, 4, 1, BAD, "layer 1 gate: 14556 coded bytes"),
		RECORD(7, bytes, 0, BAD, "payload has 0 bytes, expected more than 0"),
	};

	(void)state;
	breakable_expect_refused(f, cases, array_len(cases));
}

static void broken_codes_are_refused(void **state)
{
	struct breakable *f = &breakables[1];
	const struct breakage cases[] = {
		RECORD(2, bits, 0, BAD, "has 0 bits on grid 1, expected 1 to 8"),
		RECORD(2, bits, 9, BAD, "has 9 bits on grid 1, expected 1 to 8"),
		RECORD(2, bits, 255, BAD, "has 255 bits"),
		RECORD(2, grid, GRID_ROW, BAD, "has grid 2, which codec 4 does not have"),
		RECORD(2, grid, 4, BAD, "has grid 4, which codec 4 does not have"),
		RECORD(2, grid, GRID_NONE, BAD, "has 8 bits on grid 0, expected 16 or 32"),
		RECORD(2, coding, 1, BAD, "has a stream of codes on grid 1"),
		RECORD(2, coding, 2, BAD, "has coding 2"),
		RECORD(2, n, 0, BAD, "has n = 0, expected 1 to 71"),
		RECORD(2, n, 72, BAD, "has n = 72, expected 1 to 71"),
		RECORD(2, n, 3, BAD, "payload has"),
		RECORD(2, step, bits_of_f32(1), BAD, "has step 1 and zero 0, which grid 1"),
		RECORD(3, step, bits_of_f32(NAN), BAD, "has step nan"),
		RECORD(3, step, bits_of_f32(-1), BAD, "has step -1"),
		RECORD(3, step, 0, BAD, "has step 0"),
		RECORD(3, zero, bits_of_f32(0.25f), BAD, "zero 0.25, which grid 2"),
		RECORD(3, zero, bits_of_f32(4), BAD, "zero 4, which grid 2 with 2 bits"),
		RECORD(3, zero, bits_of_f32(INFINITY), BAD, "zero inf"),
		RECORD(3, n, 2, BAD, "payload has"),
		PAYLOAD(3, 0, 1, 0x22 | 4, BAD, "has a bitmap of 4 rows, expected 3"),
		PAYLOAD(3, 5, 1, 0x18, BAD, "has codes for row 44 of 44"),
		RECORD(4, group, 70, BAD, "group"),
		RECORD(4, n, 72, BAD, "dropout keeps 72 of each 71 columns"),
		RECORD(4, bits, 8, BAD, "payload has"),
		RECORD(4, group, 0, BAD, "group"),
		PAYLOAD(4, 2, 2, 0x7c00, BAD, "layer 0 v: scale 1 is not a finite number"),
		PAYLOAD(5, 0, 4, UINT32_MAX, BAD, "layer 0 up: 1388 coded bytes"),
		PAYLOAD(6, 0, 8, UINT64_MAX, BAD, "layer 1 o: v has 18446744073709551615 bytes"),
		PAYLOAD(6, 8, 2, 0x7e00, BAD, "layer 1 o: sigma 0 is not a finite number"),
		PAYLOAD(8, 0, 4, bits_of_f32(NAN), BAD, "layer 1 down: sigma 0 is nan"),
		PAYLOAD(8, 64, 2, 0xfc00, BAD, "layer 1 down: v 0 is not a finite number"),
		RECORD(10, n, 70, BAD, "payload has"),
	};

	(void)state;
	breakable_expect_refused(f, cases, array_len(cases));
}

/* Places that the layout gives. */
static void broken_grids_are_refused(void **state)
{
	const struct part_layout low = part_layout(breakable_record(&breakables[1], 2));
	const struct part_layout high = part_layout(breakable_record(&breakables[1], 10));
	const struct breakage cases[] = {
		PAYLOAD(2, low.v.scales, 2, 0x7c00, BAD, "q: v: scale 0 is not a finite"),
		PAYLOAD(10, high.v.scales + 32, 2, 0xffff, BAD, "v: scale 16 is not"),
		PAYLOAD(10, high.u.scales + 32, 2, 0xfc00, BAD, "u: scale 16 is not"),
		PAYLOAD(10, high.v.zeros + 16, 1, 8, BAD, "zero 16 of v is 8, expected at most 7"),
		PAYLOAD(10, high.u.zeros, 1, 255, BAD, "zero 0 of u is 255, expected at most 7"),
		PAYLOAD(10, high.sigma + 64, 4, bits_of_f32(INFINITY), BAD, "sigma 16 is inf"),
	};

	(void)state;
	breakable_expect_refused(&breakables[1], cases, array_len(cases));
}

static void broken_certificates_are_refused(void **state)
{
	struct breakable *f = &breakables[1];
	uint64_t n = breakable_section(f, SECTION_CERTIFICATE)->bytes;
	uint64_t words = 0x6161616161616161, escape = 0x6d35335b1b61; /* a, ESC [35m */
	uint64_t certificate = breakable_section(f, SECTION_CERTIFICATE)->offset;
	const struct breakage cases[] = {
		HEADER(sections[2].bytes, 8, n - 16, BAD, "certificate: has"),
		HEADER(sections[2].bytes, 8, 0, BAD, "certificate: has 0 bytes"),
		HEADER(sections[2].bytes, 8, n + 16, BAD, "certificate: has"),
	};
	struct reason reason;

	(void)state;
	breakable_expect_refused(f, cases, array_len(cases));
	/* The text that it was measured on is the first word of what comes last. */
	memcpy(f->broken, f->good, f->n_bytes);
	f->broken[certificate + n - sizeof(struct certificate_tasks)] = CERTIFICATE_RANDOM + 1;
	breakable_write(f);
	assert_int_equal(breakable_open(f, &reason), -EBADMSG);
	assert_non_null(strstr(reason.text, "text is 3"));
	memcpy(f->broken, f->good, f->n_bytes);
	for (size_t i = 0; i < sizeof(((struct certificate *)0)->method); i += 8)
		memcpy(f->broken + certificate + i, &words, 8);
	breakable_write(f);
	assert_int_equal(breakable_open(f, &reason), -EBADMSG);
	assert_non_null(strstr(reason.text, "method has no end"));
	memcpy(f->broken, f->good, f->n_bytes);
	memcpy(f->broken + certificate, &escape, 8);
	breakable_write(f);
	assert_int_equal(breakable_open(f, &reason), -EBADMSG);
	assert_non_null(strstr(reason.text, "not ASCII"));
	breakable_restore(f);
}

/* A file that says it added tokens must bring their rows. */
static void added_tokens_without_rows_are_refused(void **state)
{
	struct breakable *f = &breakables[1];
	const struct breakage cases[] = {
		PAYLOAD(0, 4, 8, UINT64_C(299) << 32 | 298, BAD, "embed: rows 301 to 303 of added"),
		PAYLOAD(9, 4, 8, UINT64_C(299) << 32 | 298, BAD, "head: rows 301 to 303 of added"),
	};

	(void)state;
	breakable_expect_refused(f, cases, array_len(cases));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(broken_base_records_are_refused),
		cmocka_unit_test(broken_base_codes_are_refused),
		cmocka_unit_test(scales_in_grids_are_checked),
		cmocka_unit_test(digests_of_what_serves_are_checked),
		cmocka_unit_test(broken_delta_records_are_refused),
		cmocka_unit_test(cut_deltas_expand_within_bounds),
		cmocka_unit_test(broken_replaced_rows_are_refused),
		cmocka_unit_test(broken_codes_are_refused),
		cmocka_unit_test(broken_grids_are_refused),
		cmocka_unit_test(broken_certificates_are_refused),
		cmocka_unit_test(added_tokens_without_rows_are_refused),
	};

	return cmocka_run_group_tests(tests, breakables_make, breakables_free);
}
