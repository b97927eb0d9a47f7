/*
 * The offsets that deltad-format(5) promises are those of the structs that read and write files.
 */
#include "engine/chat_format.h"
#include "engine/tokenizer_tables.h"
#include "store/format.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

struct row {
	const char *section; /* the heading that it stands under */
	const char *field;
	size_t offset;
};

#define ROW(section, type, field)                                                                  \
	{                                                                                          \
		section, #field, offsetof(struct type, field)                                      \
	}

static const struct row rows[] = {
	ROW("Header", format_header, magic),
	ROW("Header", format_header, version),
	ROW("Header", format_header, n_sections),
	ROW("Header", format_header, file_bytes),
	ROW("Header", format_header, body_offset),
	ROW("Header", format_header, n_chunks),
	ROW("Header", format_header, expanded_bytes),
	ROW("Header", format_header, n_levels),
	ROW("Header", format_header, reserved),
	ROW("Header", format_header, level_end),
	ROW("Header", format_header, root),
	ROW("Header", format_header, model),
	ROW("Header", format_header, tuned),
	ROW("Header", format_header, sections),
	ROW("Section", format_section, kind),
	ROW("Section", format_section, reserved),
	ROW("Section", format_section, offset),
	ROW("Section", format_section, bytes),
	ROW("Config", model_config, family),
	ROW("Config", model_config, flags),
	ROW("Config", model_config, n_layers),
	ROW("Config", model_config, hidden),
	ROW("Config", model_config, ffn),
	ROW("Config", model_config, n_heads),
	ROW("Config", model_config, n_kv_heads),
	ROW("Config", model_config, head_dim),
	ROW("Config", model_config, vocab),
	ROW("Config", model_config, max_positions),
	ROW("Config", model_config, sliding_window),
	ROW("Config", model_config, first_window_layer),
	ROW("Config", model_config, rope_kind),
	ROW("Config", model_config, rope_original_positions),
	ROW("Config", model_config, rope_theta),
	ROW("Config", model_config, rope_factor),
	ROW("Config", model_config, rope_low_freq_factor),
	ROW("Config", model_config, rope_high_freq_factor),
	ROW("Config", model_config, rope_beta_fast),
	ROW("Config", model_config, rope_beta_slow),
	ROW("Config", model_config, rope_attention_factor),
	ROW("Config", model_config, norm_eps),
	ROW("Config", model_config, bos),
	ROW("Config", model_config, pad),
	ROW("Config", model_config, n_eos),
	ROW("Config", model_config, eos),
	ROW("Tensors", tensor_record, role),
	ROW("Tensors", tensor_record, layer),
	ROW("Tensors", tensor_record, codec),
	ROW("Tensors", tensor_record, n),
	ROW("Tensors", tensor_record, rows),
	ROW("Tensors", tensor_record, cols),
	ROW("Tensors", tensor_record, bits),
	ROW("Tensors", tensor_record, grid),
	ROW("Tensors", tensor_record, coding),
	ROW("Tensors", tensor_record, level),
	ROW("Tensors", tensor_record, group),
	ROW("Tensors", tensor_record, step),
	ROW("Tensors", tensor_record, zero),
	ROW("Tensors", tensor_record, offset),
	ROW("Tensors", tensor_record, bytes),
	ROW("Tensors", tensor_record, seed),
	ROW("Tokenizer", tokenizer_tables, magic),
	ROW("Tokenizer", tokenizer_tables, flags),
	ROW("Tokenizer", tokenizer_tables, unk),
	ROW("Tokenizer", tokenizer_tables, n_tokens),
	ROW("Tokenizer", tokenizer_tables, n_merges),
	ROW("Tokenizer", tokenizer_tables, n_added),
	ROW("Tokenizer", tokenizer_tables, n_normalizers),
	ROW("Tokenizer", tokenizer_tables, n_pretokenizers),
	ROW("Tokenizer", tokenizer_tables, n_decoders),
	ROW("Tokenizer", tokenizer_tables, n_prefix),
	ROW("Tokenizer", tokenizer_tables, n_suffix),
	ROW("Tokenizer", tokenizer_tables, n_text),
	ROW("Tokenizer", tokenizer_tables, reserved),
	ROW("Chat format", chat_format_head, magic),
	ROW("Chat format", chat_format_head, name),
	ROW("Chat format", chat_format_head, flags),
	ROW("Chat format", chat_format_head, n_text),
	ROW("Chat format", chat_format_head, pieces),
	ROW("Certificate", certificate, method),
	ROW("Certificate", certificate, calibration),
	ROW("Certificate", certificate, n_calibration_tokens),
	ROW("Certificate", certificate, n_eval_tokens),
	ROW("Certificate", certificate, kl),
	ROW("Certificate", certificate, agreement),
	ROW("Certificate", certificate, perplexity_base),
	ROW("Certificate", certificate, perplexity_tuned),
	ROW("Certificate", certificate, perplexity_delta),
	ROW("Certificate", certificate, projection_bytes),
	ROW("Certificate", certificate, projection_original_bytes),
	ROW("Certificate", certificate, n_points),
	ROW("Tasks of the certificate", certificate_tasks, text),
	ROW("Tasks of the certificate", certificate_tasks, reserved),
	ROW("Tasks of the certificate", certificate_tasks, n_tasks),
	ROW("Tasks of the certificate", certificate_tasks, n_tokens),
	ROW("Tasks of the certificate", certificate_tasks, kl),
	ROW("Tasks of the certificate", certificate_tasks, agreement),
	ROW("Tasks of the certificate", certificate_tasks, perplexity_base),
	ROW("Tasks of the certificate", certificate_tasks, perplexity_tuned),
	ROW("Tasks of the certificate", certificate_tasks, perplexity_delta),
	ROW("Certificate", tensor_quality, weight_error),
	ROW("Certificate", tensor_quality, activation_error),
	ROW("Certificate", tensor_quality, energy),
	ROW("Certificate", tensor_quality, delta_norm),
	ROW("Certificate", tensor_quality, loss),
	ROW("Certificate", tensor_quality, why),
	ROW("Certificate", tensor_quality, unchanged),
	ROW("Certificate", tensor_quality, spectrum),
};

