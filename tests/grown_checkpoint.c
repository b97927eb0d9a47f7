#include "tests/grown_checkpoint.h"

#include "foreign/safetensors.h"
#include "tests/scratch.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static bool grows(const struct safetensors_tensor *t)
{
	return strstr(t->name, "embed_tokens") || strstr(t->name, "lm_head");
}

static uint64_t added_bytes(const struct safetensors_tensor *t, uint32_t n_added)
{
	return grows(t) ? n_added * (t->bytes / t->shape[0]) : 0;
}

static void write_header(FILE *file, const struct safetensors *s, uint32_t n_added)
{
	char *text;
	size_t n_text;
	FILE *header = open_memstream(&text, &n_text);
	uint64_t at = 0, n;

	assert_non_null(header);
	fputc('{', header);
	for (size_t i = 0; i < safetensors_n_tensors(s); i++) {
		const struct safetensors_tensor *t = safetensors_at(s, i);
		uint64_t end = at + t->bytes + added_bytes(t, n_added);

		fprintf(header, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", i ? "," : "", t->name,
			safetensors_dtype_name(t->dtype));
		for (uint32_t d = 0; d < t->n_dims; d++)
			fprintf(header, "%s%" PRIu64, d ? "," : "",
				t->shape[d] + (d == 0 && grows(t) ? n_added : 0));
		fprintf(header, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", at, end);
		at = end;
	}
	fputc('}', header);
	fclose(header);
	n = n_text;
	assert_int_equal(fwrite(&n, sizeof(n), 1, file), 1);
	assert_int_equal(fwrite(text, n_text, 1, file), 1);
	free(text);
}

static void write_tensor(FILE *file, const struct safetensors *s,
	const struct safetensors_tensor *t, uint32_t n_added)
{
	struct reason reason = {0};
	uint8_t *bytes = malloc(t->bytes);

	assert_non_null(bytes);
	assert_int_equal(safetensors_read(s, t, 0, bytes, t->bytes, &reason), 0);
	assert_int_equal(fwrite(bytes, t->bytes, 1, file), 1);
	if (grows(t))
		assert_int_equal(fwrite(bytes, added_bytes(t, n_added), 1, file), 1);
	free(bytes);
}

static void write_tensors(const char *source, const char *target, uint32_t n_added)
{
	struct safetensors *s;
	struct reason reason = {0};
	char *path = scratch_path(target, "model.safetensors");
	FILE *file = fopen(path, "we");

	assert_non_null(file);
	assert_int_equal(safetensors_open_folder(source, &s, &reason), 0);
	write_header(file, s, n_added);
	for (size_t i = 0; i < safetensors_n_tensors(s); i++)
		write_tensor(file, s, safetensors_at(s, i), n_added);
	safetensors_free(s);
	assert_int_equal(fclose(file), 0);
	free(path);
}

static void write_config(const char *source, const char *target, uint32_t vocab, uint32_t n_added)
{
	char old[64], new[64], text[4096], grown[4200];
	char *path = scratch_path(source, "config.json"), *at;
	FILE *file = fopen(path, "re");
	size_t n;

	assert_non_null(file);
	n = fread(text, 1, sizeof(text) - 1, file);
	fclose(file);
	free(path);
	text[n] = '\0';
	snprintf(old, sizeof(old), "\"vocab_size\": %" PRIu32, vocab);
	snprintf(new, sizeof(new), "\"vocab_size\": %" PRIu32, vocab + n_added);
	at = strstr(text, old);
	assert_non_null(at);
	*at = '\0';
	snprintf(grown, sizeof(grown), "%s%s%s", text, new, at + strlen(old));
	free(scratch_write(target, "config.json", grown, strlen(grown)));
}

void grown_checkpoint(const char *source, const char *target, uint32_t vocab, uint32_t n_added)
{
	write_config(source, target, vocab, n_added);
	write_tensors(source, target, n_added);
}
