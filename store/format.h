/*
 * The layout of base images (.base) and delta files (.delta), as they lie on disk and, byte for
 * byte, in shared memory. Prose in deltad-format(5); numbers are little-endian.
 *
 *   0       struct format_header                        one page
 *   4096    chunk digests, 32 bytes each                 up to body_offset
 *   body    sections, each at a multiple of 4 KiB        chunks of 1 MiB; the last of a level
 *           (weights of a base: 2 MiB)                   is shorter, so that none is in two levels
 *   end     the file's size is a multiple of 4 KiB
 *
 * A delta may be cut where a level ends: the levels before are a valid, coarser delta of the same
 * identity. Everything but payloads of higher levels is in level 0.
 *
 * root = SHA-256(header page with `root` zeroed, then the bytes from 4096 to body_offset). It is
 * the identity of the file: whoever knows the root can check every byte, chunk by chunk as it
 * arrives. Sections stand in ascending order of their kinds; what has no meaning in the header is
 * zero.
 */
#pragma once

#include "common/digest.h"

#define FORMAT_PAGE 4096u
#define FORMAT_WEIGHTS_ALIGNMENT (2u << 20) /* in a base image: a huge page */
#define FORMAT_CHUNK (1u << 20)
#define FORMAT_VERSION 1u
#define FORMAT_MAX_SECTIONS 16u
#define FORMAT_MAX_FILE (UINT64_C(1) << 46)
#define FORMAT_MAX_SPARE (1u << 20) /* bytes between the last digest and the body */
#define FORMAT_MAX_LAYERS 1024u
#define FORMAT_MAX_EOS 8u
#define FORMAT_MAX_LEVELS 8u
#define FORMAT_MAX_POINTS 64u

#define FORMAT_MAGIC_BASE "DELTBASE"
#define FORMAT_MAGIC_DELTA "DELTDIFF"

/* The first 4 KiB of a file; the rest of the page is zero. */
struct format_section {
	uint32_t kind; /* enum section_kind; each kind at most once */
	uint32_t reserved;
	uint64_t offset; /* from the file's beginning */
	uint64_t bytes;
};

struct format_header {
	uint8_t magic[8];
	uint32_t version;
	uint32_t n_sections;
	uint64_t file_bytes;
	uint64_t body_offset;
	uint64_t n_chunks;
	uint64_t expanded_bytes; /* memory beside the file that a delta takes when bound; base: 0 */
	/* Where each level's bytes end; the last is file_bytes. Level 0 begins with the body. */
	uint32_t n_levels;
	uint32_t reserved;
	uint64_t level_end[FORMAT_MAX_LEVELS];
	struct digest root;
	/* What the weights are: in a base the model digest of what was packed, in a delta that of
	 * the base it fits, or the digest of that base's values as served. store/model_digest.h */
	struct digest model;
	/* What they became. In a delta: the model digest of the fine-tune that was compressed. In a
	 * base: the digest of the values as served where codes stand for them, else zero. */
	struct digest tuned;
	struct format_section sections[FORMAT_MAX_SECTIONS];
};

enum section_kind {
	SECTION_CONFIG = 1,    /* struct model_config; in a delta that of the fine-tune */
	SECTION_TENSORS = 2,   /* array of struct tensor_record, sorted by (layer, role) */
	SECTION_TOKENIZER = 3, /* engine/tokenizer_tables.h; in a delta only where it differs */
	SECTION_CHAT = 4,      /* engine/chat_format.h; absent if the model has no known format */
	SECTION_CERTIFICATE =
		5,            /* delta only: struct certificate, then one tensor_quality a record */
	SECTION_SELFTEST = 6, /* struct selftest and its arrays */
	SECTION_WEIGHTS = 7,  /* payloads that tensor records point into */
};

enum model_family {
	MODEL_FAMILY_LLAMA = 1,
	MODEL_FAMILY_MISTRAL = 2,
	MODEL_FAMILY_QWEN2 = 3,
	MODEL_FAMILY_QWEN3 = 4,
	MODEL_FAMILY_PHI3 = 5,
};

enum rope_kind {
	ROPE_KIND_DEFAULT = 0,
	ROPE_KIND_LINEAR = 1,
	ROPE_KIND_LLAMA3 = 2,
	ROPE_KIND_YARN = 3,
};

enum model_flag {
	MODEL_TIED_HEAD = 1 << 0,
	MODEL_QKV_BIAS = 1 << 1,
	MODEL_O_BIAS = 1 << 2,
	MODEL_MLP_BIAS = 1 << 3,
	MODEL_QK_NORM = 1 << 4, /* RMS norm of each head's q and k before RoPE */
};