static const struct row *find_row(const char *section, const char *field)
{
	for (size_t i = 0; i < array_len(rows); i++)
		if (strcmp(rows[i].section, section) == 0 && strcmp(rows[i].field, field) == 0)
			return &rows[i];
	return NULL;
}

/* Reads the whole page, so that a row that a struct lacks is noticed as well as a missing one. */
static void offsets_are_those_of_the_structs(void **state)
{
	FILE *page = fopen("man/deltad-format.5", "re");
	char line[256], section[64] = "", field[64];
	size_t offset, n = 0;

	(void)state;
	assert_non_null(page);
	while (fgets(line, sizeof(line), page)) {
		const struct row *row;

		if (sscanf(line, ".Ss %63[^\n]", section) == 1)
			continue;
		if (sscanf(line, ".It Li %63s Ta %zu Ta", field, &offset) != 2)
			continue;
		row = find_row(section, field);
		if (!row)
			fail_msg("the manual has %s.%s, no struct does", section, field);
		if (row->offset != offset)
			fail_msg("%s.%s stands at %zu, the manual says %zu", section, field,
				row->offset, offset);
		n++;
	}
	fclose(page);
	assert_int_equal(n, array_len(rows));
}

static void sizes_are_those_of_the_structs(void **state)
{
	(void)state;
	assert_int_equal(sizeof(struct model_config), 136);
	assert_int_equal(sizeof(struct tensor_record), 64);
	assert_int_equal(sizeof(struct tokenizer_tables), 56);
	assert_int_equal(sizeof(struct chat_format_head), 128);
	assert_int_equal(N_CHAT_PIECES, 11);
	assert_int_equal(sizeof(struct certificate), 144);
	assert_int_equal(sizeof(struct tensor_quality), 40);
	assert_int_equal(sizeof(struct certificate_tasks), 64);
	assert_int_equal(sizeof(struct selftest), 16);
	assert_int_equal(FORMAT_PAGE, 4096);
	assert_int_equal(FORMAT_CHUNK, 1 << 20);
	assert_int_equal(FORMAT_MAX_SPARE, 1 << 20);
	assert_int_equal(FORMAT_VERSION, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(offsets_are_those_of_the_structs),
		cmocka_unit_test(sizes_are_those_of_the_structs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
