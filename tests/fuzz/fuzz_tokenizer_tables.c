/*
 * Hostile TOKENIZER sections: what is accepted must encode and decode without a fault. If the first
 * byte is odd the rest is a base's section; else it is the section of a delta on a small good base.
 */
#include "engine/tokenizer.h"
#include "engine/tokenizer_tables.h"

#include <assert.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* Two tokens, one merge, byte-level decoder: the smallest base that does something. */
static const struct {
	struct tokenizer_tables head;
	uint32_t ends[3];
	struct tokenizer_merge merge;
	struct tokenizer_step decoder;
	char text[4];
} small_base = {
	.head = {.magic = {'D', 'E', 'L', 'T', 'T', 'O', 'K', '1'},
		.unk = TOKENIZER_NONE,
		.n_tokens = 3,
		.n_merges = 1,
		.n_decoders = 1,
		.n_text = 4},
	.ends = {1, 2, 4},
	.merge = {0, 1, 2},
	.decoder = {.kind = DECODE_BYTES},
	.text = {'a', 'b', 'a', 'b'},
};

static void use(const struct tokenizer *t)
{
	static const char text[] = "ab a<s>b \xc3\xa9\n  12";
	const struct tokenizer_options options = {.add_specials = true, .parse_specials = true};
	uint32_t *ids;
	size_t n, n_text;
	char *back;

	if (tokenizer_encode(t, text, sizeof(text) - 1, options, &ids, &n, NULL) < 0)
		return;
	for (size_t i = 0; i < n; i++)
		assert(ids[i] < tokenizer_size(t));
	if (tokenizer_decode(t, ids, n, false, &back, &n_text, NULL) == 0)
		free(back);
	free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	const uint8_t *base = (const uint8_t *)&small_base;
	struct tokenizer *t;
	int r;

	if (n == 0)
		return 0;
	if (data[0] & 1)
		r = tokenizer_new(data + 1, n - 1, NULL, 0, &t, NULL);
	else
		r = tokenizer_new(base, sizeof(small_base), data + 1, n - 1, &t, NULL);
	if (r < 0)
		return 0;
	use(t);
	tokenizer_free(t);
	return 0;
}
