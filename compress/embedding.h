/*
 * The change of embedding or head within a byte budget: each row as k-bit codes with a scale of its
 * own, or not at all.
 *
 * A row's error matters as often as the row is used, so it is weighed by its token's use: how often
 * it is read (embedding) and how often it is asked for (head); both where the two are tied. The
 * rows that moved most are rarely used ones: ranking by the size of the change alone costs a factor
 * of a hundred in KL. Tokens that were never seen count as half a use.
 *
 * With w_r the weight, e_r(k) the squared error at k bits and b(k) a row's bytes, each row takes
 * the k of {0, 1, 2, 4} with the least  w_r e_r(k) + lambda b(k), and the widths that are worth
 * their part's own bytes (record, quality, bitmap of the rows) are kept. One lambda for a whole
 * model puts these rows and the projections under one budget.
 *
 * Rows of added tokens are exact.
 */
#pragma once

#include "compress/pair.h"
#include "compress/parts.h"
#include "engine/pool.h"

#define EMBEDDING_WIDTHS 5u    /* 1, 2, 3, 4, 8 */
#define EMBEDDING_MAX_PARTS 4u /* added tokens, and three widths */

/* How the user wants it. */
enum embedding_kind {
	EMBEDDING_UNSAID, /* exact, but for a size of the whole file */
	EMBEDDING_EXACT,
	EMBEDDING_BITS, /* all changed rows at one width */
	EMBEDDING_AUTO, /* by weight and lambda */
};

struct embedding_choice {
	enum embedding_kind kind;
	uint32_t bits; /* of EMBEDDING_BITS: 1, 2, 3, 4, 8 */
	bool coded;    /* codes through the entropy coder */
};

#define EMBEDDING_DEFAULT_BITS 2.0 /* of EMBEDDING_AUTO where no size is asked for */

/* "exact", "8", "4", "3", "2", "1", "auto". False if it is none of them. */
bool embedding_choice_parse(const char *text, struct embedding_choice *ret) _must_check_;

/* How often tokens are used, and what a use makes of an error. */
struct embedding_use {
	const uint32_t *read; /* ids that are read; NULL and 0 for a head of its own */
	size_t n_read;
	const uint32_t *asked; /* ids that are asked for; NULL and 0 for an embedding of its own */
	size_t n_asked;
	/* Nats a token for a squared error of 1 in the row that is read, or asked for, at every
	 * token. Without gradients, EMBEDDING_READ_NATS and EMBEDDING_ASKED_NATS. */
	double read_nats, asked_nats;
};

/* Of models of the size in models/; where KL was measured, embedding_rescale() puts it right. */
#define EMBEDDING_READ_NATS 0.05
#define EMBEDDING_ASKED_NATS 0.05

/* ret[rows]. An id at or past `rows` is not counted. */
void embedding_weigh(const struct embedding_use *use, uint32_t rows, double *ret);

struct embedding;

/* Measures every row at every width. `rows` is borrowed; `weights` (of each row, see
 * embedding_weigh()) are copied. -ENOMEM; -EDOM if a change is not finite. */
int embedding_new(const struct pair_rows *rows, const double *weights, struct pool *pool,
	struct embedding **ret) _must_check_;
struct embedding *embedding_free(struct embedding *e);

static inline void embeddingp(struct embedding **e)
{
	embedding_free(*e);
}

/* Widths for all rows. Nothing is chosen before one of these: 0 bits everywhere. */
void embedding_choose_bits(struct embedding *e, uint32_t bits);
/* `lambda` in nats a byte. */
void embedding_choose(struct embedding *e, double lambda);
/* For n of them, the lambda whose choices together take the most bytes up to `bits` a weight of the
 * base's matrices, added tokens apart; returns it, or 0 if no row has changed. */
double embedding_choose_size(struct embedding *const *all, size_t n, double bits);

/* Of the present choice: bytes of all parts with their records and qualities, exact for parts that
 * are not coded and an upper estimate for those that are; estimated KL. */
uint64_t embedding_bytes(const struct embedding *e);
double embedding_loss(const struct embedding *e);

/* Of row r: 0 if nothing is stored of it, else 1, 2, 3, 4, 8; 16 for an added token. */
uint32_t embedding_row_bits(const struct embedding *e, uint32_t row);

/* Multiplies all weights: where the KL of one choice was measured, measured / estimated. */
void embedding_rescale(struct embedding *e, double factor);

/* Other weights, copied. */
void embedding_reweigh(struct embedding *e, const double *weights);

struct embedding_place {
	enum tensor_role role;
	uint32_t layer;
	uint8_t level; /* of the first part; the others follow one by one, the wider first */
	bool coded;
};

/* The parts of the present choice, with their qualities. ret has room for EMBEDDING_MAX_PARTS. */
int embedding_parts(const struct embedding *e, const struct embedding_place *place,
	struct part *ret, uint32_t *ret_n) _must_check_;

/* The matrix that a reader of the parts has, rows x cols, rounded to bf16. */
void embedding_values(const struct embedding *e, uint16_t *ret);
