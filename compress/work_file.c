#include "compress/work_file.h"

#include "common/file.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define MAGIC UINT64_C(0x316b726f77646c64) /* "ldwork1" and a byte of version */
#define ENTRY_MAGIC UINT64_C(0x0179727472656d64)
#define PAGE UINT64_C(4096)
#define CHUNK ((size_t)1 << 20)

struct file_header {
	uint64_t magic;
	struct work_shape shape;
	struct digest digest; /* of all before it */
};

/* What follows: sums, digests of windows, a part_entry for each part, payloads. */
struct entry_header {
	uint64_t magic;
	uint32_t block;
	uint32_t n_parts;
	uint64_t bytes;       /* of what follows */
	struct digest digest; /* of what stands before it and of what follows */
};

struct part_entry {
	struct tensor_record record;
	struct tensor_quality quality;
};

struct work_file {
	int fd;
	struct work_shape shape;
	uint64_t slots, taps, log; /* where they begin */
	uint64_t end;              /* of the log */
	uint64_t *entries;         /* where each block's begins */
	uint32_t n_entries;
	struct digest *digests; /* of the windows after the last of them */
	bool began_anew;
};

struct work_file *work_file_free(struct work_file *w)
{
	if (!w)
		return NULL;
	free(w->entries);
	free(w->digests);
	free(w);
	return NULL;
}

uint32_t work_file_blocks(const struct work_file *w)
{
	return w->n_entries;
}

bool work_file_began_anew(const struct work_file *w)
{
	return w->began_anew;
}

const struct digest *work_file_digests(const struct work_file *w)
{
	return w->digests;
}

uint64_t work_file_end(const struct work_file *w)
{
	return w->end;
}

static uint64_t header_at(const struct work_file *w)
{
	return w->slots - PAGE;
}

static uint64_t fixed_bytes(const struct work_file *w)
{
	return w->shape.sums_bytes + w->shape.n_windows * sizeof(struct digest);
}

static struct digest header_digest(const struct file_header *h)
{
	return digest_of(h, offsetof(struct file_header, digest));
}

static void fill_header(const struct work_file *w, struct file_header *ret)
{
	memset(ret, 0, sizeof(*ret));
	ret->magic = MAGIC;
	ret->shape = w->shape;
	ret->digest = header_digest(ret);
}

static int place(struct work_file *w)
{
	uint64_t slots, taps;

	w->slots = align_up(w->shape.origin, PAGE) + PAGE;
	if (!mul_u64(w->shape.n_windows, w->shape.slot_bytes, &slots) ||
		!mul_u64(w->shape.n_windows, w->shape.tap_bytes, &taps) || slots > INT64_MAX / 16 ||
		taps > INT64_MAX / 16 || w->shape.origin > INT64_MAX / 16)
		return -EFBIG;
	w->taps = w->slots + 2 * slots;
	w->log = align_up(w->taps + taps, PAGE);
	w->end = w->log;
	return 0;
}

/* The digest of an entry whose body stands in the file behind its header. */
static int digest_entry(
	const struct work_file *w, const struct entry_header *h, uint64_t body, struct digest *ret)
{
	_cleanup_(freep) uint8_t *chunk = malloc(CHUNK);
	struct digest_state *state = digest_new();
	int r = 0;

	if (!chunk || !state) {
		digest_free(state);
		return -ENOMEM;
	}
	digest_add(state, h, offsetof(struct entry_header, digest));
	for (uint64_t at = 0; r == 0 && at < h->bytes; at += CHUNK) {
		size_t n = (size_t)min_u64(CHUNK, h->bytes - at);

		r = file_read_at(w->fd, chunk, n, body + at);
		if (r == 0)
			digest_add(state, chunk, n);
	}
	*ret = digest_finish(state);
	return r;
}

/* 1 if the next entry is whole, 0 if there is none. */
static int take_entry(struct work_file *w, uint64_t file_bytes)
{
	struct entry_header h;
	struct digest digest;
	uint64_t body = w->end + sizeof(h);
	int r;

	if (w->n_entries == w->shape.n_blocks || body > file_bytes)
		return 0;
	r = file_read_at(w->fd, &h, sizeof(h), w->end);
	if (r < 0)
		return r;
	if (h.magic != ENTRY_MAGIC || h.block != w->n_entries || h.bytes > file_bytes - body ||
		h.bytes < fixed_bytes(w) ||
		(h.bytes - fixed_bytes(w)) / sizeof(struct part_entry) < h.n_parts)
		return 0;
	r = digest_entry(w, &h, body, &digest);
	if (r < 0 || !digest_equal(&digest, &h.digest))
		return r;
	w->entries[w->n_entries++] = w->end;
	w->end = align_up(body + h.bytes, PART_ALIGNMENT);
	return 1;
}

