/*
 * Files broken in every way that the format knows: each is refused with the right error, for a
 * reason that says what was found, without asking for more memory than the file is long.
 */
#include "store/base.h"
#include "store/delta.h"
#include "tests/small_image.h"

#include <inttypes.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cmocka.h>

/* Views of FORMAT_MAX_LAYERS layers: the one thing that is not bounded by the file's size. */
#define MOST_VIEW_BYTES (UINT64_C(4) << 20)

static size_t largest_request;

/* Sanitizers bring an allocator of their own, which must not be replaced. */
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
extern void *__libc_malloc(size_t n);
extern void *__libc_calloc(size_t n, size_t size);

void *malloc(size_t n)
{
	if (n > largest_request)
		largest_request = n;
	return __libc_malloc(n);
}

void *calloc(size_t n, size_t size)
{
	if (size && n > largest_request / size)
		largest_request = n * size;
	return __libc_calloc(n, size);
}
#endif

/* A good file and a place to break copies of it. */
struct file {
	enum image_kind kind;
	uint8_t *good;
	uint8_t *broken;
	uint64_t n_bytes;
	struct format_header header;
	int fd;
};

static struct file files[2];
static struct base *small_base;

static void read_file(struct file *f, enum image_kind kind)
{
	struct stat st;

	f->kind = kind;
	f->fd = kind == IMAGE_KIND_BASE ? small_base_file() : small_delta_file();
	assert_int_equal(fstat(f->fd, &st), 0);
	f->n_bytes = (uint64_t)st.st_size;
	f->good = malloc(f->n_bytes);
	f->broken = malloc(f->n_bytes);
	assert_true(f->good && f->broken);
	assert_int_equal(pread(f->fd, f->good, f->n_bytes, 0), f->n_bytes);
	memcpy(&f->header, f->good, sizeof(f->header));
}

/* Loads and binds what the file's descriptor has now. */
static int open_broken(const struct file *f, struct reason *reason)
{
	struct image *image = NULL;
	struct delta *delta = NULL;
	struct base *base = NULL;
	size_t before = open_descriptors();
	int r;

	largest_request = 0;
	*reason = (struct reason){0};
	r = image_load(f->fd, &image, NULL, reason);
	if (r == 0 && f->kind == IMAGE_KIND_BASE)
		r = base_bind(image, &base, reason);
	else if (r == 0)
		r = delta_bind(image, small_base, &delta, reason);
	if (r < 0)
		image_free(image);
	base_free(base);
	delta_free(delta);
	assert_int_equal(open_descriptors(), before);
	assert_true(largest_request <= max_u64(f->n_bytes, MOST_VIEW_BYTES));
	return r;
}

static void restore(const struct file *f)
{
	assert_int_equal(ftruncate(f->fd, (off_t)f->n_bytes), 0);
	assert_int_equal(pwrite(f->fd, f->good, f->n_bytes, 0), f->n_bytes);
}

/* Digests of what is broken, so that what stands behind them is reached. */
static void repair_digests(uint8_t *bytes, const struct format_header *good)
{
	struct format_header h;

	for (uint64_t i = 0; i < good->n_chunks; i++) {
		uint64_t at = good->body_offset + i * FORMAT_CHUNK;
		struct digest d =
			digest_of(bytes + at, min_u64(FORMAT_CHUNK, good->file_bytes - at));

		memcpy(bytes + FORMAT_PAGE + i * sizeof(d), &d, sizeof(d));
	}
	memcpy(&h, bytes, sizeof(h));
	assert_int_equal(
		image_root(&h, bytes + FORMAT_PAGE, good->body_offset - FORMAT_PAGE, &h.root), 0);
	memcpy(bytes, &h, sizeof(h));
}

enum part {
	PART_HEADER,
	PART_CONFIG,
	PART_RECORD,
	PART_CERTIFICATE,
	PART_PAYLOAD,
};

/* One field overwritten. `index` is the record. */
struct breakage {
	enum part part;
	uint32_t index;
	size_t offset;
	size_t width;
	uint64_t value;
	int error;
	const char *words;
};

static const struct format_section *section(const struct file *f, enum section_kind kind)
{
	for (uint32_t i = 0; i < f->header.n_sections; i++)
		if (f->header.sections[i].kind == kind)
			return &f->header.sections[i];
	fail_msg("no section %d", kind);
	return NULL;
}

