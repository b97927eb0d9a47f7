#include "store/image.h"

#include "common/file.h"
#include "store/reader.h"
#include "store/ring.h"
#include "store/shm.h"

#include <assert.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

/* A file on its way into memory. */
struct load {
	struct shm shm;
	uint8_t *head; /* what is before the body, until the memory is sealed */
	struct format_header header;
	uint64_t file_bytes;  /* less than the header's if the file was cut */
	uint64_t first_chunk; /* of the level that is being read */
	int slower;           /* what the reader said of reading */
	/* Chunks arrive in several threads, and whoever is told of progress is told by one at a
	 * time. */
	pthread_mutex_t telling;
	uint64_t n_done;
	const struct progress *progress;
};

static void load_done(struct load *l)
{
	shm_done(&l->shm);
	free(l->head);
}

const uint8_t *image_section(const struct image *image, enum section_kind kind, uint64_t *ret_bytes)
{
	for (uint32_t i = 0; i < image->header.n_sections; i++) {
		const struct format_section *s = &image->header.sections[i];

		if (s->kind != kind)
			continue;
		*ret_bytes = min_u64(s->bytes, image->n_bytes - s->offset);
		return image->bytes + s->offset;
	}
	return NULL;
}

/* `head` is what comes before the body, digests included. */
static int check_chunk(const uint8_t *head, const struct format_header *h, uint64_t index,
	const uint8_t *chunk, struct reason *reason)
{
	uint64_t n_bytes, offset = image_chunk(h, index, &n_bytes);
	struct digest found = digest_of(chunk, n_bytes);

	if (memcmp(&found, head + FORMAT_PAGE + index * sizeof(found), sizeof(found)) == 0)
		return 0;
	return reason_set(reason, -EBADMSG,
		"chunk %" PRIu64 " (bytes %" PRIu64 " to %" PRIu64
		") does not match its digest: the file is damaged",
		index, offset, offset + n_bytes - 1);
}

static int check_root(const uint8_t *head, const struct format_header *h, struct reason *reason)
{
	char found_hex[DIGEST_HEX_SIZE], expected_hex[DIGEST_HEX_SIZE];
	struct digest found;
	int r = image_root(h, head + FORMAT_PAGE, h->body_offset - FORMAT_PAGE, &found);

	if (r < 0)
		return reason_set(reason, r, "cannot compute the root digest: %s", strerror(-r));
	if (digest_equal(&found, &h->root))
		return 0;
	digest_hex(&found, found_hex);
	digest_hex(&h->root, expected_hex);
	return reason_set(reason, -EBADMSG,
		"header: header and chunk digests have the root %s, expected %s: the file is "
		"damaged",
		found_hex, expected_hex);
}

/* Takes the memory on success. */
static int wrap(
	struct shm *shm, const struct format_header *h, uint64_t n_bytes, struct image **ret)
{
	struct image *image = calloc(1, sizeof(*image));

	if (!image)
		return -ENOMEM;
	*image = (struct image){
		.kind = memcmp(h->magic, FORMAT_MAGIC_BASE, sizeof(h->magic)) == 0
				? IMAGE_KIND_BASE
				: IMAGE_KIND_DELTA,
		.fd = shm->fd,
		.bytes = shm->bytes,
		.n_bytes = n_bytes,
		.n_levels = image_levels(h, n_bytes),
		.mapped_bytes = shm->mapped_bytes,
		.huge_bytes = shm->huge_bytes,
		.n_nodes = shm->n_nodes,
		.header = *h,
	};
	*shm = SHM_INIT;
	*ret = image;
	return 0;
}

/* The header page of an open file, checked against the file's size. */
static int read_header(int fd, uint8_t page[static FORMAT_PAGE], uint64_t *ret_bytes,
	struct format_header *ret, struct reason *reason)
{
	struct stat st;
	int r;

	if (fstat(fd, &st) < 0)
		return reason_set(reason, -errno, "cannot stat: %s", strerror(errno));
	if (!S_ISREG(st.st_mode))
		return reason_set(reason, -EBADMSG, "is not a regular file");
	if ((uint64_t)st.st_size < FORMAT_PAGE)
		return reason_set(reason, -EBADMSG,
			"file has %" PRIu64 " bytes, its header alone takes %u",
			(uint64_t)st.st_size, FORMAT_PAGE);
	r = file_read_at(fd, page, FORMAT_PAGE, 0);
	if (r < 0)
		return reason_set(reason, r, "cannot read the header: %s", strerror(-r));
	*ret_bytes = (uint64_t)st.st_size;
	return image_parse_header(page, *ret_bytes, ret, reason);
}