/* Sizes and constants of one decoder-only transformer. Fixed width, no padding. */
struct model_config {
	uint32_t family; /* enum model_family */
	uint32_t flags;  /* enum model_flag, or-ed */
	uint32_t n_layers;
	uint32_t hidden;
	uint32_t ffn;
	uint32_t n_heads;
	uint32_t n_kv_heads;
	uint32_t head_dim;
	uint32_t vocab;
	uint32_t max_positions;
	uint32_t sliding_window;          /* a position sees this many, itself included; 0: all */
	uint32_t first_window_layer;      /* layers from this one on use the window */
	uint32_t rope_kind;               /* enum rope_kind */
	uint32_t rope_original_positions; /* llama3, yarn */
	double rope_theta;
	float rope_factor;           /* linear, llama3, yarn */
	float rope_low_freq_factor;  /* llama3 */
	float rope_high_freq_factor; /* llama3 */
	float rope_beta_fast;        /* yarn */
	float rope_beta_slow;        /* yarn */
	float rope_attention_factor; /* yarn: multiplies cosines and sines; 1 otherwise */
	float norm_eps;
	int32_t bos; /* -1: none */
	int32_t pad; /* -1: none */
	uint32_t n_eos;
	int32_t eos[FORMAT_MAX_EOS];
};

/* What a tensor is in the model. Order is the order of use, and of the bytes in the file. */
enum tensor_role {
	ROLE_EMBED = 0, /* vocab x hidden; layer 0 */
	ROLE_ATTN_NORM = 1,
	ROLE_Q = 2, /* n_heads * head_dim x hidden */
	ROLE_K = 3, /* n_kv_heads * head_dim x hidden */
	ROLE_V = 4,
	ROLE_Q_BIAS = 5,
	ROLE_K_BIAS = 6,
	ROLE_V_BIAS = 7,
	ROLE_Q_NORM = 8, /* head_dim */
	ROLE_K_NORM = 9,
	ROLE_O = 10, /* hidden x n_heads * head_dim */
	ROLE_O_BIAS = 11,
	ROLE_FFN_NORM = 12,
	ROLE_GATE = 13, /* ffn x hidden */
	ROLE_UP = 14,
	ROLE_GATE_BIAS = 15,
	ROLE_UP_BIAS = 16,
	ROLE_DOWN = 17, /* hidden x ffn */
	ROLE_DOWN_BIAS = 18,
	ROLE_FINAL_NORM = 19, /* layer n_layers - 1 */
	ROLE_HEAD = 20,       /* vocab x hidden; absent where tied; layer n_layers - 1 */
	N_ROLES = 21,
};

/*
 * How a payload is stored. Base images use the first two and the last. What a delta does to a
 * matrix is a sum of parts, one record each, at different levels: ROWS replace rows of the base,
 * the others add to its product. Tensors that did not change have no record. Layouts: store/part.h;
 * deltad-format(5).
 */
enum tensor_codec {
	CODEC_VECTOR_F32 = 1, /* rows floats: replaces a norm or a bias */
	CODEC_MAT_BF16 = 2,   /* struct mat_bf16 in kernel order: a base matrix */
	/* n rows of bf16 in place of the base's; a row at or past the base's vocabulary is an added
	 * token. */
	CODEC_ROWS = 3,
	/* n components U diag(sigma) V^T: singular vectors at any width (Delta-CoMe, arXiv
	 * 2406.08903, section 3), or the two factors of a low-rank adapter. */
	CODEC_FACTORS = 4,
	CODEC_CODES = 5, /* codes of k bits for n rows */
	/* DeltaDQ (arXiv 2410.08666): n survivors among each `group` neighbours of a row, their
	 * places from a generator (store/dropout.h), their values as codes. */
	CODEC_DROPOUT = 6,
	/* 7 was a base matrix of codes with one number a byte or nibble, row by row. */
	CODEC_MAT_INT = 9, /* struct mat_int in kernel order: a base matrix of small integers */
};

enum part_coding {
	CODING_PLAIN = 0, /* as in memory, but for what a seed or a bitmap tells */
	/* Codes through store/code_stream.h; values of ROWS through store/bf16_stream.h, against
	 * the base's at the same places. Expanded when the delta is bound. */
	CODING_STREAM = 1,
};

/* value = step * scale * (code - zero) */
enum grid_kind {
	GRID_NONE = 0,   /* plain numbers: of 16 bits fp16, of 32 bits f32 */
	GRID_GROUP = 1,  /* fp16 scale and u8 zero for each 128 neighbours of a row */
	GRID_ROW = 2,    /* fp16 scale for each row; the record's zero */
	GRID_MATRIX = 3, /* the record's step and zero; no scale */
};