static uint64_t place_of(const struct file *f, const struct breakage *b)
{
	uint64_t record = 0;
	struct tensor_record t;

	switch (b->part) {
	case PART_HEADER:
		return b->offset;
	case PART_CONFIG:
		return section(f, SECTION_CONFIG)->offset + b->offset;
	case PART_CERTIFICATE:
		return section(f, SECTION_CERTIFICATE)->offset + b->offset;
	case PART_RECORD:
	case PART_PAYLOAD:
		record = section(f, SECTION_TENSORS)->offset + b->index * sizeof(t);
		break;
	}
	if (b->part == PART_RECORD)
		return record + b->offset;
	memcpy(&t, f->good + record, sizeof(t));
	return t.offset + b->offset;
}

static void expect_refused(const struct file *f, const struct breakage *b)
{
	uint64_t at = place_of(f, b);
	struct reason reason;
	int r;

	memcpy(f->broken, f->good, f->n_bytes);
	memcpy(f->broken + at, &b->value, b->width);
	repair_digests(f->broken, &f->header);
	assert_int_equal(pwrite(f->fd, f->broken, f->n_bytes, 0), f->n_bytes);
	r = open_broken(f, &reason);
	restore(f);
	if (r != b->error || !strstr(reason.text, b->words))
		fail_msg("%s with %#" PRIx64 " at part %d + %zu: %d '%s', expected %d '%s'",
			f->kind == IMAGE_KIND_BASE ? "base" : "delta", b->value, b->part, b->offset,
			r, reason.text, b->error, b->words);
}

static void expect_all_refused(const struct file *f, const struct breakage *b, size_t n)
{
	for (size_t i = 0; i < n; i++)
		expect_refused(f, &b[i]);
}

static uint32_t bits_of(float value)
{
	uint32_t bits;

	memcpy(&bits, &value, sizeof(bits));
	return bits;
}

static uint64_t bits64_of(double value)
{
	uint64_t bits;

	memcpy(&bits, &value, sizeof(bits));
	return bits;
}

#define BAD -EBADMSG
#define UNKNOWN -EOPNOTSUPP
#define MISFIT -EMEDIUMTYPE
#define HEADER(field, width, value, error, words)                                                  \
	{                                                                                          \
		PART_HEADER, 0, offsetof(struct format_header, field), width, value, error, words  \
	}
#define CONFIG(field, value, error, words)                                                         \
	{                                                                                          \
		PART_CONFIG, 0, offsetof(struct model_config, field),                              \
			sizeof(((struct model_config *)0)->field), value, error, words             \
	}
#define RECORD(i, field, value, error, words)                                                      \
	{                                                                                          \
		PART_RECORD, i, offsetof(struct tensor_record, field),                             \
			sizeof(((struct tensor_record *)0)->field), value, error, words            \
	}
#define PAYLOAD(i, offset, width, value, error, words)                                             \
	{                                                                                          \
		PART_PAYLOAD, i, offset, width, value, error, words                                \
	}

static void good_files_are_taken(void **state)
{
	struct reason reason;

	(void)state;
	assert_int_equal(open_broken(&files[0], &reason), 0);
	assert_int_equal(open_broken(&files[1], &reason), 0);
}