int image_peek(int fd, struct format_header *ret, struct reason *reason)
{
	uint8_t page[FORMAT_PAGE];
	uint64_t n_bytes;

	return read_header(fd, page, &n_bytes, ret, reason);
}

static int not_filled(int r, struct reason *reason)
{
	return reason_set(reason, r, "cannot fill shared memory: %s", strerror(-r));
}

/* Everything before the body, into memory that is made now that its size is believed. */
static int load_head(struct load *l, int fd, struct reason *reason)
{
	uint8_t page[FORMAT_PAGE];
	int r = read_header(fd, page, &l->file_bytes, &l->header, reason);

	if (r < 0)
		return r;
	r = shm_create("deltad-image", l->file_bytes, &l->shm);
	if (r < 0)
		return reason_set(reason, r, "cannot get %" PRIu64 " bytes of shared memory: %s",
			l->file_bytes, strerror(-r));
	l->head = malloc(l->header.body_offset);
	if (!l->head)
		return reason_set(reason, -ENOMEM, "out of memory");
	memcpy(l->head, page, FORMAT_PAGE);
	r = file_read_at(
		fd, l->head + FORMAT_PAGE, l->header.body_offset - FORMAT_PAGE, FORMAT_PAGE);
	if (r < 0)
		return reason_set(reason, r, "cannot read the chunk digests: %s", strerror(-r));
	r = check_root(l->head, &l->header, reason);
	if (r < 0)
		return r;
	r = shm_write(&l->shm, 0, l->head, l->header.body_offset);
	return r < 0 ? not_filled(r, reason) : 0;
}

static void tell_progress(struct load *l, uint64_t n_bytes)
{
	pthread_mutex_lock(&l->telling);
	l->n_done += n_bytes;
	progress_update(l->progress, "reading", l->n_done, l->file_bytes - l->header.body_offset);
	pthread_mutex_unlock(&l->telling);
}

static int chunk_arrived(void *user, const struct read_chunk *chunk, struct reason *reason)
{
	struct load *l = user;
	uint64_t index = l->first_chunk + chunk->index, n_bytes;
	uint64_t offset = image_chunk(&l->header, index, &n_bytes);
	int r;

	if (progress_cancelled(l->progress))
		return reason_set(reason, -ECANCELED, "cancelled while it was read");
	r = check_chunk(l->head, &l->header, index, chunk->bytes, reason);
	if (r < 0)
		return r;
	assert(n_bytes == chunk->n_bytes);
	r = shm_write(&l->shm, offset, chunk->bytes, n_bytes);
	if (r < 0)
		return not_filled(r, reason);
	tell_progress(l, n_bytes);
	return 0;
}

/* The same file for direct reads, or -1 where that is not to be had. */
static int open_direct(int fd)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
}

static int load_body(struct load *l, const struct reader_ops *ops, int fd, struct reason *reason)
{
	_cleanup_(closep) int direct_fd = open_direct(fd);
	uint64_t begin = l->header.body_offset;
	int r = 0;

	for (uint32_t i = 0; r >= 0 && i < image_levels(&l->header, l->file_bytes); i++) {
		const struct read_plan plan = {
			.fd = fd,
			.direct_fd = direct_fd,
			.begin = begin,
			.end = l->header.level_end[i],
			.chunk = FORMAT_CHUNK,
			.n_lanes =
				reader_lanes(div_up(l->header.level_end[i] - begin, FORMAT_CHUNK)),
			.arrived = chunk_arrived,
			.user = l,
		};

		r = reader_run(ops, &plan, reason);
		if (r > 0)
			l->slower = r;
		l->first_chunk += div_up(plan.end - plan.begin, FORMAT_CHUNK);
		begin = plan.end;
	}
	return r < 0 ? r : 0;
}

int image_load_through(const struct reader_ops *ops, int fd, struct image **ret,
	const struct progress *progress, struct reason *reason)
{
	_cleanup_(load_done) struct load l = {
		.shm = SHM_INIT,
		.telling = PTHREAD_MUTEX_INITIALIZER,
		.progress = progress,
	};
	int r = load_head(&l, fd, reason);

	if (r == 0)
		r = load_body(&l, ops, fd, reason);
	if (r < 0)
		return r;
	r = shm_seal(&l.shm);
	if (r == 0)
		r = wrap(&l.shm, &l.header, l.file_bytes, ret);
	if (r < 0)
		return reason_set(reason, r, "cannot seal the memory: %s", strerror(-r));
	(*ret)->registration_refused = l.slower;
	return 0;
}

