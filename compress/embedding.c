#include "compress/embedding.h"

#include "compress/row_grid.h"
#include "kernels/convert.h"
#include "kernels/types.h"

#include <math.h>
#include <string.h>

#define ROWS_OF_PIECE 64u
#define EXACT_BITS 16u
#define SIZE_STEPS 24

static const uint8_t widths[EMBEDDING_WIDTHS] = {1, 2, 3, 4, 8};

/* Those that embedding_choose() chooses from; sets of them are bits 1 << i. */
#define N_CHOSEN 3u
static const uint8_t chosen[N_CHOSEN] = {1, 2, 4};

struct embedding {
	const struct pair_rows *rows;
	double *weights;  /* of each row of the base */
	double *nothing;  /* its squared error if nothing is stored */
	double *errors;   /* at widths[i]: [row * EMBEDDING_WIDTHS + i] */
	uint16_t *scales; /* likewise */
	uint8_t *bits;    /* the present choice; 0: nothing */
	bool automatic;   /* which lambda made */
	double base_norm; /* squared */
};

bool embedding_choice_parse(const char *text, struct embedding_choice *ret)
{
	struct embedding_choice choice = {.kind = EMBEDDING_BITS};

	if (strcmp(text, "exact") == 0)
		choice.kind = EMBEDDING_EXACT;
	else if (strcmp(text, "auto") == 0)
		choice.kind = EMBEDDING_AUTO;
	else if (strlen(text) == 1 && text[0] && strchr("12348", text[0]))
		choice.bits = (uint32_t)(text[0] - '0');
	else
		return false;
	*ret = choice;
	return true;
}

static void count_uses(const uint32_t *ids, size_t n, uint32_t rows, double nats, double *ret)
{
	double all = (double)n + (double)rows / 2;

	if (!ids)
		return;
	for (uint32_t row = 0; row < rows; row++)
		ret[row] += nats * 0.5 / all;
	for (size_t i = 0; i < n; i++)
		if (ids[i] < rows)
			ret[ids[i]] += nats / all;
}

void embedding_weigh(const struct embedding_use *use, uint32_t rows, double *ret)
{
	memset(ret, 0, rows * sizeof(*ret));
	count_uses(use->read, use->n_read, rows, use->read_nats, ret);
	count_uses(use->asked, use->n_asked, rows, use->asked_nats, ret);
}

static size_t width_index(uint32_t bits)
{
	size_t i = 0;

	while (i + 1 < EMBEDDING_WIDTHS && widths[i] != bits)
		i++;
	return i;
}

struct embedding *embedding_free(struct embedding *e)
{
	if (!e)
		return NULL;
	free(e->weights);
	free(e->nothing);
	free(e->errors);
	free(e->scales);
	free(e->bits);
	free(e);
	return NULL;
}

/* Returns the squared norm of the base's row. */
static double read_change(const struct pair_rows *rows, uint32_t row, float *ret)
{
	size_t at = (size_t)row * rows->cols;
	double norm = 0;

	for (uint32_t c = 0; c < rows->cols; c++) {
		double base = (double)bf16_to_f32(rows->base[at + c]);

		ret[c] = bf16_to_f32(rows->values[at + c]) - (float)base;
		norm += base * base;
	}
	return norm;
}

struct measurement {
	struct embedding *e;
	float *changes;     /* a row for each thread */
	double *base_norms; /* of each piece */
	bool *failed;       /* of each piece: a change is not finite */
};

static void measure_row(struct embedding *e, uint32_t row, const float *change)
{
	size_t at = (size_t)row * EMBEDDING_WIDTHS;
	double norm = 0;

	for (uint32_t c = 0; c < e->rows->cols; c++)
		norm += (double)change[c] * (double)change[c];
	e->nothing[row] = norm;
	for (size_t i = 0; norm > 0 && isfinite(norm) && i < EMBEDDING_WIDTHS; i++)
		e->errors[at + i] =
			row_grid_fit(change, e->rows->cols, widths[i], &e->scales[at + i]);
}

static void measure_piece(void *arg, size_t piece, size_t worker)
{
	struct measurement *m = arg;
	struct embedding *e = m->e;
	uint32_t first = (uint32_t)piece * ROWS_OF_PIECE;
	uint32_t end = (uint32_t)min_u64(first + ROWS_OF_PIECE, e->rows->base_rows);
	float *change = m->changes + worker * e->rows->cols;

	for (uint32_t row = first; row < end; row++) {
		m->base_norms[piece] += read_change(e->rows, row, change);
		measure_row(e, row, change);
		m->failed[piece] |= !isfinite(e->nothing[row]);
	}
}

