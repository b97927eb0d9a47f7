/*
 * How fast each kernel set is, beside what the machine allows in the same run: the rate at which
 * one core reads memory, and the rate at which it multiplies and adds. One thread; medians; the
 * weights of each call are elsewhere in memory than those of the calls before.
 *
 *   bench_kernels [--tsv] [--only TEXT] [SET ...]
 *
 * --tsv: fewer shapes, as numbers for bench/roofline.sh. --only: nothing but what has TEXT in its
 * name.
 */
#include "bench/ceilings.h"
#include "bench/clock.h"
#include "bench/tiles.h"
#include "common/base.h"
#include "engine/kv.h"
#include "kernels/attend.h"
#include "kernels/pack.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#define MEMORY_BYTES ((size_t)640 << 20) /* beyond the caches */
#define ROWS 4096u
#define MAX_ROWS 11008u
#define COLS 4096u
#define RANKS 256u
#define MAX_N 512u
#define MAX_POSITIONS 16384u
#define HEAD_DIM 128u
#define PAGE_TOKENS 32u
#define MAX_REPEATS 101
#define SECONDS_EACH 0.1

struct bench {
	const struct kernels *k;
	const char *only; /* or NULL */
	uint8_t *memory;
	size_t turn;        /* counts calls */
	float *x, *y, *aux; /* MAX_N x MAX_ROWS numbers each */
	void *panel;        /* of x, if the set has panels */
	uint32_t rows;      /* of the matrix, or queries */
	uint32_t positions;
	struct act_group *rounded; /* MAX_N x groups of COLS */
	uint32_t bits, n;
	bool row_grid;          /* of the codes; else a grid for each group */
	struct dropmat dropmat; /* less its entries */
	enum kv_type type;
	double read_rate;  /* bytes a second */
	double fma_rate;   /* floating-point operations a second, of the set's registers */
	double cache_rate; /* likewise of tiles that come from the second cache */
	bool tsv;          /* for the picture: fewer shapes, and nothing but numbers */
};

/* Median seconds of one call. */
static double seconds_of(void (*run)(struct bench *b), struct bench *b)
{
	double samples[MAX_REPEATS], begin;
	size_t n = 0;

	run(b);
	begin = thread_seconds();
	while (n < 3 || (n < MAX_REPEATS && thread_seconds() - begin < SECONDS_EACH)) {
		double start = thread_seconds();

		b->turn++;
		run(b);
		samples[n++] = thread_seconds() - start;
	}
	qsort(samples, n, sizeof(*samples), compare_doubles);
	return samples[n / 2];
}

/* A part of the large memory that was not used lately. */
static uint8_t *fresh(const struct bench *b, size_t bytes)
{
	return b->memory + b->turn % (MEMORY_BYTES / bytes) * bytes;
}

#ifdef __x86_64__

#define READ_BYTES ((size_t)32 << 20)

static void read_memory(struct bench *b)
{
	ceiling_read(fresh(b, READ_BYTES), READ_BYTES, b->y);
}

static void fma_avx2(struct bench *b)
{
	ceiling_fma_avx2(b->y);
}

static void fma_avx512(struct bench *b)
{
	ceiling_fma_avx512(b->y);
}

static void run_tile_registers(struct bench *b)
{
	(void)b;
	tiles_from_registers();
}

static void run_tile_cache(struct bench *b)
{
	tiles_from_cache(b->memory);
}

/* Of the tile unit: what it does from registers is what shares are of. */
static void tiles_measure(struct bench *b)
{
	const double operations = 4 * TILE_OPERATIONS * TILE_ROUNDS;

	b->fma_rate = operations / seconds_of(run_tile_registers, b);
	b->cache_rate = operations / seconds_of(run_tile_cache, b);
}

static void ceilings_measure(struct bench *b)
{
	bool wide = strcmp(b->k->name, "avx512") == 0;
	double operations = 2.0 * CEILING_STEPS * (wide ? 16 : 8);

	if (!cpu_features_detect().avx2)
		return;
	b->read_rate = (double)READ_BYTES / seconds_of(read_memory, b);
	if (strcmp(b->k->name, "amx") == 0)
		tiles_measure(b);
	else
		b->fma_rate = operations / seconds_of(wide ? fma_avx512 : fma_avx2, b);
}

#else

/* Without a ceiling, shares of it are not printed. */
static void ceilings_measure(struct bench *b)
{
	(void)b;
}

#endif

static void share_print(double rate, double ceiling)
{
	if (ceiling > 0)
		printf(" (%3.0f %%)", 100 * rate / ceiling);
}