/* A part of a tensor. Records ascend by (level, layer, role); base images have level 0 only. */
struct tensor_record {
	uint32_t role;
	uint32_t layer;
	uint32_t codec;
	uint32_t n; /* replaced rows, components, rows with codes, survivors of a group; else 0 */
	uint32_t rows; /* of the tensor itself; vectors have cols = 1 */
	uint32_t cols;
	uint8_t bits;   /* of a code or number; of FACTORS, CODES, DROPOUT, MAT_INT; else 0 */
	uint8_t grid;   /* enum grid_kind, likewise; MAT_INT: 0 */
	uint8_t coding; /* enum part_coding */
	uint8_t level;
	uint32_t group;  /* DROPOUT: columns that one group spans; else 0 */
	float step;      /* 0 where there is no grid or the grid is GROUP */
	float zero;      /* in half steps below 2^bits; likewise */
	uint64_t offset; /* of the payload, from the file's beginning; a multiple of 64 */
	uint64_t bytes;
	uint64_t seed; /* DROPOUT; else 0 */
};

/* What the compressor measured. Numbers that were not measured are NaN. */
struct certificate {
	char method[32];           /* "delta-come", zero-terminated */
	struct digest calibration; /* SHA-256 of the ids that it was made with, as u32; or 0 */
	uint64_t n_calibration_tokens;
	uint64_t n_eval_tokens; /* positions behind the numbers below, held out from calibration */
	double kl;              /* mean KL(fine-tune || base + delta), nats */
	double agreement;       /* share of positions with the same most probable token */
	double perplexity_base;
	double perplexity_tuned;
	double perplexity_delta;
	uint64_t projection_bytes;          /* payloads of the projections, everything counted */
	uint64_t projection_original_bytes; /* the same tensors at 16 bits */
	uint64_t n_points;                  /* struct rate_point; at most FORMAT_MAX_POINTS */
};

/* Why a tensor is stored as it is. */
enum quality_why {
	WHY_NONE = 0,
	WHY_METHOD = 1,      /* the method stores every tensor so */
	WHY_LOWEST_COST = 2, /* the least error + lambda * bytes of all that were tried */
	WHY_EXACT = 3,       /* small, and sensitive: norms, biases, added tokens */
};

#define FORMAT_SPECTRUM 16u
#define QUALITY_UNMEASURED UINT16_MAX

/*
 * One for each tensor record, in the same order: the tensor as this part and those of lower levels
 * make it. D is the change of the fine-tune, D' what the parts say of it, X inputs of the matrix on
 * text that was held out from calibration.
 */
struct tensor_quality {
	float weight_error;     /* ||D - D'||_F / ||D||_F */
	float activation_error; /* ||(D - D') X||_F / ||D X||_F */
	float energy;     /* share of ||D||_F^2, or of its outputs', in what is kept; else NaN */
	float delta_norm; /* ||D||_F / ||W||_F */
	float loss;   /* what the error costs, as KL in nats, by the Fisher information; or NaN */
	uint16_t why; /* enum quality_why */
	/* In 65534ths: share of D's numbers that are 0; or QUALITY_UNMEASURED. */
	uint16_t unchanged;
	/* [i]: share of ||D||_F^2 in its first (i + 1) / 16 singular values, of 255; or zeros */
	uint8_t spectrum[FORMAT_SPECTRUM];
};

/* A point of the curve of size against quality; n_points of them follow the qualities. */
struct rate_point {
	double bits;         /* of a projection weight */
	uint64_t file_bytes; /* 0 where there is no such file */
	double kl;
};

/* What the certificate's figures were measured on. */
enum certificate_text {
	CERTIFICATE_GENERAL = 0, /* text of no task: the calibration's, other windows */
	CERTIFICATE_TASKS = 1,   /* tasks, which it was calibrated on too: others of them */
	CERTIFICATE_RANDOM = 2,  /* tokens drawn from the vocabulary */
};

/*
 * May follow the points: the text of the certificate, and the same figures on the answers of tasks
 * that were kept back; n_tasks 0 and NaNs where there were none.
 */
struct certificate_tasks {
	uint32_t text; /* enum certificate_text, of the certificate's figures */
	uint32_t reserved;
	uint64_t n_tasks, n_tokens;
	double kl;
	double agreement;
	double perplexity_base;
	double perplexity_tuned;
	double perplexity_delta;
};

/* A prompt and some of the logits that the writer saw after it. */
struct selftest {
	uint32_t n_ids;
	uint32_t n_logits;
	float tolerance; /* of the largest |logit| */
	uint32_t reserved;
	/* u32 ids[n_ids]; then struct { u32 id; f32 logit } [n_logits] */
};

_Static_assert(sizeof(struct format_header) <= FORMAT_PAGE, "the header fits its page");
_Static_assert(sizeof(struct format_section) == 24, "no padding");
_Static_assert(sizeof(struct model_config) == 136, "no padding");
_Static_assert(sizeof(struct tensor_record) == 64, "no padding");
_Static_assert(sizeof(struct certificate) == 144, "no padding");
_Static_assert(sizeof(struct tensor_quality) == 40, "no padding");
_Static_assert(sizeof(struct rate_point) == 24, "no padding");
_Static_assert(sizeof(struct certificate_tasks) == 64, "no padding");
_Static_assert(sizeof(struct selftest) == 16, "no padding");