static int measure(struct embedding *e, struct pool *pool)
{
	size_t n_pieces = (e->rows->base_rows + ROWS_OF_PIECE - 1) / ROWS_OF_PIECE;
	_cleanup_(freep) float *changes = calloc(pool_threads(pool), e->rows->cols * sizeof(float));
	_cleanup_(freep) double *norms = calloc(n_pieces + 1, sizeof(*norms));
	_cleanup_(freep) bool *failed = calloc(n_pieces + 1, sizeof(*failed));
	struct measurement m = {.e = e, .changes = changes, .base_norms = norms, .failed = failed};

	if (!changes || !norms || !failed)
		return -ENOMEM;
	pool_run(pool, measure_piece, &m, n_pieces);
	for (size_t i = 0; i < n_pieces; i++) {
		if (failed[i])
			return -EDOM;
		e->base_norm += norms[i];
	}
	return 0;
}

int embedding_new(const struct pair_rows *rows, const double *weights, struct pool *pool,
	struct embedding **ret)
{
	_cleanup_(embeddingp) struct embedding *e = calloc(1, sizeof(*e));
	size_t n = (size_t)rows->base_rows + 1;
	int r;

	if (!e)
		return -ENOMEM;
	e->rows = rows;
	e->weights = malloc(n * sizeof(*e->weights));
	e->nothing = calloc(n, sizeof(*e->nothing));
	e->errors = calloc(n, EMBEDDING_WIDTHS * sizeof(*e->errors));
	e->scales = calloc(n, EMBEDDING_WIDTHS * sizeof(*e->scales));
	e->bits = calloc(n, 1);
	if (!e->weights || !e->nothing || !e->errors || !e->scales || !e->bits)
		return -ENOMEM;
	memcpy(e->weights, weights, rows->base_rows * sizeof(*weights));
	r = measure(e, pool);
	if (r < 0)
		return r;
	*ret = take_ptr(e);
	return 0;
}

static double row_error(const struct embedding *e, uint32_t row, uint32_t bits)
{
	return bits ? e->errors[(size_t)row * EMBEDDING_WIDTHS + width_index(bits)]
		    : e->nothing[row];
}

static uint32_t count_rows(const struct embedding *e, uint32_t bits)
{
	uint32_t n = 0;

	for (uint32_t row = 0; row < e->rows->base_rows; row++)
		n += e->bits[row] == bits;
	return n;
}

static struct tensor_record codes_record(const struct embedding *e, uint32_t bits, uint32_t n)
{
	return (struct tensor_record){
		.role = ROLE_EMBED,
		.codec = CODEC_CODES,
		.n = n,
		.rows = e->rows->rows,
		.cols = e->rows->cols,
		.bits = (uint8_t)bits,
		.grid = GRID_ROW,
		.step = 1,
		.zero = row_grid_zero(bits),
	};
}

static uint64_t beside_payload(void)
{
	return sizeof(struct tensor_record) + sizeof(struct tensor_quality);
}

static uint64_t codes_bytes(const struct embedding *e, uint32_t bits, uint32_t n)
{
	struct tensor_record record = codes_record(e, bits, n);

	return n ? part_layout(&record).end + beside_payload() : 0;
}

static uint64_t added_bytes(const struct embedding *e)
{
	struct tensor_record record = {
		.role = ROLE_EMBED,
		.codec = CODEC_ROWS,
		.n = e->rows->rows - e->rows->base_rows,
		.rows = e->rows->rows,
		.cols = e->rows->cols,
	};

	return record.n ? part_layout(&record).end + beside_payload() : 0;
}

uint64_t embedding_bytes(const struct embedding *e)
{
	uint64_t sum = added_bytes(e);

	for (size_t i = 0; i < EMBEDDING_WIDTHS; i++)
		sum += codes_bytes(e, widths[i], count_rows(e, widths[i]));
	return sum;
}

double embedding_loss(const struct embedding *e)
{
	double sum = 0;

	for (uint32_t row = 0; row < e->rows->base_rows; row++)
		sum += e->weights[row] * row_error(e, row, e->bits[row]);
	return sum;
}

uint32_t embedding_row_bits(const struct embedding *e, uint32_t row)
{
	return row < e->rows->base_rows ? e->bits[row] : EXACT_BITS;
}

void embedding_rescale(struct embedding *e, double factor)
{
	for (uint32_t row = 0; row < e->rows->base_rows; row++)
		e->weights[row] *= factor;
}

void embedding_reweigh(struct embedding *e, const double *weights)
{
	memcpy(e->weights, weights, e->rows->base_rows * sizeof(*weights));
}

void embedding_choose_bits(struct embedding *e, uint32_t bits)
{
	e->automatic = false;
	for (uint32_t row = 0; row < e->rows->base_rows; row++)
		e->bits[row] = e->nothing[row] > 0 ? (uint8_t)bits : 0;
}