static int read_digests(struct work_file *w)
{
	if (w->n_entries == 0)
		return 0;
	return file_read_at(w->fd, w->digests, w->shape.n_windows * sizeof(*w->digests),
		w->entries[w->n_entries - 1] + sizeof(struct entry_header) + w->shape.sums_bytes);
}

/* 1 if the file is of this work, 0 if it holds anything else. */
static int take_up(struct work_file *w, uint64_t file_bytes)
{
	struct file_header found, expected;
	int r;

	if (file_bytes < w->log)
		return 0;
	r = file_read_at(w->fd, &found, sizeof(found), header_at(w));
	if (r < 0)
		return r;
	fill_header(w, &expected);
	if (memcmp(&found, &expected, sizeof(found)) != 0)
		return 0;
	do
		r = take_entry(w, file_bytes);
	while (r > 0);
	if (r == 0)
		r = read_digests(w);
	return r < 0 ? r : 1;
}

/* Disk for everything but the log is taken at once, so that a disk too small is found at once. */
static int begin(struct work_file *w)
{
	struct file_header header;
	int r;

	fill_header(w, &header);
	w->n_entries = 0;
	w->end = w->log;
	if (ftruncate(w->fd, (off_t)w->shape.origin) < 0)
		return -errno;
	r = posix_fallocate(w->fd, (off_t)w->shape.origin, (off_t)(w->log - w->shape.origin));
	if (r != 0)
		return -r;
	return file_write_at(w->fd, &header, sizeof(header), header_at(w));
}

int work_file_restart(struct work_file *w, struct reason *reason)
{
	int r = begin(w);

	w->began_anew = true;
	if (r < 0)
		return reason_set(reason, r, "the file of work in progress: %s", strerror(-r));
	return 0;
}

static int open_or_begin(struct work_file *w, bool resume)
{
	off_t bytes = lseek(w->fd, 0, SEEK_END);
	int r = 0;

	if (bytes < 0)
		return -errno;
	if (resume && (uint64_t)bytes > w->shape.origin)
		r = take_up(w, (uint64_t)bytes);
	if (r != 0)
		return r < 0 ? r : 0;
	w->began_anew = resume && (uint64_t)bytes > w->shape.origin;
	return begin(w);
}

int work_file_open(int fd, const struct work_shape *shape, bool resume, struct work_file **ret,
	struct reason *reason)
{
	_cleanup_(work_file_freep) struct work_file *w = calloc(1, sizeof(*w));
	int r;

	if (!w)
		return -ENOMEM;
	w->fd = fd;
	w->shape = *shape;
	w->entries = calloc((size_t)shape->n_blocks + 1, sizeof(*w->entries));
	w->digests = calloc(shape->n_windows + 1, sizeof(*w->digests));
	if (!w->entries || !w->digests)
		return -ENOMEM;
	r = place(w);
	if (r == 0)
		r = open_or_begin(w, resume);
	if (r < 0)
		return reason_set(reason, r, "the file of work in progress: %s", strerror(-r));
	*ret = take_ptr(w);
	return 0;
}

static uint64_t x_offset(const struct work_file *w, uint32_t slot, uint64_t window)
{
	return w->slots + (slot * w->shape.n_windows + window) * w->shape.slot_bytes;
}

int work_file_read_x(const struct work_file *w, uint32_t slot, uint64_t window, void *ret)
{
	return file_read_at(w->fd, ret, w->shape.slot_bytes, x_offset(w, slot, window));
}

int work_file_write_x(struct work_file *w, uint32_t slot, uint64_t window, const void *x)
{
	return file_write_at(w->fd, x, w->shape.slot_bytes, x_offset(w, slot, window));
}

int work_file_read_tap(const struct work_file *w, uint64_t window, size_t n, void *ret)
{
	return file_read_at(w->fd, ret, n, w->taps + window * w->shape.tap_bytes);
}

int work_file_write_tap(struct work_file *w, uint64_t window, size_t n, const void *tap)
{
	return file_write_at(w->fd, tap, n, w->taps + window * w->shape.tap_bytes);
}

/* An entry on its way into the file. */
struct addition {
	struct work_file *file;
	struct digest_state *state;
	uint64_t at;
};

static int append(struct addition *a, const void *bytes, uint64_t n)
{
	int r = file_write_at(a->file->fd, bytes, n, a->at);

	digest_add(a->state, bytes, n);
	a->at += n;
	return r;
}