static void broken_headers_are_refused(void **state)
{
	struct file *f = &files[0];
	uint64_t n = f->n_bytes, body = f->header.body_offset;
	const struct breakage cases[] = {
		HEADER(magic, 1, 'd', BAD, "magic is 'dELTBASE'"),
		HEADER(magic[4], 4, 0x31323334, BAD, "magic"),
		HEADER(version, 4, 2, UNKNOWN, "version 2, this program reads version 1"),
		HEADER(version, 4, 0, UNKNOWN, "version 0"),
		HEADER(file_bytes, 8, n + 4096, BAD, "made for a file of"),
		HEADER(file_bytes, 8, 0, BAD, "made for a file of 0 bytes"),
		HEADER(file_bytes, 8, UINT64_MAX, BAD, "made for a file of"),
		HEADER(body_offset, 8, body + 1, BAD, "expected a multiple of 4096"),
		HEADER(body_offset, 8, 0, BAD, "body at 0"),
		HEADER(body_offset, 8, 4096, BAD, "body at 4096"),
		HEADER(body_offset, 8, n, BAD, "body at"),
		HEADER(body_offset, 8, UINT64_MAX - 4095, BAD, "body at"),
		HEADER(n_chunks, 8, f->header.n_chunks + 1, BAD, "chunks, a body of"),
		HEADER(n_chunks, 8, UINT64_MAX, BAD, "chunks, a body of"),
		HEADER(n_chunks, 8, 0, BAD, "0 chunks"),
		HEADER(n_sections, 4, 17, BAD, "17 sections, at most 16"),
		HEADER(n_sections, 4, UINT32_MAX, BAD, "sections, at most 16"),
		HEADER(n_sections, 4, 4, UNKNOWN, "unknown kind 0"),
		HEADER(n_sections, 4, 2, BAD, "bytes after its 2 sections are not zero"),
		HEADER(sections[1].kind, 4, 8, UNKNOWN, "unknown kind 8"),
		HEADER(sections[1].kind, 4, SECTION_CERTIFICATE, BAD, "has no certificate"),
		HEADER(sections[1].kind, 4, SECTION_CONFIG, BAD, "section 1 after section 1"),
		HEADER(sections[0].kind, 4, SECTION_SELFTEST, BAD, "section 2 after section 6"),
		HEADER(sections[0].reserved, 4, 1, BAD, "reserved"),
		HEADER(sections[0].offset, 8, body + 64, BAD, "expected a multiple of 4096"),
		HEADER(sections[2].offset, 8, body + 8192, BAD, "expected a multiple of 2097152"),
		HEADER(sections[0].offset, 8, 4096, BAD, "free are"),
		HEADER(sections[0].bytes, 8, 4097, BAD, "free are"),
		HEADER(sections[1].offset, 8, body, BAD, "free are"),
		HEADER(sections[2].offset, 8, 4 << 20, BAD, "free are"),
		HEADER(sections[2].bytes, 8, n, BAD, "free are"),
		HEADER(sections[2].bytes, 8, UINT64_MAX, BAD, "free are"),
		HEADER(sections[2].offset, 8, -(UINT64_C(2) << 20), BAD, "free are"),
		HEADER(sections[3].kind, 4, 1, BAD, "not zero"),
		HEADER(tuned, 1, 1, BAD, "names a fine-tune"),
		{PART_HEADER, 0, 4095, 1, 1, BAD, "not zero"},
	};

	(void)state;
	expect_all_refused(f, cases, array_len(cases));
}

static void broken_configs_are_refused(void **state)
{
	const struct breakage cases[] = {
		CONFIG(family, 0, UNKNOWN, "model family 0"),
		CONFIG(family, 6, UNKNOWN, "model family 6"),
		CONFIG(flags, 1 << 5, UNKNOWN, "unknown flags 0x20"),
		CONFIG(n_layers, 0, BAD, "n_layers is 0, expected 1 to 1024"),
		CONFIG(n_layers, 1025, BAD, "n_layers is 1025"),
		CONFIG(n_layers, 1024, BAD, "no such tensor"),
		CONFIG(hidden, 0, BAD, "hidden is 0"),
		CONFIG(hidden, UINT32_MAX, BAD, "hidden is 4294967295"),
		CONFIG(hidden, 73, BAD, "layer 0 embed: is 301 x 71, the config makes it 301 x 73"),
		CONFIG(ffn, 0, BAD, "ffn is 0"),
		CONFIG(n_heads, 0, BAD, "n_heads is 0"),
		CONFIG(n_kv_heads, 0, BAD, "n_kv_heads is 0"),
		CONFIG(n_kv_heads, 3, BAD, "not a multiple of n_kv_heads 3"),
		CONFIG(n_kv_heads, 8, BAD, "n_kv_heads is 8, expected 1 to 4"),
		CONFIG(head_dim, 21, BAD, "head_dim is 21, expected an even number"),
		CONFIG(head_dim, 1 << 13, BAD, "head_dim is 8192"),
		CONFIG(vocab, 0, BAD, "vocab is 0"),
		CONFIG(vocab, 1 << 25, BAD, "vocab is 33554432"),
		CONFIG(max_positions, 0, BAD, "max_positions is 0"),
		CONFIG(sliding_window, UINT32_MAX, BAD, "sliding_window"),
		CONFIG(first_window_layer, 3, BAD, "first_window_layer is 3, expected 0 to 2"),
		CONFIG(rope_kind, 4, UNKNOWN, "rope_kind 4"),
		CONFIG(rope_kind, ROPE_KIND_LINEAR, BAD, "rope_factor is 0"),
		CONFIG(rope_theta, bits64_of(0), BAD, "rope_theta is 0"),
		CONFIG(rope_theta, bits64_of(INFINITY), BAD, "rope_theta is inf"),
		CONFIG(rope_attention_factor, bits_of(NAN), BAD, "rope_attention_factor is nan"),
		CONFIG(norm_eps, bits_of(-1), BAD, "norm_eps is -1"),
		CONFIG(bos, 301, BAD, "bos is token 301, expected -1 to 300"),
		CONFIG(bos, (uint32_t)-2, BAD, "bos is token -2"),
		CONFIG(pad, INT32_MAX, BAD, "pad is token"),
		CONFIG(n_eos, 9, BAD, "n_eos is 9"),
		CONFIG(eos[0], (uint32_t)-1, BAD, "eos is token -1, expected 0 to 300"),
		HEADER(sections[0].bytes, 8, 135, BAD, "the section has 135 bytes, expected 136"),
		HEADER(sections[0].kind, 4, 0, UNKNOWN, "unknown kind 0"),
	};

	(void)state;
	expect_all_refused(&files[0], cases, array_len(cases));
}

