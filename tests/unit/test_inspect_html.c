/*
 * The page of `deltactl inspect --html`: well-formed, complete, fetches nothing, and hostile names
 * stay text.
 */
#include "client/deltactl/inspect_html.h"

#include "client/deltactl/document.h"
#include "common/file.h"
#include "tests/scratch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define N_LAYERS 3
#define MAX_DEPTH 32

static const char *const roles[] = {"q", "k", "v", "o", "gate", "up", "down"};

static json_t *tensor(size_t layer, const char *role, double bits, double error)
{
	json_t *spectrum = json_array();

	for (int i = 1; i <= 16; i++)
		json_array_append_new(spectrum, json_real(i / 16.0));
	return json_pack("{sI ss ss sI sf sI sI sf sf sn ss so}", "layer", (json_int_t)layer,
		"role", role, "codec", "codes", "level", (json_int_t)0, "bits_per_weight", bits,
		"bytes", (json_int_t)1234, "memory_bytes", (json_int_t)2345, "weight_error", error,
		"activation_error", error / 2, "loss", "why", "lowest cost", "spectrum", spectrum);
}

static json_t *document(const char *method)
{
	json_t *tensors = json_array();

	for (size_t layer = 0; layer < N_LAYERS; layer++)
		for (size_t i = 0; i < array_len(roles); i++)
			if (layer != 1 || i != 3)
				json_array_append_new(tensors, tensor(layer, roles[i], 1.25, 0.5));
	return json_pack("{ss ss ss ss s{sI} s{sI sf sI sf sf sI sI sf} s{ss sf sf sf sf sf sI sI}"
			 " s[{sf sI sf} {sf sI sf}] so}",
		"chat_format", "chatml", "fits_base", "aa", "tuned", "bb", "root", "cc", "config",
		"layers", (json_int_t)N_LAYERS, "totals", "file_bytes", (json_int_t)1000000,
		"file_ratio", 10.5, "projection_bytes", (json_int_t)700000, "projection_bits", 1.25,
		"projection_ratio", 12.8, "embedding_bytes", (json_int_t)200000, "rest_bytes",
		(json_int_t)100000, "kl", 0.0123, "certificate", "method", method, "kl", 0.0123,
		"agreement", 0.987, "perplexity_base", 9.0, "perplexity_tuned", 3.0,
		"perplexity_delta", 3.25, "eval_tokens", (json_int_t)4000, "calibration_tokens",
		(json_int_t)30000, "rate_curve", "bits_per_weight", 0.5, "file_bytes",
		(json_int_t)500000, "kl", 0.1, "bits_per_weight", 1.25, "file_bytes",
		(json_int_t)1000000, "kl", 0.0123, "tensors", tensors);
}

/* The page of a document as terminated text. */
static char *page_of(json_t *d, const char *name)
{
	char *folder = scratch_folder();
	char *path = scratch_write(folder, "page.html", "", 0);
	struct reason reason = {0};
	char *text = NULL;
	size_t n;

	assert_non_null(d);
	if (inspect_html(d, name, path, &reason) < 0)
		fail_msg("%s", reason.text);
	assert_int_equal(file_load(path, 1 << 20, &text, &n, &reason), 0);
	text = realloc(text, n + 1);
	assert_non_null(text);
	text[n] = '\0';
	assert_int_equal(strlen(text), n);
	json_decref(d);
	scratch_remove(folder);
	free(path);
	free(folder);
	return text;
}

static bool is_entity(const char *at)
{
	static const char *const known[] = {"&lt;", "&gt;", "&amp;", "&quot;", "&#39;", "&#183;"};

	for (size_t i = 0; i < array_len(known); i++)
		if (strncmp(at, known[i], strlen(known[i])) == 0)
			return true;
	return false;
}

