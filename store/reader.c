#include "store/reader.h"

#include "common/cpus.h"
#include "store/parallel.h"

#include <assert.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

/* One chunk under way: [at, end) of the file is still missing. */
struct slot {
	bool direct;
	unsigned int n_retries;
	uint64_t index;
	uint64_t at, end;
};

/* What the lanes of one reading share. */
struct reader {
	const struct reader_ops *ops;
	const struct read_plan *plan;
	uint64_t n_chunks;
	atomic_uint_fast64_t next_chunk;
	atomic_bool failed;
};

struct lane {
	struct reader *rd;
	void *state;
	uint8_t *memory; /* a chunk for each slot */
	uint64_t memory_bytes;
	unsigned int n_busy;
	int slower; /* what open said of it */
	int error;
	struct reason reason;
	struct slot slots[READER_DEPTH];
};

static uint64_t chunk_begin(const struct read_plan *plan, uint64_t index)
{
	return plan->begin + index * plan->chunk;
}

static uint8_t *chunk_place(const struct lane *lane, unsigned int slot)
{
	return lane->memory + slot * lane->rd->plan->chunk;
}

static int submit(struct lane *lane, unsigned int i)
{
	const struct read_plan *plan = lane->rd->plan;
	struct slot *s = &lane->slots[i];
	struct read_request request = {
		.fd = s->direct ? plan->direct_fd : plan->fd,
		.to = chunk_place(lane, i) + (s->at - chunk_begin(plan, s->index)),
		.n_bytes = s->end - s->at,
		.offset = s->at,
	};
	int r = lane->rd->ops->submit(lane->state, i, &request);

	if (r < 0)
		return reason_set(&lane->reason, r,
			"cannot start reading %" PRIu64 " bytes at %" PRIu64 ": %s",
			request.n_bytes, request.offset, strerror(-r));
	lane->n_busy++;
	return 0;
}

/* Nothing once there is none left, or another lane has failed. */
static int submit_next_chunk(struct lane *lane, unsigned int i)
{
	struct reader *rd = lane->rd;
	const struct read_plan *plan = rd->plan;
	uint64_t index =
		atomic_load(&rd->failed) ? rd->n_chunks : atomic_fetch_add(&rd->next_chunk, 1);
	uint64_t at;

	if (index >= rd->n_chunks)
		return 0;
	at = chunk_begin(plan, index);
	lane->slots[i] = (struct slot){
		.direct = plan->direct_fd >= 0,
		.index = index,
		.at = at,
		.end = min_u64(at + plan->chunk, plan->end),
	};
	return submit(lane, i);
}

/* What one result means for its chunk. Sets *ret_arrived when its last byte is in. */
static int take_result(struct slot *s, int result, bool *ret_arrived, struct reason *reason)
{
	*ret_arrived = false;
	if ((result == -EINTR || result == -EAGAIN) && s->n_retries++ < READER_MAX_RETRIES)
		return 0;
	/* Some file systems take O_DIRECT at open and refuse it, or its alignment, when reading. */
	if (result == -EINVAL && s->direct) {
		s->direct = false;
		return 0;
	}
	if (result < 0)
		return reason_set(
			reason, result, "cannot read at %" PRIu64 ": %s", s->at, strerror(-result));
	if (result == 0)
		return reason_set(reason, -ENODATA,
			"the file ends at %" PRIu64 ", expected bytes up to %" PRIu64, s->at,
			s->end);
	assert((uint64_t)result <= s->end - s->at);
	s->at += (uint64_t)result;
	s->n_retries = 0;
	*ret_arrived = s->at == s->end;
	return 0;
}

static int hand_over(struct lane *lane, unsigned int i)
{
	const struct read_plan *plan = lane->rd->plan;
	const struct slot *s = &lane->slots[i];
	const struct read_chunk chunk = {
		.index = s->index,
		.bytes = chunk_place(lane, i),
		.n_bytes = s->end - chunk_begin(plan, s->index),
	};

	return plan->arrived(plan->user, &chunk, &lane->reason);
}

static int complete_one(struct lane *lane)
{
	unsigned int i;
	bool arrived;
	int result, r;

	r = lane->rd->ops->complete(lane->state, &i, &result);
	if (r < 0)
		return reason_set(&lane->reason, r, "cannot wait for reads: %s", strerror(-r));
	lane->n_busy--;
	r = take_result(&lane->slots[i], result, &arrived, &lane->reason);
	if (r < 0)
		return r;
	if (!arrived)
		return submit(lane, i);
	r = hand_over(lane, i);
	return r < 0 ? r : submit_next_chunk(lane, i);
}

/* Nothing may write to the memory after we return, so what is under way is waited for. */
static void drain(struct lane *lane)
{
	const struct reader_ops *ops = lane->rd->ops;
	unsigned int i;
	int result;

	if (lane->n_busy == 0)
		return;
	ops->cancel(lane->state);
	while (lane->n_busy > 0 && ops->complete(lane->state, &i, &result) == 0)
		lane->n_busy--;
}

