/*
 * Tensor records and payloads broken field by field, with digests that match.
 */
#include "tests/breakage.h"
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
		RECORD(2, role, ROLE_ATTN_NORM, BAD, "stands after layer 0 attn_norm"),
		RECORD(2, role, ROLE_EMBED, BAD, "stands after layer 0 attn_norm"),
		RECORD(2, layer, 2, BAD, "the model has no such tensor"),
		RECORD(2, layer, UINT32_MAX, BAD, "the model has no such tensor"),
		RECORD(2, layer, 1, BAD, "stands after layer 1 q"),
		RECORD(2, codec, 0, BAD, "layer 0 q: has codec 0, expected 2"),
		RECORD(2, codec, CODEC_MIXED_SVD, BAD, "layer 0 q: has codec 4, expected 2"),
		RECORD(1, codec, CODEC_MAT_BF16, BAD, "attn_norm: has codec 2, expected 1"),
		RECORD(2, n_parts, 1, BAD, "has 1 parts, expected none"),
		RECORD(1, n_parts, 1, BAD, "has 1 parts, expected none"),
		RECORD(2, rows, 89, BAD, "is 89 x 71, the config makes it 88 x 71"),
		RECORD(2, cols, UINT32_MAX, BAD, "is 88 x 4294967295"),
		RECORD(1, cols, 72, BAD, "is 71 x 72, the config makes it 71 x 1"),
		RECORD(2, offset, weights + 32, BAD, "expected a multiple of 64"),
		RECORD(2, offset, weights, BAD, "layer 0 q: payload takes"),
		RECORD(0, offset, 4096, BAD, "layer 0 embed: payload takes"),
		RECORD(2, offset, UINT64_MAX - 63, BAD, "layer 0 q: payload takes"),
		RECORD(2, bytes, UINT64_MAX, BAD, "payload takes"),
		RECORD(2, bytes, 64, BAD, "payload has 64 bytes, expected"),
		RECORD(1, bytes, 4 * 70, BAD, "payload has 280 bytes, expected 284"),
		HEADER(sections[1].bytes, 8, tensors->bytes - 1, BAD, "expected a multiple of 40"),
		HEADER(sections[1].bytes, 8, tensors->bytes - 40, BAD, "layer 1 head is missing"),
		HEADER(sections[1].bytes, 8, 40, BAD, "layer 0 attn_norm is missing"),
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

