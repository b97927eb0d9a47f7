#include "kernels/convert.h"
#include "kernels/pack.h"
#include "store/image.h"
#include "store/shm.h"
#include "tests/small_image.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cmocka.h>

static struct image *load(int fd)
{
	struct reason reason = {0};
	struct image *image;
	int r = image_load(fd, &image, NULL, &reason);

	if (r < 0)
		fail_msg("load: %d %s", r, reason.text);
	return image;
}

static struct base *load_base(void)
{
	_cleanup_(closep) int fd = small_base_file();
	struct reason reason = {0};
	struct base *base;
	int r = base_bind(load(fd), &base, &reason);

	if (r < 0)
		fail_msg("bind: %d %s", r, reason.text);
	return base;
}

static void assert_matrix(const struct base_matrix *m, enum tensor_role role, uint32_t layer,
	uint32_t rows, uint32_t cols)
{
	assert_int_equal(m->rows, rows);
	assert_int_equal(m->cols, cols);
	for (uint32_t r = 0; r < rows; r++)
		for (uint32_t c = 0; c < cols; c++)
			assert_true(bf16_to_f32(m->bf16.data[mat_bf16_index(cols, r, c)]) ==
				    small_value(role, layer, r, c));
}

static void assert_vector(const float *v, enum tensor_role role, uint32_t layer, uint32_t n)
{
	assert_non_null(v);
	for (uint32_t i = 0; i < n; i++)
		assert_true(v[i] == small_value(role, layer, i, 0));
}

static void base_comes_back_as_written(void **state)
{
	const struct model_config *c = &small_config;
	uint32_t q = c->n_heads * c->head_dim, kv = c->n_kv_heads * c->head_dim;
	struct base *b = load_base();

	(void)state;
	assert_memory_equal(&b->config, c, sizeof(*c));
	assert_matrix(&b->embed, ROLE_EMBED, 0, c->vocab, c->hidden);
	assert_matrix(&b->head, ROLE_HEAD, 1, c->vocab, c->hidden);
	assert_vector(b->final_norm, ROLE_FINAL_NORM, 1, c->hidden);
	for (uint32_t i = 0; i < c->n_layers; i++) {
		const struct base_layer *l = &b->layers[i];

		assert_matrix(&l->q, ROLE_Q, i, q, c->hidden);
		assert_matrix(&l->k, ROLE_K, i, kv, c->hidden);
		assert_matrix(&l->v, ROLE_V, i, kv, c->hidden);
		assert_matrix(&l->o, ROLE_O, i, c->hidden, q);
		assert_matrix(&l->gate, ROLE_GATE, i, c->ffn, c->hidden);
		assert_matrix(&l->up, ROLE_UP, i, c->ffn, c->hidden);
		assert_matrix(&l->down, ROLE_DOWN, i, c->hidden, c->ffn);
		assert_vector(l->vectors.attn_norm, ROLE_ATTN_NORM, i, c->hidden);
		assert_vector(l->vectors.ffn_norm, ROLE_FFN_NORM, i, c->hidden);
		assert_vector(l->vectors.q_bias, ROLE_Q_BIAS, i, q);
		assert_vector(l->vectors.k_bias, ROLE_K_BIAS, i, kv);
		assert_vector(l->vectors.v_bias, ROLE_V_BIAS, i, kv);
		assert_vector(l->vectors.o_bias, ROLE_O_BIAS, i, c->hidden);
		assert_vector(l->vectors.gate_bias, ROLE_GATE_BIAS, i, c->ffn);
		assert_vector(l->vectors.up_bias, ROLE_UP_BIAS, i, c->ffn);
		assert_vector(l->vectors.down_bias, ROLE_DOWN_BIAS, i, c->hidden);
		assert_vector(l->vectors.q_norm, ROLE_Q_NORM, i, c->head_dim);
		assert_vector(l->vectors.k_norm, ROLE_K_NORM, i, c->head_dim);
	}
	base_free(b);
}

