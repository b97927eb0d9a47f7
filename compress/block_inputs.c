#include "compress/block_inputs.h"

#include "common/file.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define MAGIC UINT64_C(0x01737475706e6964) /* "dinputs" and a byte of version */
#define PAGE UINT64_C(4096)

struct file_header {
	uint64_t magic;
	struct block_inputs_shape shape;
	struct digest digest; /* of all before it */
};

/* A slot counts when its record does. */
struct record {
	uint64_t slot;
	struct digest content;
	struct digest digest; /* of all before it */
};

struct block_inputs {
	int fd;
	struct block_inputs_shape shape;
	uint64_t slots, end;
	uint64_t n;
	bool began_anew;
};

struct block_inputs *block_inputs_free(struct block_inputs *b)
{
	free(b);
	return NULL;
}

uint64_t block_inputs_count(const struct block_inputs *b)
{
	return b->n;
}

uint64_t block_inputs_end(const struct block_inputs *b)
{
	return b->end;
}

bool block_inputs_began_anew(const struct block_inputs *b)
{
	return b->began_anew;
}

static int disk_error(int r, struct reason *reason)
{
	return reason_set(reason, r, "the file of work in progress: %s", strerror(-r));
}

static uint64_t record_at(uint64_t slot)
{
	return PAGE + slot * sizeof(struct record);
}

static uint64_t slot_at(const struct block_inputs *b, uint64_t slot)
{
	return b->slots + slot * b->shape.slot_bytes;
}

static int place(struct block_inputs *b)
{
	uint64_t bytes;

	if (b->shape.n_slots > UINT32_MAX ||
		!mul_u64(b->shape.n_slots, b->shape.slot_bytes, &bytes) || bytes > INT64_MAX / 16)
		return -EFBIG;
	b->slots = align_up(record_at(b->shape.n_slots), PAGE);
	b->end = align_up(b->slots + bytes, PAGE);
	return 0;
}

static void fill_header(const struct block_inputs *b, struct file_header *ret)
{
	memset(ret, 0, sizeof(*ret));
	ret->magic = MAGIC;
	ret->shape = b->shape;
	ret->digest = digest_of(ret, offsetof(struct file_header, digest));
}

static int read_record(const struct block_inputs *b, uint64_t slot, struct record *ret)
{
	struct digest digest;
	int r = file_read_at(b->fd, ret, sizeof(*ret), record_at(slot));

	if (r < 0)
		return r;
	digest = digest_of(ret, offsetof(struct record, digest));
	return ret->slot != slot || !digest_equal(&digest, &ret->digest);
}

/* 1 if the file is of this work, 0 if it holds anything else. */
static int take_up(struct block_inputs *b)
{
	struct file_header found, expected;
	struct record record;
	int r = file_read_at(b->fd, &found, sizeof(found), 0);

	if (r < 0)
		return r;
	fill_header(b, &expected);
	if (memcmp(&found, &expected, sizeof(found)) != 0)
		return 0;
	for (; b->n < b->shape.n_slots; b->n++) {
		r = read_record(b, b->n, &record);
		if (r != 0)
			break;
	}
	return r < 0 ? r : 1;
}

/* Disk for all of it is taken at once, so that a disk too small is found at once. */
static int begin(struct block_inputs *b)
{
	struct file_header header;
	int r;

	fill_header(b, &header);
	b->n = 0;
	if (ftruncate(b->fd, 0) < 0)
		return -errno;
	r = posix_fallocate(b->fd, 0, (off_t)b->end);
	return r != 0 ? -r : file_write_at(b->fd, &header, sizeof(header), 0);
}

int block_inputs_restart(struct block_inputs *b, struct reason *reason)
{
	int r = begin(b);

	b->began_anew = true;
	return r < 0 ? disk_error(r, reason) : 0;
}

static int open_or_begin(struct block_inputs *b, bool resume)
{
	off_t bytes = lseek(b->fd, 0, SEEK_END);
	int r = 0;

	if (bytes < 0)
		return -errno;
	if (resume && (uint64_t)bytes >= b->end)
		r = take_up(b);
	if (r != 0)
		return r < 0 ? r : 0;
	b->began_anew = resume && bytes > 0;
	return begin(b);
}

int block_inputs_open(int fd, const struct block_inputs_shape *shape, bool resume,
	struct block_inputs **ret, struct reason *reason)
{
	_cleanup_(block_inputsp) struct block_inputs *b = calloc(1, sizeof(*b));
	int r;

	if (!b)
		return -ENOMEM;
	b->fd = fd;
	b->shape = *shape;
	r = place(b);
	if (r == 0)
		r = open_or_begin(b, resume);
	if (r < 0)
		return disk_error(r, reason);
	*ret = take_ptr(b);
	return 0;
}

/* The slot first, to the disk; then the record that makes it count. */
static int write_slot(struct block_inputs *b, const void *x)
{
	struct record record;
	int r = file_write_at(b->fd, x, b->shape.slot_bytes, slot_at(b, b->n));

	if (r < 0)
		return r;
	if (fdatasync(b->fd) < 0)
		return -errno;
	memset(&record, 0, sizeof(record));
	record.slot = b->n;
	record.content = digest_of(x, b->shape.slot_bytes);
	record.digest = digest_of(&record, offsetof(struct record, digest));
	r = file_write_at(b->fd, &record, sizeof(record), record_at(b->n));
	if (r < 0)
		return r;
	if (fdatasync(b->fd) < 0)
		return -errno;
	b->n++;
	return 0;
}

int block_inputs_add(struct block_inputs *b, const void *x, struct reason *reason)
{
	int r = b->n < b->shape.n_slots ? write_slot(b, x) : -EINVAL;

	return r < 0 ? disk_error(r, reason) : 0;
}

int block_inputs_read(const struct block_inputs *b, uint64_t slot, void *ret, struct reason *reason)
{
	struct record record;
	struct digest content;
	int r = read_record(b, slot, &record);

	if (r == 0)
		r = file_read_at(b->fd, ret, b->shape.slot_bytes, slot_at(b, slot));
	if (r < 0)
		return disk_error(r, reason);
	if (r > 0)
		return 1;
	content = digest_of(ret, b->shape.slot_bytes);
	return !digest_equal(&content, &record.content);
}
