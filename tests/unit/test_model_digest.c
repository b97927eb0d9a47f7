#include "store/model_digest.h"
#include "tests/small_image.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static struct digest digest_with(const struct model_config *config, uint32_t layer, float value)
{
	struct model_digest *m = model_digest_new(config);

	assert_non_null(m);
	model_digest_add(m, ROLE_ATTN_NORM, layer, 1, 1, &value, sizeof(value));
	return model_digest_finish(m);
}

/* The words of the header, byte by byte. */
static void digest_is_what_the_header_says(void **state)
{
	const struct model_config c = {
		.family = 1,
		.flags = 2,
		.n_layers = 3,
		.hidden = 4,
		.ffn = 5,
		.n_heads = 6,
		.n_kv_heads = 7,
		.head_dim = 8,
		.vocab = 9,
		.sliding_window = 10,
		.first_window_layer = 11,
		.rope_kind = 12,
		.rope_original_positions = 13,
		.rope_theta = 1,
		.rope_factor = 2,
		.rope_low_freq_factor = 2,
		.rope_high_freq_factor = 2,
		.rope_beta_fast = 2,
		.rope_beta_slow = 2,
		.rope_attention_factor = 2,
		.norm_eps = 1,
	};
	static const uint8_t expected[] = {/* the shape */
		1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 5, 0, 0, 0, 6, 0, 0, 0, 7, 0, 0, 0,
		8, 0, 0, 0, 9, 0, 0, 0, 10, 0, 0, 0, 11, 0, 0, 0, 12, 0, 0, 0, 13, 0, 0, 0,
		/* 1 as f64, six times 2 and 1 as f32 */
		0, 0, 0, 0, 0, 0, 0xf0, 0x3f, 0, 0, 0, 0x40, 0, 0, 0, 0x40, 0, 0, 0, 0x40, 0, 0, 0,
		0x40, 0, 0, 0, 0x40, 0, 0, 0, 0x40, 0, 0, 0x80, 0x3f,
		/* attn_norm of layer 2, 1 x 1 */
		1, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0};
	static const uint8_t one[] = {0, 0, 0x80, 0x3f};
	struct digest value = digest_of(one, sizeof(one)), found = digest_with(&c, 2, 1);
	uint8_t all[sizeof(expected) + sizeof(value)];
	struct digest right;

	(void)state;
	memcpy(all, expected, sizeof(expected));
	memcpy(all + sizeof(expected), &value, sizeof(value));
	right = digest_of(all, sizeof(all));
	assert_true(digest_equal(&found, &right));
}

static void what_the_weights_do_not_depend_on_is_left_out(void **state)
{
	struct model_config other = small_config;
	struct digest a = digest_with(&small_config, 0, 1), b;

	(void)state;
	other.max_positions++;
	other.bos = other.pad = 7;
	other.n_eos = 0;
	other.eos[0] = 9;
	b = digest_with(&other, 0, 1);
	assert_true(digest_equal(&a, &b));
	b = digest_with(&other, 0, 2);
	assert_false(digest_equal(&a, &b));
	b = digest_with(&other, 1, 1);
	assert_false(digest_equal(&a, &b));
	other.norm_eps = 1e-6f;
	b = digest_with(&other, 0, 1);
	assert_false(digest_equal(&a, &b));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(digest_is_what_the_header_says),
		cmocka_unit_test(what_the_weights_do_not_depend_on_is_left_out),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