static void assert_factors(const struct linear_delta *q)
{
	assert_int_equal(q->n_parts, 2);
	assert_int_equal(q->parts[0].factors.v.bits, 8);
	assert_int_equal(q->parts[1].factors.v.bits, 3);
	assert_int_equal(q->parts[1].factors.u.cols, 88);
	assert_true(q->parts[1].factors.sigma[16] == 1.0f / 17);
	assert_int_equal(q->parts[1].factors.u.zeros[16], 1);
}

static void delta_comes_back_as_written(void **state)
{
	_cleanup_(closep) int fd = small_delta_file();
	struct base *b = load_base();
	struct reason reason = {0};
	struct delta *d;
	int r = delta_bind(load(fd), b, &d, &reason);

	(void)state;
	if (r < 0)
		fail_msg("bind: %d %s", r, reason.text);
	assert_int_equal(d->config.vocab, small_config.vocab + SMALL_ADDED_TOKENS);
	assert_int_equal(d->n_records, SMALL_RECORDS);
	assert_string_equal(d->certificate->method, "delta-come");
	assert_non_null(d->qualities);
	assert_true(d->points && d->points[0].kl == 0.5);
	assert_int_equal(d->embed.parts[0].rows.n_rows, 5);
	assert_int_equal(d->embed.parts[0].rows.rows[1], 300);
	assert_true(bf16_to_f32(d->head.parts[0].rows.values.data[mat_bf16_index(71, 4, 70)]) ==
		    -small_value(ROLE_HEAD, 1, 303, 70));
	assert_vector(d->layers[0].vectors.attn_norm, ROLE_ATTN_NORM, 0, small_config.hidden);
	assert_null(d->layers[1].vectors.attn_norm);
	assert_null(d->final_norm);
	assert_factors(&d->layers[0].q);
	assert_int_equal(d->layers[1].q.n_parts, 0);
	assert_int_equal(d->layers[0].k.parts[0].codes.rows[2], 43);
	assert_null(d->layers[0].up.parts[0].codes.rows);
	assert_int_equal(qmat_code(&d->layers[0].up.parts[0].codes.q, 3, 4), (217 * 7 + 3) & 3);
	assert_int_equal(qmat_code(&d->layers[1].o.parts[0].factors.v, 1, 2), (90 * 7 + 1) & 3);
	assert_true(d->layers[1].o.parts[0].factors.sigma[0] == 1);
	assert_int_equal(d->layers[0].v.parts[0].dropout.n_keep, 5);
	assert_true(
		bf16_to_f32(
			d->layers[1].gate.parts[0].rows.values.data[mat_bf16_index(71, 149, 70)]) ==
		-small_value(ROLE_GATE, 1, 149, 70));
	delta_free(d);
	base_free(b);
}

/* Cut where a level ends it is the same delta, coarser; cut elsewhere it is damaged. */
static void delta_may_end_with_a_level(void **state)
{
	_cleanup_(closep) int fd = small_delta_file();
	struct base *b = load_base();
	struct reason reason = {0};
	struct image *whole = load(fd), *image;
	const struct format_header h = whole->header;
	struct delta *d;

	(void)state;
	assert_int_equal(h.n_levels, 2);
	assert_int_equal(h.level_end[1], whole->n_bytes);
	image_free(whole);
	assert_int_equal(ftruncate(fd, (off_t)h.level_end[0]), 0);
	image = load(fd);
	assert_int_equal(image->n_levels, 1);
	assert_true(digest_equal(&image->header.root, &h.root));
	assert_int_equal(delta_bind(image, b, &d, &reason), 0);
	assert_int_equal(d->n_records, SMALL_RECORDS - 1);
	assert_int_equal(d->layers[0].q.n_parts, 1);
	delta_free(d);
	assert_int_equal(ftruncate(fd, (off_t)h.level_end[0] + FORMAT_PAGE), 0);
	if (h.level_end[0] + FORMAT_PAGE != h.level_end[1]) {
		assert_int_equal(image_load(fd, &image, NULL, &reason), -EBADMSG);
		assert_non_null(strstr(reason.text, "the nearest level that is whole ends at"));
	}
	assert_int_equal(ftruncate(fd, (off_t)h.level_end[0] - FORMAT_PAGE), 0);
	assert_int_equal(image_load(fd, &image, NULL, &reason), -EBADMSG);
	base_free(b);
}