/* What one call moves and computes. */
struct work {
	const char *name;
	double bytes;
	double operations;
	double codes;
};

/* Three of the many are in the picture. */
static bool shown(const struct bench *b, uint32_t rows)
{
	return !b->tsv || rows == 1 || rows == 16 || rows == 128;
}

/* As bench/roofline.c reads it: the number of rows, with which a name ends, has its own column. */
static void row_print(const struct bench *b, struct work w, double seconds)
{
	const char *end = strstr(w.name, " rows=");

	if (!end)
		end = strstr(w.name, " n=");
	printf("kernel\t%s\t%.*s\t%s\t%.0f\t%.0f\t%.4g\n", b->k->name, (int)(end - w.name), w.name,
		strchr(end, '=') + 1, w.bytes, w.operations, seconds);
	fflush(stdout);
}

static void measure(struct bench *b, struct work w, void (*run)(struct bench *b))
{
	double seconds;

	if (b->only && !strstr(w.name, b->only))
		return;
	if (!b->tsv)
		ceilings_measure(b);
	seconds = seconds_of(run, b);
	if (b->tsv) {
		row_print(b, w, seconds);
		return;
	}
	printf("%-7s %-28s %10.1f us %8.2f GB/s", b->k->name, w.name, 1e6 * seconds,
		1e-9 * w.bytes / seconds);
	share_print(w.bytes / seconds, b->read_rate);
	if (w.operations > 0) {
		printf(" %8.1f GFLOP/s", 1e-9 * w.operations / seconds);
		share_print(w.operations / seconds, b->fma_rate);
	}
	if (w.codes > 0)
		printf(" %7.2f Gcodes/s", 1e-9 * w.codes / seconds);
	putchar('\n');
	fflush(stdout);
}

static void run_matmul(struct bench *b)
{
	size_t bytes = mat_bf16_size(b->rows, COLS) * sizeof(uint16_t);
	struct mat_bf16 w = {.data = (const void *)fresh(b, bytes), .rows = b->rows, .cols = COLS};

	if (!b->panel) {
		b->k->matmul(b->y, b->rows, &w, b->x, COLS, b->n, 0, mat_bf16_blocks(b->rows));
		return;
	}
	for (size_t i = 0; i < b->k->panel_parts(b->n); i++)
		b->k->panel_fill(b->panel, b->x, COLS, b->n, COLS, i);
	b->k->matmul_panel(b->y, b->rows, &w, b->panel, b->n, 0, mat_bf16_blocks(b->rows));
}

/* Scales or grids are elsewhere, and part of the rate: they are read along. */
static void run_matmul_int(struct bench *b)
{
	uint64_t codes_bytes = mat_int_codes_bytes(ROWS, COLS, b->bits);
	uint64_t lanes = mat_int_n_scales(ROWS, COLS);
	const uint8_t *at = fresh(b, codes_bytes + lanes * (b->bits == 4 ? 8 : 2));
	struct mat_int w = {
		.codes = at,
		.scales = (const void *)(at + codes_bytes),
		.grids = at + codes_bytes,
		.rows = ROWS,
		.cols = COLS,
		.bits = b->bits,
	};

	b->k->act_round(b->rounded, b->n, b->x, COLS, b->n, COLS);
	b->k->matmul_int(b->y, ROWS, &w, b->rounded, b->n, b->n, 0, mat_int_blocks(ROWS));
}

static void run_act_round(struct bench *b)
{
	b->k->act_round(b->rounded, 1, b->x, COLS, 1, COLS);
}

/* Scales and zero points are not part of the rate: they are a fifth of the codes at most. */
static struct qmat qmat_fresh(const struct bench *b, uint32_t rows)
{
	const size_t n_scales = qmat_n_scales(rows, COLS);
	struct qmat m = {
		.codes = fresh(b, qmat_codes_bytes(rows, COLS, b->bits)),
		.scales = (const void *)b->memory,
		.rows = rows,
		.cols = COLS,
		.bits = b->bits,
		.scale_row = 1,
		.step = 1,
		.zero = 0.5f,
	};

	if (b->bits > QMAT_MAX_BITS) {
		m.scales = NULL;
	} else if (!b->row_grid) {
		m.zeros = b->memory + n_scales * sizeof(uint16_t);
		m.scale_row = (uint32_t)qmat_groups(COLS);
		m.scale_group = 1;
	}
	return m;
}

