/*
 * The TOKENIZER section: tokenizer.json boiled down to arrays. Little-endian, no gaps:
 *
 *   struct tokenizer_tables     sizes of what follows
 *   u32 token_ends[n_tokens]    token i is text[token_ends[i - 1], token_ends[i]); an id without a
 *                               token is empty
 *   struct tokenizer_merge      merges[n_merges], the best one first
 *   struct tokenizer_added      added[n_added]
 *   struct tokenizer_step       normalizers[n_normalizers], then pretokenizers[n_pretokenizers],
 *                               then decoders[n_decoders], each applied in this order
 *   u32 prefix[n_prefix], suffix[n_suffix]   what the post-processor puts around one text
 *   u8 text[n_text]             UTF-8; the tokens come first
 *
 * Tokens are spelled as in tokenizer.json: byte-level vocabularies keep GPT-2's printable alphabet,
 * SentencePiece ones their U+2581. In a delta the section has its own magic and holds `added` and
 * `text` only: tokens that the fine-tune added, or whose spelling or flags it changed, by id.
 */
#pragma once

#include "common/base.h"

#define TOKENIZER_MAGIC "DELTTOK1"
#define TOKENIZER_EXTRA_MAGIC "DELTTOKX"
#define TOKENIZER_NONE UINT32_MAX
#define TOKENIZER_MAX_STEPS 16u     /* of each list */
#define TOKENIZER_MAX_STEP_TEXT 16u /* bytes of a string in a step, other than a pattern */
#define TOKENIZER_MAX_GROWTH 16u /* normalised text may be this much longer, and tokens decoded */
#define TOKENIZER_MAX_TOKEN_BYTES (1u << 16)
#define TOKENIZER_MAX_ADDED_BYTES 1024u
#define TOKENIZER_MAX_IDS (1u << 24)
/* Added tokens may leave gaps between ids, but not gaps that cost memory. */
#define TOKENIZER_MAX_ID_GAP (1u << 16)

enum tokenizer_flag {
	TOKENIZER_BYTE_FALLBACK = 1 << 0, /* unknown characters become their <0xHH> tokens */
	TOKENIZER_FUSE_UNK = 1 << 1,      /* neighbouring unknown characters share one token */
	TOKENIZER_IGNORE_MERGES = 1 << 2, /* a word that is a token is that token */
};

struct tokenizer_tables {
	uint8_t magic[8];
	uint32_t flags; /* enum tokenizer_flag, or-ed */
	uint32_t unk;   /* id, or TOKENIZER_NONE: unknown characters vanish */
	uint32_t n_tokens;
	uint32_t n_merges;
	uint32_t n_added;
	uint32_t n_normalizers;
	uint32_t n_pretokenizers;
	uint32_t n_decoders;
	uint32_t n_prefix;
	uint32_t n_suffix;
	uint32_t n_text;
	uint32_t reserved;
};

struct tokenizer_merge {
	uint32_t left, right, merged; /* the spelling of `merged` is that of left, then right */
};

struct tokenizer_text {
	uint32_t offset, bytes; /* in text[] */
};

enum tokenizer_added_flag {
	TOKENIZER_ADDED_SPECIAL = 1 << 0,
	TOKENIZER_ADDED_LSTRIP = 1 << 1, /* swallows white space before it */
	TOKENIZER_ADDED_RSTRIP = 1 << 2,
	TOKENIZER_ADDED_SINGLE_WORD = 1 << 3, /* only between non-word characters */
	TOKENIZER_ADDED_NORMALIZED = 1 << 4,  /* looked for in normalised text */
};

struct tokenizer_added {
	uint32_t id;
	uint32_t flags; /* enum tokenizer_added_flag, or-ed */
	struct tokenizer_text text;
};

struct tokenizer_step {
	uint32_t kind;   /* of the enum of its list */
	uint32_t option; /* as the kind says, else 0 */
	struct tokenizer_text a, b;
};

enum normalize_kind {
	NORMALIZE_NFC = 1,
	NORMALIZE_NFD = 2,
	NORMALIZE_NFKC = 3,
	NORMALIZE_NFKD = 4,
	NORMALIZE_PREPEND = 5, /* a, unless the text is empty */
	NORMALIZE_REPLACE = 6, /* every a by b */
};

enum pretokenize_kind {
	/* a: a PCRE2 pattern (UTF and UCP); option: enum split_behaviour | SPLIT_INVERT. */
	PRETOKENIZE_SPLIT = 1,
	PRETOKENIZE_PREFIX_SPACE = 2, /* a space before pieces that do not begin with one */
	PRETOKENIZE_BYTES = 3,        /* every byte becomes its character of GPT-2's alphabet */
	/* Spaces become a; option: enum metaspace_scheme | METASPACE_SPLIT. */
	PRETOKENIZE_METASPACE = 4,
};

enum split_behaviour {
	SPLIT_ISOLATED = 0,
	SPLIT_REMOVED = 1,
	SPLIT_MERGED_WITH_PREVIOUS = 2,
	SPLIT_MERGED_WITH_NEXT = 3,
	SPLIT_CONTIGUOUS = 4,
};
#define SPLIT_INVERT 0x100u /* what does not match is the separator */

enum metaspace_scheme {
	METASPACE_NEVER = 0,
	METASPACE_FIRST = 1,  /* an `a` is put before the beginning of the text */
	METASPACE_ALWAYS = 2, /* and after every added token */
};
#define METASPACE_SPLIT 0x100u /* every `a` begins a piece */

/* Either BYTES alone, or any of the others, each kind in the order below. */
enum decode_kind {
	DECODE_BYTES = 1,    /* characters of GPT-2's alphabet to bytes */
	DECODE_REPLACE = 2,  /* in each token every a by b */
	DECODE_FALLBACK = 3, /* <0xHH> to a byte */
	DECODE_FIRST = 4,    /* the first token of a text loses every a (before DECODE_REPLACE) */
	DECODE_STRIP = 5,    /* the text loses up to `option` leading characters a */
};

_Static_assert(sizeof(struct tokenizer_tables) == 56, "no padding");
_Static_assert(sizeof(struct tokenizer_merge) == 12, "no padding");
_Static_assert(sizeof(struct tokenizer_added) == 16, "no padding");
_Static_assert(sizeof(struct tokenizer_step) == 24, "no padding");