static void loading_can_be_cancelled(void **state)
{
	_cleanup_(closep) int fd = small_base_file();
	atomic_bool cancelled = false;
	const struct progress progress = {.cancelled = &cancelled};
	struct reason reason = {0};
	struct image *image;

	(void)state;
	assert_int_equal(image_load(fd, &image, &progress, &reason), 0);
	image_free(image);
	cancelled = true;
	assert_int_equal(image_load(fd, &image, &progress, &reason), -ECANCELED);
	assert_non_null(strstr(reason.text, "cancelled"));
}

static void delta_of_another_base_is_refused(void **state)
{
	_cleanup_(closep) int fd = small_delta_file();
	struct image *image = load(fd);
	struct base *b = load_base();
	struct reason reason = {0};
	struct delta *d;

	(void)state;
	b->image->header.model.bytes[31] ^= 1;
	assert_int_equal(delta_bind(image, b, &d, &reason), -EMEDIUMTYPE);
	assert_non_null(strstr(reason.text, "made for the base with model digest"));
	base_free(b);
	image_free(image);
}

static void same_input_gives_the_same_bytes(void **state)
{
	_cleanup_(closep) int a = small_delta_file();
	_cleanup_(closep) int b = small_delta_file();
	struct image *one = load(a), *two = load(b);

	(void)state;
	assert_int_equal(one->n_bytes, two->n_bytes);
	assert_memory_equal(one->bytes, two->bytes, one->n_bytes);
	image_free(one);
	image_free(two);
}

static void memory_is_sealed(void **state)
{
	_cleanup_(closep) int fd = small_delta_file();
	struct image *image = load(fd);
	int seals = fcntl(image->fd, F_GET_SEALS);

	(void)state;
	assert_int_equal(seals & (F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL),
		F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL);
	assert_int_equal(pwrite(image->fd, "x", 1, 0), -1);
	/* Huge pages cannot be written by call at all. */
	assert_true(errno == EPERM || errno == EINVAL);
	assert_int_equal(ftruncate(image->fd, 0), -1);
	assert_int_equal(errno, EPERM);
	assert_int_equal(ftruncate(image->fd, (off_t)image->mapped_bytes * 2), -1);
	assert_int_equal(errno, EPERM);
	assert_ptr_equal(
		mmap(NULL, image->mapped_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, image->fd, 0),
		MAP_FAILED);
	assert_int_equal(errno, EPERM);
	assert_true(fcntl(image->fd, F_GETFD) & FD_CLOEXEC);
	image_free(image);
}

static void sealed_memory_is_adopted(void **state)
{
	_cleanup_(closep) int fd = small_base_file();
	struct image *image = load(fd), *adopted;
	struct reason reason = {0};

	(void)state;
	assert_int_equal(image_from_memfd(dup(image->fd), true, &adopted, &reason), 0);
	assert_int_equal(adopted->n_bytes, image->n_bytes);
	assert_int_equal(adopted->kind, IMAGE_KIND_BASE);
	assert_memory_equal(adopted->bytes, image->bytes, image->n_bytes);
	image_free(adopted);
	image_free(image);
}

static void unsealed_memory_is_not_adopted(void **state)
{
	_cleanup_(closep) int fd = small_base_file();
	struct reason reason = {0};
	struct image *image;

	(void)state;
	assert_int_equal(image_from_memfd(fd, true, &image, &reason), -EPERM);
	assert_true(fcntl(fd, F_GETFD) >= 0);
}