static void run_dot(struct bench *b)
{
	struct qmat m = qmat_fresh(b, b->rows);

	b->k->qmat_dot(b->y, b->rows, &m, b->x, COLS, b->n, 0, b->rows);
}

/* With the rounding of the inputs, which a base of integers shares. */
static void run_dot_int(struct bench *b)
{
	struct qmat m = qmat_fresh(b, b->rows);

	b->k->act_round(b->rounded, b->n, b->x, COLS, b->n, COLS);
	b->k->qmat_dot_int(b->y, b->rows, &m, b->rounded, b->n, b->n, 0, b->rows);
}

static void run_accumulate(struct bench *b)
{
	struct qmat m = qmat_fresh(b, b->rows);

	b->k->qmat_accumulate(b->y, COLS, &m, b->x, b->rows, b->n, 0, qmat_groups(COLS));
}

static void run_dropmat(struct bench *b)
{
	struct dropmat m = b->dropmat;

	m.entries = fresh(b, dropmat_entries_bytes(&m));
	b->k->dropmat_dot(b->y, ROWS, &m, b->x, COLS, b->n, 0, ROWS);
}

/* b->n query heads of the last b->rows positions. */
static void run_attend(struct bench *b)
{
	static const void *keys[MAX_POSITIONS / PAGE_TOKENS], *values[array_len(keys)];
	const size_t page = PAGE_TOKENS * kv_row_bytes(b->type, HEAD_DIM);
	const size_t n_pages = b->positions / PAGE_TOKENS;
	const uint8_t *at = fresh(b, 2 * n_pages * page);
	const struct attend_call call = {
		.kv = {.key_pages = keys,
			.value_pages = values,
			.page_tokens = PAGE_TOKENS,
			.head_dim = HEAD_DIM,
			.type = b->type},
		.q = b->x,
		.stride = (size_t)b->n * HEAD_DIM,
		.n_rows = b->rows,
		.n_heads = b->n,
		.position = b->positions - b->rows,
		.scale = 0.1f,
	};

	for (size_t i = 0; i < n_pages; i++) {
		keys[i] = at + 2 * i * page;
		values[i] = at + (2 * i + 1) * page;
	}
	attend_all(b->k, b->y, &call, b->aux);
}

static void run_rms_norm(struct bench *b)
{
	b->k->rms_norm(b->y, b->x, b->aux, COLS, 1e-5f);
}

static void run_silu_mul(struct bench *b)
{
	b->k->silu_mul(b->y, b->x, b->aux, COLS);
}

static void run_kv_store(struct bench *b)
{
	b->k->kv_store(b->y, b->x, COLS, KV_TYPE_BF16);
}

static void bench_matmul(struct bench *b)
{
	static const uint32_t batches[] = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512};
	static const uint32_t rows[] = {ROWS, MAX_ROWS};

	for (size_t i = 0; i < (b->tsv ? 1 : array_len(rows)) * array_len(batches); i++) {
		double numbers;
		char name[64];

		b->rows = rows[i / array_len(batches)];
		b->n = batches[i % array_len(batches)];
		numbers = (double)b->rows * COLS;
		/* The reference is a specification; its large batches would only take long. */
		if ((strcmp(b->k->name, "ref") == 0 && b->n > 2) || !shown(b, b->n))
			continue;
		snprintf(name, sizeof(name), "matmul %u x %u n=%u", b->rows, COLS, b->n);
		measure(b, (struct work){name, 2 * numbers, 2 * numbers * b->n, 0}, run_matmul);
	}
}

static void bench_matmul_int(struct bench *b)
{
	static const uint32_t widths[] = {8, 4};
	static const uint32_t batches[] = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512};
	const double numbers = (double)ROWS * COLS;
	const double lanes = (double)mat_int_n_scales(ROWS, COLS) * sizeof(uint16_t);

	for (size_t i = 0; i < array_len(widths) * array_len(batches); i++) {
		char name[64];

		b->bits = widths[i / array_len(batches)];
		b->n = batches[i % array_len(batches)];
		if ((strcmp(b->k->name, "ref") == 0 && b->n > 2) || !shown(b, b->n))
			continue;
		snprintf(name, sizeof(name), "int%u 4096^2 n=%u", b->bits, b->n);
		measure(b,
			(struct work){name, numbers * b->bits / 8 + (b->bits == 4 ? 2 : 1) * lanes,
				2 * numbers * b->n, numbers},
			run_matmul_int);
	}
}

