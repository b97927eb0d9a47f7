#include "store/reader.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

/* One chunk under way: [at, end) of the file is still missing. */
struct slot {
	bool busy;
	bool direct;
	unsigned int n_retries;
	uint64_t index;
	uint64_t at, end;
};

struct reader {
	const struct reader_ops *ops;
	const struct read_plan *plan;
	void *state;
	uint64_t next_chunk, n_chunks;
	unsigned int n_busy;
	struct slot slots[READER_DEPTH];
};

static int submit(struct reader *rd, unsigned int i, struct reason *reason)
{
	const struct read_plan *plan = rd->plan;
	struct slot *s = &rd->slots[i];
	struct read_request request = {
		.fd = s->direct ? plan->direct_fd : plan->fd,
		.to = plan->to + (s->at - plan->begin),
		.n_bytes = s->end - s->at,
		.offset = s->at,
	};
	int r = rd->ops->submit(rd->state, i, &request);

	if (r < 0)
		return reason_set(reason, r,
			"cannot start reading %" PRIu64 " bytes at %" PRIu64 ": %s",
			request.n_bytes, request.offset, strerror(-r));
	s->busy = true;
	rd->n_busy++;
	return 0;
}

static int submit_next_chunk(struct reader *rd, unsigned int i, struct reason *reason)
{
	const struct read_plan *plan = rd->plan;
	uint64_t at = plan->begin + rd->next_chunk * plan->chunk;

	rd->slots[i] = (struct slot){
		.direct = plan->direct_fd >= 0,
		.index = rd->next_chunk++,
		.at = at,
		.end = min_u64(at + plan->chunk, plan->end),
	};
	return submit(rd, i, reason);
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

static int complete_one(struct reader *rd, struct reason *reason)
{
	const struct read_plan *plan = rd->plan;
	unsigned int i;
	bool arrived;
	int result, r;

	r = rd->ops->complete(rd->state, &i, &result);
	if (r < 0)
		return reason_set(reason, r, "cannot wait for reads: %s", strerror(-r));
	rd->slots[i].busy = false;
	rd->n_busy--;
	r = take_result(&rd->slots[i], result, &arrived, reason);
	if (r < 0)
		return r;
	if (!arrived)
		return submit(rd, i, reason);
	r = plan->arrived(plan->user, rd->slots[i].index, reason);
	if (r < 0 || rd->next_chunk == rd->n_chunks)
		return r;
	return submit_next_chunk(rd, i, reason);
}

/* Nothing may write to the memory after we return, so what is under way is waited for. */
static void drain(struct reader *rd)
{
	unsigned int i;
	int result;

	if (rd->n_busy == 0)
		return;
	rd->ops->cancel(rd->state);
	while (rd->n_busy > 0 && rd->ops->complete(rd->state, &i, &result) == 0)
		rd->n_busy--;
}

int reader_run(const struct reader_ops *ops, const struct read_plan *plan, struct reason *reason)
{
	struct reader rd = {
		.ops = ops,
		.plan = plan,
		.n_chunks = div_up(plan->end - plan->begin, plan->chunk),
	};
	int r = ops->open(&rd.state);

	if (r < 0)
		return reason_set(reason, r, "cannot prepare reading: %s", strerror(-r));
	for (unsigned int i = 0; r == 0 && i < READER_DEPTH && rd.next_chunk < rd.n_chunks; i++)
		r = submit_next_chunk(&rd, i, reason);
	while (r == 0 && rd.n_busy > 0)
		r = complete_one(&rd, reason);
	drain(&rd);
	ops->close(rd.state);
	return r;
}

/* Plain reads: a submitted request is remembered and carried out when its end is asked for. */
struct plain {
	struct read_request requests[READER_DEPTH];
	unsigned int queue[READER_DEPTH]; /* slots, oldest first */
	unsigned int n;
};

static int plain_open(void **ret_state)
{
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