/* A memfd with the bytes of a file, one of them flipped, and the given seals. */
static int sealed_copy(int file, uint64_t flip_at, int seals)
{
	int fd = memfd_create("copy", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	struct stat st;
	uint8_t *bytes;

	assert_int_equal(fstat(file, &st), 0);
	bytes = malloc((size_t)st.st_size);
	assert_true(fd >= 0 && bytes);
	assert_int_equal(pread(file, bytes, (size_t)st.st_size, 0), st.st_size);
	if (flip_at != UINT64_MAX)
		bytes[flip_at] ^= 1;
	assert_int_equal(pwrite(fd, bytes, (size_t)st.st_size, 0), st.st_size);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
	free(bytes);
	return fd;
}

static int adopt(int file, uint64_t flip_at, int seals, bool verify_chunks)
{
	int fd = sealed_copy(file, flip_at, seals);
	struct reason reason = {0};
	struct image *image = NULL;
	int r = image_from_memfd(fd, verify_chunks, &image, &reason);

	if (r < 0)
		close(fd);
	image_free(image);
	return r;
}

static void adopted_memory_is_checked(void **state)
{
	const int all = F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK;
	_cleanup_(closep) int file = small_delta_file();
	const uint64_t none = UINT64_MAX, digests = FORMAT_PAGE + 1, body = 20000;

	(void)state;
	assert_int_equal(adopt(file, none, all, true), 0);
	assert_int_equal(adopt(file, none, all & ~F_SEAL_WRITE, true), -EPERM);
	assert_int_equal(adopt(file, none, all & ~F_SEAL_SHRINK, true), -EPERM);
	assert_int_equal(adopt(file, none, all & ~F_SEAL_GROW, true), -EPERM);
	assert_int_equal(adopt(file, 0, all, false), -EBADMSG);
	assert_int_equal(adopt(file, digests, all, false), -EBADMSG);
	assert_int_equal(adopt(file, body, all, true), -EBADMSG);
	assert_int_equal(adopt(file, body, all, false), 0);
}

static int count_descriptors(void **state)
{
	*state = (void *)open_descriptors();
	return 0;
}

static int expect_no_new_descriptors(void **state)
{
	return (size_t)*state == open_descriptors() ? 0 : -1;
}

#define leak_checked(test)                                                                         \
	cmocka_unit_test_setup_teardown(test, count_descriptors, expect_no_new_descriptors)

/* What is before the body is read before it can be checked, so it may not be large for nothing. */
static void the_body_is_not_far_from_the_digests(void **state)
{
	struct format_header h = {.version = FORMAT_VERSION, .n_chunks = 1, .n_levels = 1}, found;
	uint64_t farthest = FORMAT_PAGE + FORMAT_MAX_SPARE; /* 32 bytes less than allowed */
	uint8_t page[FORMAT_PAGE] = {0};
	struct reason reason = {0};

	(void)state;
	memcpy(h.magic, FORMAT_MAGIC_BASE, sizeof(h.magic));
	for (int i = 0; i < 2; i++) {
		h.body_offset = farthest + (uint64_t)i * FORMAT_PAGE;
		h.file_bytes = h.level_end[0] = h.body_offset + FORMAT_PAGE;
		memcpy(page, &h, sizeof(h));
		assert_int_equal(image_parse_header(page, h.file_bytes, &found, &reason),
			i == 0 ? 0 : -EBADMSG);
	}
	assert_non_null(strstr(reason.text, "after the digests of 1 chunks"));
}

/* A file full of holes may claim more than the machine has; nobody is killed for it. */
static void more_than_the_machine_has(void **state)
{
	struct shm shm;

	(void)state;
	assert_int_equal(shm_create("test", FORMAT_MAX_FILE, &shm), -ENOMEM);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		leak_checked(base_comes_back_as_written),
		cmocka_unit_test(the_body_is_not_far_from_the_digests),
		leak_checked(delta_comes_back_as_written),
		leak_checked(delta_may_end_with_a_level),
		leak_checked(loading_can_be_cancelled),
		leak_checked(delta_of_another_base_is_refused),
		leak_checked(same_input_gives_the_same_bytes),
		leak_checked(memory_is_sealed),
		leak_checked(sealed_memory_is_adopted),
		leak_checked(unsealed_memory_is_not_adopted),
		leak_checked(adopted_memory_is_checked),
		leak_checked(more_than_the_machine_has),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
