/*
 * Two checkpoints in, one delta file out.
 *
 * The methods are listed in compress/methods.h; compress/walk.h is the way they share.
 *
 * Whatever the method, norms, biases and added tokens are exact; embedding and head are what
 * compress/embedding.h makes of them, exact unless asked otherwise.
 */
#pragma once

#include "common/digest.h"
#include "common/progress.h"
#include "compress/embedding.h"
#include "compress/method.h"
#include "foreign/weights.h"
#include "store/format.h"

#define COMPRESS_DEFAULT_METHOD "auto"
#define COMPRESS_DEFAULT_TOKENS 32768u
#define COMPRESS_DEFAULT_WINDOW 512u

/*
 * The file that the work is done in (compress/work_file.h): after SIGKILL at any moment, the same
 * inputs and settings go on at the block that the work was in, and end with the same bytes.
 */
struct compress_work {
	int fd;                /* borrowed; readable and writable */
	bool resume;           /* go on with what is there, if it is this work */
	struct digest command; /* of all settings, and of the program that reads them */
	uint32_t *blocks_done; /* NULL, or told how many blocks the file holds */
};

/*
 * The certificate's figures of the whole model are taken on held-out text: by the engine that will
 * serve, with base and fine-tune in memory at once, which also makes a self-test and measures each
 * level; or, where both would take more than this, one block at a time (compress/block_compare.h),
 * which does not. That reads both models once more and computes three passes of the held-out text:
 * some percent of what a calibrated method takes.
 */
#define COMPRESS_MEASURE_BYTES (UINT64_C(4) << 30)

/* Where a method would take more memory than this for a model, the way that does with less stands
 * in, if there is one. A limit of what is planned, the same every time; not what is free. */
#define COMPRESS_DEFAULT_MEMORY (UINT64_C(8) << 30)

enum compress_measure {
	COMPRESS_MEASURE_AUTO,
	COMPRESS_MEASURE_BLOCKS, /* whatever the size */
	COMPRESS_MEASURE_ENGINE, /* likewise */
	COMPRESS_MEASURE_NEVER,  /* the figures are NaN, and there is no self-test */
};

enum compress_against {
	AGAINST_METHOD,   /* as the method does best */
	AGAINST_SERVED,   /* the values that the base serves: what its codes lost is repaired too */
	AGAINST_ORIGINAL, /* the base's own numbers: the delta fits every packing of it */
};

struct compress_settings {
	const char *method; /* a name of compress/methods.h */
	struct method_options options;
	enum weights base_weights; /* of the base that will serve, and is measured with */
	enum compress_against against;
	struct embedding_choice embedding;
	/* UTF-8, documents separated by blank lines. For a base without a tokenizer it may be NULL:
	 * tokens are then drawn from the vocabulary, and the report says so. */
	const char *calibration_text;
	size_t n_calibration_text;
	uint32_t calibration_tokens; /* most tokens of it to use */
	uint32_t window;             /* tokens of one calibration sequence */
	uint32_t n_threads;          /* 0: what the process may use */
	/* NULL: memory, which holds all activations then, and nothing to go on with. */
	const struct compress_work *work;
	enum compress_measure measure;
	uint64_t memory; /* 0: COMPRESS_DEFAULT_MEMORY */
	const char *isa; /* kernels of the measurement: "ref", ...; NULL: the fastest */
};

struct compress_report {
	struct digest root;
	uint64_t file_bytes;
	uint64_t original_bytes; /* of the fine-tune's tensors at 16 bits */
	uint64_t projection_bytes, projection_original_bytes; /* of projections that changed */
	uint64_t embedding_bytes, other_bytes;
	uint32_t n_projections; /* stored */
	uint32_t n_unchanged;   /* projections equal to the base's */
	uint32_t n_left_out;    /* changed, but the base's weights stay: no room, or not worth it */
	/* Over all projections that changed; 1 where the base's weights stay. */
	double mean_weight_error;
	double mean_calibration_error; /* NaN where the method needs no calibration */
	double mean_activation_error;  /* on held-out text */
	struct method_figure figures[METHOD_MAX_FIGURES];
	size_t n_figures;
	double kl, agreement; /* on held-out calibration text; see struct certificate */
	double perplexity_base, perplexity_tuned, perplexity_delta;
	uint64_t n_calibration_tokens, n_eval_tokens;
	struct certificate_tasks tasks; /* what text that was, and on tasks that were kept back */
	bool against_served;
	char chat_refusal[256]; /* why the file has no chat format; empty if it has one */
	bool measured;          /* kl, agreement, perplexities */
	bool self_tested;       /* the file has a self-test */
	uint32_t n_resumed;     /* blocks that an earlier run had made */
	bool began_anew;        /* the file of work was of another command, or damaged */
	double seconds;
	uint64_t peak_bytes; /* the most memory that was resident, of this process */
	char blas_core[32];  /* what OpenBLAS ran as; see kernels/blas.h */
};

/* How embedding and head are stored, also where that was not said. */
struct embedding_choice compress_embedding(const struct compress_settings *s);
/* The values of the base that the delta is made against. */
enum weights compress_against(const struct compress_settings *s);

/* Are method and numbers possible? -EINVAL names the setting. */
int compress_settings_check(const struct compress_settings *s, struct reason *reason) _must_check_;

/*
 * Writes the delta into an empty open file. Same input, same bytes, whatever the number of threads.
 * Sets BLAS to one thread; the caller has called blas_load() if it is in a sandbox by now.
 */
int compress_delta(struct checkpoint *base, struct checkpoint *tuned,
	const struct compress_settings *settings, int fd, const struct progress *progress,
	struct compress_report *ret, struct reason *reason) _must_check_;