/* Record 0 is the embedding, 1 the first norm, 2 the first q. */
static void broken_base_records_are_refused(void **state)
{
	struct file *f = &files[0];
	const struct format_section *tensors = section(f, SECTION_TENSORS);
	uint64_t weights = section(f, SECTION_WEIGHTS)->offset;
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
		PAYLOAD(1, 0, 4, bits_of(NAN), BAD, "attn_norm: value 0 is nan"),
		PAYLOAD(1, 70 * 4, 4, bits_of(-INFINITY), BAD, "attn_norm: value 70 is -inf"),
		PAYLOAD(0, embed_bytes - 4, 2, 1, BAD, "embed: padding after row 300 is not zero"),
		PAYLOAD(0, 36 * 64 - 2, 2, 1, BAD, "embed: padding after column 70 is not zero"),
	};

	(void)state;
	expect_all_refused(f, cases, array_len(cases));
}

/* Records of the delta: embed, attn_norm, q (8 and 3 bits), o (2 bits), down (4 bits), head. */
static void broken_delta_records_are_refused(void **state)
{
	struct file *f = &files[1];
	const struct breakage cases[] = {
		HEADER(model, 1, f->header.model.bytes[0] ^ 1, MISFIT, "made for the base with"),
		CONFIG(n_heads, 2, MISFIT, "n_heads is 2, the base has 4"),
		CONFIG(flags, 0, MISFIT, "flags is 0, the base has 30"),
		CONFIG(rope_theta, bits64_of(20000), MISFIT,
			"rope_theta is 20000, the base has 10000"),
		CONFIG(norm_eps, bits_of(1e-6f), MISFIT, "norm_eps"),
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
		PAYLOAD(2, 128, 4, bits_of(NAN), BAD, "layer 0 q: band 0: sigma 0 is nan"),
	};

	(void)state;
	expect_all_refused(f, cases, array_len(cases));
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
			PAYLOAD(2, q[1].sigma + 64, 4, bits_of(INFINITY), BAD, "sigma 16 is inf"),
		};

		expect_all_refused(&files[1], cases, array_len(cases));
	}
}

static void broken_certificates_are_refused(void **state)
{
	struct file *f = &files[1];
	uint64_t n = section(f, SECTION_CERTIFICATE)->bytes;
	uint64_t words = 0x6161616161616161;
	const struct breakage cases[] = {
		HEADER(sections[2].bytes, 8, n - 16, BAD, "certificate: has"),
		HEADER(sections[2].bytes, 8, 0, BAD, "certificate: has 0 bytes"),
		HEADER(sections[2].bytes, 8, n + 16, BAD, "certificate: has"),
	};
	struct reason reason;

	(void)state;
	expect_all_refused(f, cases, array_len(cases));
	memcpy(f->broken, f->good, f->n_bytes);
	for (size_t i = 0; i < sizeof(((struct certificate *)0)->method); i += 8)
		memcpy(f->broken + section(f, SECTION_CERTIFICATE)->offset + i, &words, 8);
	repair_digests(f->broken, &f->header);
	assert_int_equal(pwrite(f->fd, f->broken, f->n_bytes, 0), f->n_bytes);
	assert_int_equal(open_broken(f, &reason), -EBADMSG);
	assert_non_null(strstr(reason.text, "method has no end"));
	restore(f);
}

/* A file that says it added tokens must bring their rows. */
static void added_tokens_without_rows_are_refused(void **state)
{
	struct file *f = &files[1];
	const struct breakage cases[] = {
		PAYLOAD(0, 4, 8, UINT64_C(299) << 32 | 298, BAD, "embed: rows 301 to 303 of added"),
		PAYLOAD(5, 4, 8, UINT64_C(299) << 32 | 298, BAD, "head: rows 301 to 303 of added"),
	};

	(void)state;
	expect_all_refused(f, cases, array_len(cases));
}