static void measure_codes(struct bench *b, const char *kind, void (*run)(struct bench *b))
{
	double numbers = (double)b->rows * COLS;
	char name[64];

	snprintf(name, sizeof(name), "%s %u x %u bits=%u n=%u", kind, b->rows, COLS, b->bits, b->n);
	measure(b, (struct work){name, numbers * b->bits / 8, 2 * numbers * b->n, numbers}, run);
}

/* Factors, and codes of a whole matrix with a scale a row. */
static void bench_qmat(struct bench *b)
{
	static const uint32_t widths[] = {1, 2, 4, 8, 16, 3, 5, 6, 7, 32},
			      batches[] = {1, 8, 16, 128};
	const size_t n_widths = b->tsv ? 5 : array_len(widths);
	const bool is_slow = strcmp(b->k->name, "ref") == 0;

	for (size_t i = 0; i < n_widths * array_len(batches); i++) {
		b->bits = widths[i / array_len(batches)];
		b->n = batches[i % array_len(batches)];
		if ((is_slow && b->n > 8) || !shown(b, b->n))
			continue;
		b->row_grid = false;
		b->rows = RANKS;
		measure_codes(b, "dot", run_dot);
		measure_codes(b, "add", run_accumulate);
		if (b->bits > QMAT_MAX_BITS || is_slow)
			continue;
		measure_codes(b, "dot-int", run_dot_int);
		b->row_grid = true;
		b->rows = ROWS;
		measure_codes(b, "dot", run_dot);
		measure_codes(b, "dot-int", run_dot_int);
	}
}

/* One in eight kept: in bytes, in words, and in groups that no register holds; one in sixteen. */
static void bench_dropmat(struct bench *b)
{
	static const struct {
		uint32_t group, n_keep, bits;
	} shapes[] = {{8, 1, 5}, {16, 1, 4}, {32, 4, 4}, {128, 16, 4}};
	static const uint32_t batches[] = {1, 8, 16, 128};

	for (size_t i = 0; i < array_len(shapes) * array_len(batches); i++) {
		double entries;
		char name[64];

		b->n = batches[i % array_len(batches)];
		if ((strcmp(b->k->name, "ref") == 0 && b->n > 8) || !shown(b, b->n))
			continue;
		b->dropmat = (struct dropmat){
			.scales = (const void *)b->memory,
			.rows = ROWS,
			.cols = COLS,
			.group = shapes[i / array_len(batches)].group,
			.n_keep = shapes[i / array_len(batches)].n_keep,
			.index_bits = dropmat_index_bits(shapes[i / array_len(batches)].group),
			.bits = shapes[i / array_len(batches)].bits,
			.scale_row = 1,
			.step = 1,
		};
		snprintf(name, sizeof(name), "drop %u/%u bits=%u n=%u", b->dropmat.n_keep,
			b->dropmat.group, b->dropmat.bits, b->n);
		entries = (double)ROWS *
			  (double)dropmat_row_entries(COLS, b->dropmat.group, b->dropmat.n_keep);
		measure(b,
			(struct work){name, (double)dropmat_entries_bytes(&b->dropmat),
				2 * entries * b->n, entries},
			run_dropmat);
	}
}

/* Shares are of the rates of memory and of multiplication: the limit is the larger time. */
static void measure_attend(struct bench *b)
{
	const double rows = 2.0 * b->positions;
	const double seen = b->rows * (b->positions - (b->rows - 1) / 2.0); /* by rows of q */
	char name[64];

	snprintf(name, sizeof(name), "attend %u %s heads=%u rows=%u", b->positions,
		kv_type_names[b->type], b->n, b->rows);
	measure(b,
		(struct work){name, rows * (double)kv_row_bytes(b->type, HEAD_DIM),
			4 * seen * HEAD_DIM * b->n, 0},
		run_attend);
}

static void bench_attend(struct bench *b)
{
	static const uint32_t depths[] = {512, 4096, MAX_POSITIONS};
	static const struct {
		uint32_t heads, rows;
	} shapes[] = {{1, 1}, {4, 1}, {8, 1}, {1, 32}, {8, 8}, {8, 16}, {8, 128}};

	for (size_t i = 0; i < array_len(depths) * array_len(shapes) * 3; i++) {
		b->positions = depths[i / 3 / array_len(shapes)];
		b->n = shapes[i / 3 % array_len(shapes)].heads;
		b->rows = shapes[i / 3 % array_len(shapes)].rows;
		b->type = (enum kv_type)(i % 3);
		if (b->tsv && (b->positions != depths[1] || b->n != 8 || b->type == KV_TYPE_F32))
			continue;
		if ((strcmp(b->k->name, "ref") != 0 || b->positions == depths[0]) &&
			shown(b, b->rows))
			measure_attend(b);
	}
}