static int append_body(struct addition *a, const struct work_entry *e, uint64_t *ret_at)
{
	const struct work_shape *s = &a->file->shape;
	int r;

	r = append(a, e->sums, s->sums_bytes);
	if (r == 0)
		r = append(a, e->digests, s->n_windows * sizeof(*e->digests));
	for (size_t i = 0; r == 0 && i < e->n_parts; i++) {
		struct part_entry entry;

		memset(&entry, 0, sizeof(entry));
		entry.record = e->parts[i].record;
		entry.quality = e->parts[i].quality;
		r = append(a, &entry, sizeof(entry));
	}
	for (size_t i = 0; r == 0 && i < e->n_parts; i++) {
		ret_at[i] = a->at;
		r = append(a, e->parts[i].payload, e->parts[i].record.bytes);
	}
	return r;
}

static uint64_t body_bytes(const struct work_file *w, const struct work_entry *e)
{
	uint64_t sum = fixed_bytes(w) + e->n_parts * sizeof(struct part_entry);

	for (size_t i = 0; i < e->n_parts; i++)
		sum += e->parts[i].record.bytes;
	return sum;
}

/* Windows and body first, to the disk; then the header that makes them count. */
static int write_entry(struct work_file *w, const struct work_entry *e, uint64_t *ret_at)
{
	struct addition a = {.file = w, .at = w->end + sizeof(struct entry_header)};
	struct entry_header h;
	int r;

	memset(&h, 0, sizeof(h));
	h.magic = ENTRY_MAGIC;
	h.block = w->n_entries;
	h.n_parts = (uint32_t)e->n_parts;
	h.bytes = body_bytes(w, e);
	a.state = digest_new();
	if (!a.state)
		return -ENOMEM;
	digest_add(a.state, &h, offsetof(struct entry_header, digest));
	r = append_body(&a, e, ret_at);
	h.digest = digest_finish(a.state);
	if (r < 0)
		return r;
	if (fdatasync(w->fd) < 0)
		return -errno;
	r = file_write_at(w->fd, &h, sizeof(h), w->end);
	if (r < 0)
		return r;
	if (fdatasync(w->fd) < 0)
		return -errno;
	w->entries[w->n_entries++] = w->end;
	w->end = align_up(a.at, PART_ALIGNMENT);
	return 0;
}

int work_file_add(struct work_file *w, const struct work_entry *entry, uint64_t *ret_at,
	struct reason *reason)
{
	int r;

	if (w->n_entries == w->shape.n_blocks)
		return -EINVAL;
	r = write_entry(w, entry, ret_at);
	if (r < 0)
		return reason_set(reason, r, "the file of work in progress: %s", strerror(-r));
	return 0;
}

/* Parts that begin at `at`, whose payloads end before `end`. */
static int read_parts(
	const struct work_file *w, uint64_t at, uint64_t end, size_t n, struct work_part *ret)
{
	uint64_t payload = at + n * sizeof(struct part_entry);

	for (size_t i = 0; i < n; i++) {
		struct part_entry entry;
		int r = file_read_at(w->fd, &entry, sizeof(entry), at + i * sizeof(entry));

		if (r < 0)
			return r;
		if (entry.record.bytes > end - payload)
			return -EBADMSG;
		ret[i] = (struct work_part){
			.record = entry.record, .quality = entry.quality, .at = payload};
		payload += entry.record.bytes;
	}
	return 0;
}

int work_file_entry(const struct work_file *w, uint32_t block, void *ret_sums,
	struct work_part **ret_parts, size_t *ret_n, struct reason *reason)
{
	_cleanup_(freep) struct work_part *parts = NULL;
	struct entry_header h;
	uint64_t at = w->entries[block];
	int r;

	r = file_read_at(w->fd, &h, sizeof(h), at);
	at += sizeof(h);
	if (r == 0)
		r = file_read_at(w->fd, ret_sums, w->shape.sums_bytes, at);
	if (r < 0)
		return reason_set(reason, r, "the file of work in progress: %s", strerror(-r));
	parts = calloc((size_t)h.n_parts + 1, sizeof(*parts));
	if (!parts)
		return -ENOMEM;
	r = read_parts(w, at + fixed_bytes(w), at + h.bytes, h.n_parts, parts);
	if (r < 0)
		return reason_set(reason, r, "the file of work in progress: %s", strerror(-r));
	*ret_n = h.n_parts;
	*ret_parts = take_ptr(parts);
	return 0;
}