/* Bytes of a row's codes and scale. */
static double row_bytes(const struct embedding *e, uint32_t bits)
{
	return (double)(qmat_groups(e->rows->cols) * qmat_group_bytes(bits) + sizeof(uint16_t));
}

static uint8_t best_width(const struct embedding *e, uint32_t row, uint32_t set, double lambda)
{
	double least = e->weights[row] * e->nothing[row];
	uint8_t best = 0;

	for (size_t i = 0; i < N_CHOSEN; i++) {
		double cost;

		if (!(set & 1u << i))
			continue;
		cost = e->weights[row] * row_error(e, row, chosen[i]) +
		       lambda * row_bytes(e, chosen[i]);
		if (cost < least) {
			least = cost;
			best = chosen[i];
		}
	}
	return best;
}

static void choose_from(struct embedding *e, uint32_t set, double lambda)
{
	for (uint32_t row = 0; row < e->rows->base_rows; row++)
		e->bits[row] = best_width(e, row, set, lambda);
}

void embedding_choose(struct embedding *e, double lambda)
{
	double least = INFINITY;
	uint32_t best = 0;

	for (uint32_t set = 0; set < 1u << N_CHOSEN; set++) {
		double cost;

		choose_from(e, set, lambda);
		cost = embedding_loss(e) + lambda * (double)embedding_bytes(e);
		if (cost < least) {
			least = cost;
			best = set;
		}
	}
	choose_from(e, best, lambda);
	e->automatic = true;
}

/* The lambda above which the best row is not worth its bytes. */
static double largest_lambda(const struct embedding *e)
{
	double largest = 0;

	for (uint32_t row = 0; row < e->rows->base_rows; row++)
		largest = fmax(largest, e->weights[row] * e->nothing[row] / row_bytes(e, 1));
	return largest;
}

/* And that below which no row is worth less than 4 bits. */
static double smallest_lambda(const struct embedding *e)
{
	double smallest = INFINITY;

	for (uint32_t row = 0; row < e->rows->base_rows; row++) {
		double gain = e->weights[row] * (row_error(e, row, 2) - row_error(e, row, 4));

		if (gain > 0)
			smallest = fmin(smallest, gain / (row_bytes(e, 4) - row_bytes(e, 2)));
	}
	return smallest;
}

/* Chooses for all; returns the bytes. */
static double choose_all(struct embedding *const *all, size_t n, double lambda)
{
	double sum = 0;

	for (size_t i = 0; i < n; i++) {
		embedding_choose(all[i], lambda);
		sum += (double)embedding_bytes(all[i]);
	}
	return sum;
}

double embedding_choose_size(struct embedding *const *all, size_t n, double bits)
{
	double budget = 0, low = INFINITY, high = 0;

	for (size_t i = 0; i < n; i++) {
		const struct pair_rows *rows = all[i]->rows;

		budget += bits / 8 * rows->base_rows * rows->cols + (double)added_bytes(all[i]);
		low = fmin(low, smallest_lambda(all[i]));
		high = fmax(high, 2 * largest_lambda(all[i]));
	}
	/* No row changed. */
	if (!(low < high)) {
		choose_all(all, n, 0);
		return 0;
	}
	if (choose_all(all, n, low) <= budget)
		return low;
	/* Nothing is stored at `high`, which is always small enough. */
	for (int i = 0; i < SIZE_STEPS; i++) {
		double middle = sqrt(low * high);

		if (choose_all(all, n, middle) > budget)
			low = middle;
		else
			high = middle;
	}
	choose_all(all, n, high);
	return high;
}

/* Numbers of the rows at a width, ascending. */
static uint32_t *list_rows(const struct embedding *e, uint32_t bits, uint32_t n)
{
	uint32_t *rows = malloc(((size_t)n + 1) * sizeof(*rows));
	uint32_t at = 0;

	for (uint32_t row = 0; rows && row < e->rows->base_rows; row++)
		if (e->bits[row] == bits)
			rows[at++] = row;
	return rows;
}

static int fill_codes(const struct embedding *e, const uint32_t *rows, struct code_matrix *m)
{
	_cleanup_(freep) float *change = malloc((m->n_cols + 1) * sizeof(*change));

	if (!change)
		return -ENOMEM;
	m->step = 1;
	m->zero = row_grid_zero(m->bits);
	for (uint32_t i = 0; i < m->n_rows; i++) {
		size_t at = (size_t)rows[i] * EMBEDDING_WIDTHS + width_index(m->bits);

		read_change(e->rows, rows[i], change);
		m->scales[i] = e->scales[at];
		row_grid_codes(
			change, m->n_cols, m->bits, m->scales[i], m->codes + (size_t)i * m->n_cols);
	}
	return 0;
}

/* How good the parts down to a width are, those at least as wide. */
static struct tensor_quality quality_down_to(const struct embedding *e, uint32_t bits)
{
	double all = 0, left = 0, used = 0, used_left = 0;