static void bench_vectors(struct bench *b)
{
	double bytes = COLS * sizeof(float);

	measure(b, (struct work){"rms_norm 4096", 3 * bytes, 0, 0}, run_rms_norm);
	measure(b, (struct work){"act_round 4096", 1.25 * bytes, 0, 0}, run_act_round);
	measure(b, (struct work){"silu_mul 4096", 3 * bytes, 0, 0}, run_silu_mul);
	measure(b, (struct work){"kv_store bf16 4096", 1.5 * bytes, 0, 0}, run_kv_store);
}

static void bench_products(struct bench *b)
{
	bench_matmul(b);
	bench_matmul_int(b);
	bench_qmat(b);
	bench_dropmat(b);
	bench_attend(b);
}

static void bench_set(struct bench *b)
{
	if (b->tsv) {
		bench_products(b);
		return;
	}
	ceilings_measure(b);
	printf("\n%s: reads %.1f GB/s, multiplies and adds %.1f GFLOP/s; shares are of these\n",
		b->k->name, 1e-9 * b->read_rate, 1e-9 * b->fma_rate);
	if (b->cache_rate > 0)
		printf("of bf16 in tiles; %.1f GFLOP/s with tiles from the second cache\n",
			1e-9 * b->cache_rate);
	bench_products(b);
	bench_vectors(b);
}

/* Small finite numbers whether read as bytes, halves, bf16 or f32. */
static int bench_new(struct bench *b)
{
	size_t numbers = (size_t)MAX_N * MAX_ROWS;

	b->memory = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (b->memory == MAP_FAILED)
		return -errno;
	/* As the daemon maps its base; without huge pages the rates are lower. */
	madvise(b->memory, MEMORY_BYTES, MADV_HUGEPAGE);
	for (size_t i = 0; i < MEMORY_BYTES / 2; i++)
		((uint16_t *)(void *)b->memory)[i] = (uint16_t)(0x3c00 + (i * 7919 & 0xff));
	b->x = aligned_alloc(64, numbers * sizeof(float));
	b->y = aligned_alloc(64, numbers * sizeof(float));
	b->aux = aligned_alloc(64, numbers * sizeof(float));
	b->rounded = aligned_alloc(64, MAX_N * mat_int_groups(COLS) * sizeof(*b->rounded));
	if (!b->x || !b->y || !b->aux || !b->rounded)
		return -ENOMEM;
	for (size_t i = 0; i < numbers; i++)
		b->x[i] = b->y[i] = b->aux[i] = (float)(i % 17) / 17 - 0.5f;
	return 0;
}

static int sets_run(struct bench *b, const char *const *names, int n)
{
	for (int i = 0; i < n; i++) {
		struct reason reason;
		struct kernels k;
		int r = kernels_select(&k, names[i], &reason);

		if (r < 0) {
			fprintf(stderr, "bench_kernels: %s\n", reason.text);
			return r;
		}
		b->k = &k;
		b->panel = NULL;
		if (k.panel_bytes) {
			b->panel = aligned_alloc(64, align_up(k.panel_bytes(MAX_N, COLS), 64));
			if (!b->panel)
				return -ENOMEM;
		}
		bench_set(b);
		free(b->panel);
	}
	return 0;
}

int main(int argc, char **argv)
{
	struct cpu_features cpu = cpu_features_detect();
	const char *all[] = {"ref", "avx2", "avx512", "amx"};
	struct bench b = {.tsv = argc > 1 && strcmp(argv[1], "--tsv") == 0};
	int r;

	argc -= b.tsv;
	argv += b.tsv;
	r = bench_new(&b);
	if (r < 0) {
		fprintf(stderr, "bench_kernels: %s\n", strerror(-r));
		return 1;
	}
	if (argc > 2 && strcmp(argv[1], "--only") == 0) {
		b.only = argv[2];
		argv += 2;
		argc -= 2;
	}
	if (argc > 1)
		r = sets_run(&b, (const char *const *)argv + 1, argc - 1);
	else
		r = sets_run(&b, all, cpu.amx ? 4 : cpu.avx512 ? 3 : cpu.avx2 ? 2 : 1);
	free(b.x);
	free(b.y);
	free(b.aux);
	free(b.rounded);
	munmap(b.memory, MEMORY_BYTES);
	return r < 0;
}