static void the_other_kind_is_refused(void **state)
{
	struct image *image;
	struct delta *delta;
	struct base *base;
	struct reason reason;

	(void)state;
	assert_int_equal(image_load(files[0].fd, &image, NULL, &reason), 0);
	assert_int_equal(delta_bind(image, NULL, &delta, &reason), -EMEDIUMTYPE);
	assert_non_null(strstr(reason.text, "is a base image, expected a delta file"));
	image_free(image);
	assert_int_equal(image_load(files[1].fd, &image, NULL, &reason), 0);
	assert_int_equal(base_bind(image, &base, &reason), -EMEDIUMTYPE);
	assert_non_null(strstr(reason.text, "is a delta file, expected a base image"));
	image_free(image);
}

static void expect_length_refused(const struct file *f, uint64_t n_bytes)
{
	struct reason reason;
	int r;

	assert_int_equal(ftruncate(f->fd, (off_t)n_bytes), 0);
	r = open_broken(f, &reason);
	restore(f);
	if (r != -EBADMSG || !strstr(reason.text, "bytes"))
		fail_msg("length %" PRIu64 ": %d '%s'", n_bytes, r, reason.text);
}

static void cut_and_grown_files_are_refused(void **state)
{
	(void)state;
	for (size_t i = 0; i < array_len(files); i++) {
		const struct file *f = &files[i];
		const struct format_header *h = &f->header;
		const uint64_t lengths[] = {0, 1, FORMAT_PAGE - 1, FORMAT_PAGE, FORMAT_PAGE + 1,
			h->body_offset - 1, h->body_offset, h->body_offset + 1,
			f->n_bytes - FORMAT_PAGE, f->n_bytes - 1, f->n_bytes + 1,
			f->n_bytes + FORMAT_PAGE, f->n_bytes + FORMAT_CHUNK};

		for (size_t k = 0; k < array_len(lengths); k++)
			expect_length_refused(f, lengths[k]);
		for (uint32_t k = 0; k < h->n_sections; k++) {
			expect_length_refused(f, h->sections[k].offset);
			expect_length_refused(f, h->sections[k].offset + h->sections[k].bytes / 2);
		}
	}
}

static void expect_flip_refused(const struct file *f, uint64_t at)
{
	uint8_t flipped = f->good[at] ^ (uint8_t)(1u << at % 8);
	struct reason reason;
	int r;

	assert_int_equal(pwrite(f->fd, &flipped, 1, (off_t)at), 1);
	r = open_broken(f, &reason);
	assert_int_equal(pwrite(f->fd, &f->good[at], 1, (off_t)at), 1);
	if ((r != -EBADMSG && r != -EOPNOTSUPP) || !reason.text[0])
		fail_msg("flip at %" PRIu64 ": %d '%s'", at, r, reason.text);
	if (at >= f->header.body_offset && !strstr(reason.text, "does not match its digest"))
		fail_msg("flip at %" PRIu64 ": '%s'", at, reason.text);
}

static void every_flipped_byte_is_noticed(void **state)
{
	(void)state;
	for (size_t i = 0; i < array_len(files); i++) {
		const struct file *f = &files[i];

		for (uint64_t at = 0; at < sizeof(struct format_header); at++)
			expect_flip_refused(f, at);
		for (uint64_t at = FORMAT_PAGE; at < f->header.body_offset; at += 61)
			expect_flip_refused(f, at);
		for (uint64_t at = f->header.body_offset; at < f->n_bytes; at += f->n_bytes / 97)
			expect_flip_refused(f, at);
		expect_flip_refused(f, f->n_bytes - 1);
	}
}

static int open_files(void **state)
{
	struct image *image;

	(void)state;
	read_file(&files[0], IMAGE_KIND_BASE);
	read_file(&files[1], IMAGE_KIND_DELTA);
	assert_int_equal(image_load(files[0].fd, &image, NULL, NULL), 0);
	assert_int_equal(base_bind(image, &small_base, NULL), 0);
	return 0;
}

static int close_files(void **state)
{
	(void)state;
	base_free(small_base);
	for (size_t i = 0; i < array_len(files); i++) {
		close(files[i].fd);
		free(files[i].good);
		free(files[i].broken);
	}
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(good_files_are_taken),
		cmocka_unit_test(broken_headers_are_refused),
		cmocka_unit_test(broken_configs_are_refused),
		cmocka_unit_test(broken_base_records_are_refused),
		cmocka_unit_test(broken_delta_records_are_refused),
		cmocka_unit_test(broken_grids_are_refused),
		cmocka_unit_test(broken_certificates_are_refused),
		cmocka_unit_test(added_tokens_without_rows_are_refused),
		cmocka_unit_test(the_other_kind_is_refused),
		cmocka_unit_test(cut_and_grown_files_are_refused),
		cmocka_unit_test(every_flipped_byte_is_noticed),
	};

	return cmocka_run_group_tests(tests, open_files, close_files);
}