	for (uint32_t row = 0; row < e->rows->base_rows; row++) {
		double error = row_error(e, row, e->bits[row] >= bits ? e->bits[row] : 0);

		all += e->nothing[row];
		left += error;
		used += e->weights[row] * e->nothing[row];
		used_left += e->weights[row] * error;
	}
	return (struct tensor_quality){
		.weight_error = all > 0 ? (float)sqrt(left / all) : 0,
		.activation_error = used > 0 ? (float)sqrt(used_left / used) : 0,
		.energy = __builtin_nanf(""),
		.delta_norm = (float)sqrt(all / e->base_norm),
		.loss = (float)used_left,
		.why = e->automatic ? WHY_LOWEST_COST : WHY_METHOD,
		.unchanged = QUALITY_UNMEASURED,
	};
}

static int codes_part(const struct embedding *e, const struct part_place *place, uint32_t bits,
	bool coded, struct part *ret)
{
	uint32_t n = count_rows(e, bits);
	_cleanup_(freep) uint32_t *rows = list_rows(e, bits, n);
	_cleanup_(code_matrix_freep) struct code_matrix *m = NULL;
	int r;

	if (!rows)
		return -ENOMEM;
	r = code_matrix_new(n, e->rows->cols, (uint8_t)bits, GRID_ROW, &m);
	if (r == 0)
		r = fill_codes(e, rows, m);
	if (r == 0)
		r = part_codes(place, m, n < e->rows->rows ? rows : NULL, coded, ret);
	if (r == 0)
		ret->quality = quality_down_to(e, bits);
	return r;
}

static int added_part(const struct embedding *e, const struct part_place *place, struct part *ret)
{
	const struct pair_rows *rows = e->rows;
	uint32_t n = rows->rows - rows->base_rows;
	_cleanup_(freep) uint32_t *numbers = malloc(n * sizeof(*numbers));
	const struct new_rows added = {
		.n = n,
		.rows = numbers,
		.values = rows->values + (size_t)rows->base_rows * rows->cols,
	};
	int r;

	if (!numbers)
		return -ENOMEM;
	for (uint32_t i = 0; i < n; i++)
		numbers[i] = rows->base_rows + i;
	r = part_rows(place, &added, ret);
	if (r < 0)
		return r;
	/* Of the rows that the base has, nothing is stored yet. */
	ret->quality = quality_down_to(e, EXACT_BITS);
	ret->quality.why = WHY_EXACT;
	return 0;
}

int embedding_parts(const struct embedding *e, const struct embedding_place *place,
	struct part *ret, uint32_t *ret_n)
{
	struct part_place at = {
		.role = place->role,
		.layer = place->layer,
		.rows = e->rows->rows,
		.cols = e->rows->cols,
		.level = place->level,
	};
	uint32_t n = 0;
	int r = 0;

	if (e->rows->rows > e->rows->base_rows) {
		r = added_part(e, &at, &ret[n]);
		if (r < 0)
			return r;
		n++;
		at.level++;
	}
	for (size_t i = EMBEDDING_WIDTHS; r == 0 && i-- > 0;) {
		if (count_rows(e, widths[i]) == 0)
			continue;
		r = codes_part(e, &at, widths[i], place->coded, &ret[n]);
		n += r == 0;
		at.level++;
	}
	for (uint32_t i = 0; r < 0 && i < n; i++)
		part_done(&ret[i]);
	if (r == 0)
		*ret_n = n;
	return r;
}

static void decode_row(const struct embedding *e, uint32_t row, uint16_t *ret)
{
	const struct pair_rows *rows = e->rows;
	const uint16_t *base = rows->base + (size_t)row * rows->cols;
	uint32_t bits = e->bits[row];
	size_t at = (size_t)row * EMBEDDING_WIDTHS + width_index(bits);

	memcpy(ret, base, rows->cols * sizeof(*ret));
	for (uint32_t c = 0; bits && c < rows->cols; c++) {
		float before = bf16_to_f32(base[c]);
		float change = bf16_to_f32(rows->values[(size_t)row * rows->cols + c]) - before;
		uint8_t code;

		row_grid_codes(&change, 1, bits, e->scales[at], &code);
		ret[c] = bf16_from_f32(
			before + f16_to_f32(e->scales[at]) * ((float)code - row_grid_zero(bits)));
	}
}

void embedding_values(const struct embedding *e, uint16_t *ret)
{
	const struct pair_rows *rows = e->rows;
	size_t n_base = (size_t)rows->base_rows * rows->cols;

	for (uint32_t row = 0; row < rows->base_rows; row++)
		decode_row(e, row, ret + (size_t)row * rows->cols);
	memcpy(ret + n_base, rows->values + n_base,
		((size_t)rows->rows * rows->cols - n_base) * sizeof(*ret));
}