static void run_open_lane(struct lane *lane)
{
	struct reader *rd = lane->rd;
	int r = 0;

	for (unsigned int i = 0; r == 0 && i < READER_DEPTH; i++)
		r = submit_next_chunk(lane, i);
	while (r == 0 && lane->n_busy > 0 && !atomic_load(&rd->failed))
		r = complete_one(lane);
	if (r < 0)
		atomic_store(&rd->failed, true);
	drain(lane);
	lane->error = r;
}

/* Mapped and not malloced: the heap would keep it. In huge pages where they are to be had. */
static int map_memory(const struct reader *rd, struct lane *lane)
{
	uint64_t n_bytes = min_u64(READER_DEPTH, rd->n_chunks) * rd->plan->chunk;
	void *at = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED)
		return -errno;
	(void)madvise(at, n_bytes, MADV_HUGEPAGE);
	lane->memory = at;
	lane->memory_bytes = n_bytes;
	return 0;
}

static int open_lane(struct lane *lane)
{
	int r = map_memory(lane->rd, lane);

	if (r < 0)
		return r;
	r = lane->rd->ops->open(lane->memory, lane->memory_bytes, &lane->state);
	if (r < 0) {
		munmap(lane->memory, lane->memory_bytes);
		return r;
	}
	lane->slower = r;
	return 0;
}

static void close_lane(struct lane *lane)
{
	lane->rd->ops->close(lane->state);
	munmap(lane->memory, lane->memory_bytes);
}

/* The first lane is open and can do it all. One whose thread comes late may find everything done.
 */
static void run_lane(void *lanes, size_t i)
{
	struct lane *lane = &((struct lane *)lanes)[i];
	struct reader *rd = lane->rd;

	if (atomic_load(&rd->failed) || atomic_load(&rd->next_chunk) >= rd->n_chunks)
		return;
	if (i == 0) {
		run_open_lane(lane);
	} else if (open_lane(lane) == 0) {
		run_open_lane(lane);
		close_lane(lane);
	}
}

static int outcome(const struct lane *lanes, unsigned int n_lanes, struct reason *reason)
{
	int slower = 0;

	for (unsigned int i = 0; i < n_lanes; i++) {
		if (lanes[i].error < 0)
			return reason_set(reason, lanes[i].error, "%s", lanes[i].reason.text);
		if (slower == 0)
			slower = lanes[i].slower;
	}
	return slower;
}

unsigned int reader_lanes(uint64_t n_chunks)
{
	uint64_t busy = max_u64(n_chunks / (2 * READER_DEPTH), 1);

	return (unsigned int)min_u64(min_u64(cpus_usable(), busy), READER_MAX_LANES);
}

int reader_run(const struct reader_ops *ops, const struct read_plan *plan, struct reason *reason)
{
	struct reader rd = {
		.ops = ops,
		.plan = plan,
		.n_chunks = div_up(plan->end - plan->begin, plan->chunk),
	};
	struct lane lanes[READER_MAX_LANES] = {0};
	int r;

	assert(plan->n_lanes >= 1 && plan->n_lanes <= READER_MAX_LANES);
	for (unsigned int i = 0; i < plan->n_lanes; i++)
		lanes[i].rd = &rd;
	if (rd.n_chunks == 0)
		return 0;
	r = open_lane(&lanes[0]);
	if (r < 0)
		return reason_set(reason, r, "cannot prepare reading: %s", strerror(-r));
	parallel_for(plan->n_lanes, run_lane, lanes);
	close_lane(&lanes[0]);
	return outcome(lanes, plan->n_lanes, reason);
}

/* Plain reads: a submitted request is remembered and carried out when its end is asked for. */
struct plain {
	struct read_request requests[READER_DEPTH];
	unsigned int queue[READER_DEPTH]; /* slots, oldest first */
	unsigned int n;
};

static int plain_open(void *memory, uint64_t n_bytes, void **ret_state)
{
	(void)memory;
	(void)n_bytes;
	*ret_state = calloc(1, sizeof(struct plain));
	return *ret_state ? 0 : -ENOMEM;
}

static int plain_submit(void *state, unsigned int slot, const struct read_request *request)
{
	struct plain *p = state;

	p->requests[slot] = *request;
	p->queue[p->n++] = slot;
	return 0;
}

static int plain_complete(void *state, unsigned int *ret_slot, int *ret_result)
{
	struct plain *p = state;
	unsigned int slot = p->queue[0];
	const struct read_request *q = &p->requests[slot];
	ssize_t got = 0;

	memmove(p->queue, p->queue + 1, --p->n * sizeof(*p->queue));
	if (q->n_bytes > 0)
		got = pread(q->fd, q->to, q->n_bytes, (off_t)q->offset);
	*ret_slot = slot;
	*ret_result = got < 0 ? -errno : (int)got;
	return 0;
}

/* Nothing left to do becomes a read of nothing, which ends at once. */
static void plain_cancel(void *state)
{
	struct plain *p = state;

	for (unsigned int i = 0; i < p->n; i++)
		p->requests[p->queue[i]].n_bytes = 0;
}

const struct reader_ops plain_reader = {
	.open = plain_open,
	.submit = plain_submit,
	.complete = plain_complete,
	.cancel = plain_cancel,
	.close = free,
};