/* 0 if this process may use io_uring, else the errno with which it is refused. */
static int io_uring_refusal(void)
{
	void *state;
	int r = ring_reader.open(NULL, 0, &state);

	if (r == 0)
		ring_reader.close(state);
	return r == -ENOSYS || r == -EPERM || r == -EACCES ? -r : 0;
}

int image_load(int fd, struct image **ret, const struct progress *progress, struct reason *reason)
{
	int refused = io_uring_refusal();
	int r = image_load_through(
		refused ? &plain_reader : &ring_reader, fd, ret, progress, reason);

	if (r < 0)
		return r;
	(*ret)->io_uring_refused = refused;
	return 0;
}

int image_load_path(const char *path, struct image **ret, const struct progress *progress,
	struct reason *reason)
{
	/* Not blocking: opening a pipe must not wait for its other end. */
	_cleanup_(closep) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	int r;

	if (fd < 0)
		return reason_set(reason, -errno, "%s: cannot open: %s", path, strerror(errno));
	/* Back to waiting: reads of the file itself must. */
	if (fcntl(fd, F_SETFL, 0) < 0)
		return reason_set(reason, -errno, "%s: %s", path, strerror(errno));
	r = image_load(fd, ret, progress, reason);
	return r < 0 ? reason_prefix(reason, r, "%s", path) : 0;
}

/* Where huge pages hold a file, the memfd is as long as these. */
static bool size_fits(uint64_t memfd_bytes, uint64_t file_bytes, int fd)
{
	struct stat st;

	if (memfd_bytes == file_bytes)
		return true;
	return fstat(fd, &st) == 0 && file_bytes < memfd_bytes &&
	       memfd_bytes - file_bytes < (uint64_t)st.st_blksize &&
	       memfd_bytes % (uint64_t)st.st_blksize == 0;
}

/* The size of the file that the memory holds: that of one of its levels, if it may be believed. */
static uint64_t adopted_bytes(const struct shm *shm)
{
	struct format_header claimed;

	memcpy(&claimed, shm->bytes, sizeof(claimed));
	for (uint32_t i = 0; i < min_u64(claimed.n_levels, FORMAT_MAX_LEVELS); i++)
		if (size_fits(shm->n_bytes, claimed.level_end[i], shm->fd))
			return claimed.level_end[i];
	return shm->n_bytes;
}

static int check_adopted(struct load *l, bool verify_chunks, struct reason *reason)
{
	int r;

	if (l->shm.n_bytes < FORMAT_PAGE)
		return reason_set(reason, -EBADMSG,
			"memory has %" PRIu64 " bytes, a header alone takes %u", l->shm.n_bytes,
			FORMAT_PAGE);
	l->file_bytes = adopted_bytes(&l->shm);
	r = image_parse_header(l->shm.bytes, l->file_bytes, &l->header, reason);
	if (r == 0)
		r = check_root(l->shm.bytes, &l->header, reason);
	for (uint64_t i = 0; r == 0 && verify_chunks && i < l->header.n_chunks; i++) {
		uint64_t n_bytes, offset = image_chunk(&l->header, i, &n_bytes);

		if (offset >= l->file_bytes)
			break;
		r = check_chunk(l->shm.bytes, &l->header, i, l->shm.bytes + offset, reason);
	}
	return r;
}

int image_from_memfd(int fd, bool verify_chunks, struct image **ret, struct reason *reason)
{
	_cleanup_(load_done) struct load l = {.shm = SHM_INIT};
	int r = shm_adopt(fd, &l.shm);

	if (r < 0)
		return reason_set(
			reason, r, "is not a memfd sealed against change: %s", strerror(-r));
	r = check_adopted(&l, verify_chunks, reason);
	if (r == 0)
		r = wrap(&l.shm, &l.header, l.file_bytes, ret);
	if (r < 0) {
		l.shm.fd = -1; /* stays the caller's */
		return r;
	}
	return 0;
}

struct image *image_free(struct image *image)
{
	if (!image)
		return NULL;
	if (image->bytes)
		munmap((void *)(uintptr_t)image->bytes, image->mapped_bytes);
	if (image->fd >= 0)
		close(image->fd);
	free(image);
	return NULL;
}