/* Records of the delta: embed, attn_norm, q (8 and 3 bits), o (2 bits), down (4 bits), head. */
static void broken_delta_records_are_refused(void **state)
{
	struct breakable *f = &breakables[1];
	const struct breakage cases[] = {
		HEADER(model, 1, f->header.model.bytes[0] ^ 1, MISFIT, "made for the base with"),
		CONFIG(n_heads, 2, MISFIT, "n_heads is 2, the base has 4"),
		CONFIG(flags, 0, MISFIT, "bias of q, k and v is 0, the base has 1"),
		CONFIG(rope_theta, bits_of_f64(20000), MISFIT,
			"rope_theta is 20000, the base has 10000"),
		CONFIG(norm_eps, bits_of_f32(1e-6f), MISFIT, "norm_eps"),
		CONFIG(vocab, 300, MISFIT, "vocabulary of 300, the base has 301"),
		RECORD(1, codec, CODEC_MIXED_SVD, BAD, "attn_norm: has codec 4, expected 1"),
		RECORD(2, codec, 0, UNKNOWN, "codec 0 is unknown for a projection"),
		RECORD(2, codec, CODEC_MAT_BF16, UNKNOWN, "codec 2 is unknown for a projection"),
		RECORD(2, codec, 77, UNKNOWN, "codec 77 is unknown for a projection"),
		RECORD(2, role, ROLE_EMBED, BAD, "stands after"),
		RECORD(0, n_parts, 0, BAD, "replaces 0 rows"),
		RECORD(0, n_parts, 4, BAD, "padding after row 3 is not zero"),
		RECORD(0, n_parts, 17, BAD, "payload has"),
		RECORD(0, n_parts, 305, BAD, "replaces 305 rows, expected 1 to 304"),
		RECORD(0, n_parts, UINT32_MAX, BAD, "replaces 4294967295 rows"),
		RECORD(0, codec, CODEC_MAT_BF16, BAD, "has codec 2, expected 3"),
		PAYLOAD(0, 0, 4, 300, BAD, "replaces row 300 after row 300"),
		PAYLOAD(0, 4, 4, 6, BAD, "replaces row 6 after row 7"),
		PAYLOAD(0, 16, 4, 304, BAD, "replaces row 304 of 304"),
		PAYLOAD(0, 16, 4, UINT32_MAX, BAD, "replaces row 4294967295 of 304"),
		RECORD(2, n_parts, 0, BAD, "has 0 bands, expected 1 to 4"),
		RECORD(2, n_parts, 5, BAD, "has 5 bands"),
		RECORD(2, n_parts, 1, BAD, "payload has"),
		RECORD(2, bytes, 64, BAD, "too few for 2 bands"),
		RECORD(2, bytes, 128, BAD, "payload has 128 bytes, expected"),
		PAYLOAD(2, 0, 4, 0, BAD, "band 0 has 0 bits, expected 2, 3, 4 or 8"),
		PAYLOAD(2, 64, 4, 5, BAD, "band 1 has 5 bits"),
		PAYLOAD(2, 0, 4, UINT32_MAX, BAD, "band 0 has 4294967295 bits"),
		PAYLOAD(2, 4, 4, 0, BAD, "band 0 has 0 ranks, expected 1 to 71"),
		PAYLOAD(2, 4, 4, 72, BAD, "band 0 has 72 ranks, expected 1 to 71"),
		PAYLOAD(2, 68, 4, 70, BAD, "band 1 has 70 ranks, expected 1 to 69"),
		PAYLOAD(2, 68, 4, UINT32_MAX, BAD, "band 1 has 4294967295 ranks"),
		PAYLOAD(2, 68, 4, 18, BAD, "payload has"),
		PAYLOAD(2, 8, 8, 0, BAD, "band 0 has sigma at 0, expected 128"),
		PAYLOAD(2, 64 + 16, 8, UINT64_MAX, BAD, "band 1 has v_codes at"),
		PAYLOAD(2, 64 + 24, 8, 1 << 30, BAD, "band 1 has v_scales at"),
		PAYLOAD(2, 64 + 32, 8, 64, BAD, "band 1 has v_zeros at 64"),
		PAYLOAD(2, 40, 8, 64, BAD, "band 0 has u_codes at 64"),
		PAYLOAD(2, 48, 8, 64, BAD, "band 0 has u_scales at 64"),
		PAYLOAD(2, 56, 8, 64, BAD, "band 0 has u_zeros at 64"),
		PAYLOAD(2, 128, 4, bits_of_f32(NAN), BAD, "layer 0 q: band 0: sigma 0 is nan"),
	};

	(void)state;
	breakable_expect_refused(f, cases, array_len(cases));
}

/* Places that the layout gives. */
static void broken_grids_are_refused(void **state)
{
	struct mixed_svd_band q[] = {{.bits = 8, .n_ranks = 2}, {.bits = 3, .n_ranks = 17}};

	(void)state;
	mixed_svd_layout(q, 2, 88, 71);
	{
		const struct breakage cases[] = {
			PAYLOAD(2, q[0].v_scales, 2, 0x7c00, BAD, "scale 0 of v is not a finite"),
			PAYLOAD(2, q[1].v_scales + 32, 2, 0xffff, BAD, "scale 16 of v"),
			PAYLOAD(2, q[1].u_scales + 32, 2, 0xfc00, BAD, "band 1: scale 16 of u"),
			PAYLOAD(2, q[1].v_zeros + 16, 1, 8, BAD,
				"zero 16 of v is 8, expected at most 7"),
			PAYLOAD(2, q[1].u_zeros, 1, 255, BAD,
				"zero 0 of u is 255, expected at most 7"),
			PAYLOAD(2, q[1].sigma + 64, 4, bits_of_f32(INFINITY), BAD,
				"sigma 16 is inf"),
		};

		breakable_expect_refused(&breakables[1], cases, array_len(cases));
	}
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
		PAYLOAD(5, 4, 8, UINT64_C(299) << 32 | 298, BAD, "head: rows 301 to 303 of added"),
	};

	(void)state;
	breakable_expect_refused(f, cases, array_len(cases));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(broken_base_records_are_refused),
		cmocka_unit_test(broken_delta_records_are_refused),
		cmocka_unit_test(broken_grids_are_refused),
		cmocka_unit_test(broken_certificates_are_refused),
		cmocka_unit_test(added_tokens_without_rows_are_refused),
	};

	return cmocka_run_group_tests(tests, breakables_make, breakables_free);
}