/* Past a tag's attributes, each NAME="VALUE" without markup in it; at the '>' or "/>". */
static const char *skip_attributes(const char *at)
{
	while (*at == ' ') {
		at += 1 +
		      strspn(at + 1,
			      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-0123456789");
		if (strncmp(at, "=\"", 2) != 0)
			fail_msg("no quoted value: %.40s", at);
		for (at += 2; *at != '"'; at++)
			if (*at == '<' || *at == '\0' || (*at == '&' && !is_entity(at)))
				fail_msg("markup in a value: %.40s", at);
		at++;
	}
	return at;
}

/* Fails unless the tags after the document type nest as XML's do. */
static void check_well_formed(const char *text)
{
	static const char doctype[] = "<!DOCTYPE html>\n";
	struct {
		const char *name;
		size_t n;
	} open[MAX_DEPTH];
	size_t depth = 0;

	assert_memory_equal(text, doctype, strlen(doctype));
	for (const char *at = text + strlen(doctype); *at; at++) {
		const char *name = at + 1 + (at[1] == '/');
		size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyz123");

		if (*at == '&' && !is_entity(at))
			fail_msg("bare &: %.40s", at);
		if ((*at & 0x80) == 0 && *at < 0x20 && *at != '\n')
			fail_msg("control character %d", *at);
		if (*at != '<')
			continue;
		assert_true(n > 0);
		at = skip_attributes(name + n);
		if (name[-1] == '/') {
			assert_true(depth-- > 0);
			if (open[depth].n != n || memcmp(open[depth].name, name, n) != 0)
				fail_msg("closes %.*s with %.20s", (int)open[depth].n,
					open[depth].name, name);
		} else if (*at != '/') {
			assert_true(depth < MAX_DEPTH);
			open[depth].name = name;
			open[depth++].n = n;
		}
		at += *at == '/';
		if (*at != '>')
			fail_msg("tag does not end: %.40s", name);
	}
	assert_int_equal(depth, 0);
}

static size_t count(const char *text, const char *word)
{
	size_t n = 0;

	for (const char *at = strstr(text, word); at; at = strstr(at + 1, word))
		n++;
	return n;
}

static void test_page(void **state)
{
	char *page = page_of(document("auto"), "math.delta");

	(void)state;
	check_well_formed(page);
	/* Three heat maps of 20 cells each, a spectrum for each of them, two points, a row each. */
	assert_int_equal(count(page, "<rect class=\"heat\""), 3 * 20);
	assert_int_equal(count(page, "<polyline"), 20 + 1);
	assert_int_equal(count(page, "<circle"), 2);
	assert_int_equal(count(page, "<tr>"), 1 + 20);
	assert_non_null(strstr(page, "98.70 %"));
	assert_non_null(strstr(page, "0.0123"));
	assert_non_null(strstr(page, "1.00 MB"));
	assert_non_null(strstr(page, "prefers-color-scheme:dark"));
	free(page);
}

static void test_nothing_is_fetched(void **state)
{
	static const char *const words[] = {"http", "//", "src=", "href=", "url(", "@import",
		"<script", "<link", "<img", "<iframe", "<object"};
	char *page = page_of(document("auto"), "math.delta");

	(void)state;
	for (size_t i = 0; i < array_len(words); i++)
		if (strstr(page, words[i]))
			fail_msg("the page has %s", words[i]);
	free(page);
}

static void test_hostile_names(void **state)
{
	static const char name[] =
		"</title><script>x()</script>&\"'\x01\x7f\xff\xc2\x85\xed\xa0\x80";
	char *page = page_of(document("\"><b onload='x'>&lt;"), name);

	(void)state;
	check_well_formed(page);
	assert_null(strstr(page, "<script"));
	assert_null(strstr(page, "<b onload"));
	assert_non_null(strstr(page, "&lt;script&gt;x()&lt;/script&gt;&amp;&quot;&#39;?????"));
	assert_non_null(strstr(page, "&quot;&gt;&lt;b onload=&#39;x&#39;&gt;&amp;lt;"));
	free(page);
}

/* A base that lacks tokens of the text has no perplexity of it. */
static void test_what_is_unknown_is_left_out(void **state)
{
	json_t *d = document("auto"), *certificate = json_object_get(d, "certificate");
	char *page;

	(void)state;
	json_object_set_new(certificate, "perplexity_base", json_null());
	page = page_of(d, "grown.delta");
	check_well_formed(page);
	assert_null(strstr(page, "nan"));
	assert_null(strstr(page, "with the base"));
	assert_non_null(strstr(page, "<dd>3 with the fine-tune, 3.25 with this</dd>"));
	free(page);
}

/* Nothing was measured, nothing is stored; there may be no certificate either. */
static void check_empty(bool certified)
{
	json_t *d = json_pack("{s{sI} s{sI sf sI sn sn sI sn} s[]}", "config", "layers",
		(json_int_t)2, "totals", "file_bytes", (json_int_t)4096, "file_ratio", 1000.0,
		"rest_bytes", (json_int_t)4096, "projection_bits", "projection_ratio",
		"projection_bytes", (json_int_t)0, "kl", "tensors");
	char *page;

	if (certified)
		json_object_set_new(d, "certificate",
			json_pack("{ss sI sI sn}", "method", "zero", "eval_tokens", (json_int_t)0,
				"calibration_tokens", (json_int_t)0, "kl"));
	page = page_of(d, "empty.delta");
	check_well_formed(page);
	assert_null(strstr(page, "nan"));
	assert_int_equal(certified, strstr(page, "<dd>zero</dd>") != NULL);
	assert_int_equal(certified, strstr(page, "<dd>nothing; ") != NULL);
	assert_int_equal(count(page, "<rect"), 0);
	assert_int_equal(count(page, "<polyline"), 0);
	assert_null(strstr(page, "inf%"));
	free(page);
}

static void test_empty(void **state)
{
	(void)state;
	check_empty(true);
	check_empty(false);
}

/* A value that there was no memory for, in a row of a table. */
static void test_incomplete_is_refused(void **state)
{
	json_t *d = document("auto"), *row = json_array_get(json_object_get(d, "tensors"), 3);
	struct reason reason = {0};

	(void)state;
	assert_true(document_complete(d));
	document_set(row, "n", NULL);
	assert_false(document_complete(d));
	assert_int_equal(inspect_html(d, "x", "/nowhere/page.html", &reason), -ENOMEM);
	assert_int_equal(document_print(d, true), -ENOMEM);
	json_decref(d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_page),
		cmocka_unit_test(test_nothing_is_fetched),
		cmocka_unit_test(test_hostile_names),
		cmocka_unit_test(test_what_is_unknown_is_left_out),
		cmocka_unit_test(test_empty),
		cmocka_unit_test(test_incomplete_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
