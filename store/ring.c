#include "store/ring.h"

#include <liburing.h>

/* A completion that belongs to no slot: the answer to a cancellation. */
#define NO_SLOT UINT64_MAX

static int ring_open(void **ret_state)
{
	_cleanup_(freep) struct io_uring *ring = calloc(1, sizeof(*ring));
	int r;

	if (!ring)
		return -ENOMEM;
	/* Room for a cancellation beside every read. */
	r = io_uring_queue_init(2 * READER_DEPTH, ring, 0);
	if (r < 0)
		return r;
	*ret_state = take_ptr(ring);
	return 0;
}

static int enter(struct io_uring *ring)
{
	int r;

	do
		r = io_uring_submit(ring);
	while (r == -EINTR);
	return r < 0 ? r : 0;
}

static int ring_submit(void *state, unsigned int slot, const struct read_request *request)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(state);
	int r;

	if (!sqe)
		return -EBUSY;
	io_uring_prep_read(
		sqe, request->fd, request->to, (unsigned int)request->n_bytes, request->offset);
	/* By a worker of the kernel: new memory is cleared page by page as a read meets it, and on
	 * this thread that would hold up the digests. */
	io_uring_sqe_set_flags(sqe, IOSQE_ASYNC);
	io_uring_sqe_set_data64(sqe, slot);
	r = enter(state);
	if (r < 0) {
		/* It stays in the queue, and must not start with what is submitted later. */
		io_uring_prep_nop(sqe);
		io_uring_sqe_set_data64(sqe, NO_SLOT);
	}
	return r;
}

static int ring_complete(void *state, unsigned int *ret_slot, int *ret_result)
{
	for (;;) {
		struct io_uring_cqe *cqe;
		uint64_t slot;
		int r = io_uring_wait_cqe(state, &cqe);

		if (r == -EINTR || r == -EAGAIN)
			continue;
		if (r < 0)
			return r;
		slot = io_uring_cqe_get_data64(cqe);
		*ret_result = cqe->res;
		io_uring_cqe_seen(state, cqe);
		if (slot == NO_SLOT)
			continue;
		*ret_slot = (unsigned int)slot;
		return 0;
	}
}

/* A read that is already past cancelling ends by itself; both end in ring_complete(). */
static void ring_cancel(void *state)
{
	for (unsigned int slot = 0; slot < READER_DEPTH; slot++) {
		struct io_uring_sqe *sqe = io_uring_get_sqe(state);

		if (!sqe)
			break;
		io_uring_prep_cancel64(sqe, slot, 0);
		io_uring_sqe_set_data64(sqe, NO_SLOT);
	}
	(void)enter(state);
}

static void ring_close(void *state)
{
	io_uring_queue_exit(state);
	free(state);
}

const struct reader_ops ring_reader = {
	.open = ring_open,
	.submit = ring_submit,
	.complete = ring_complete,
	.cancel = ring_cancel,
	.close = ring_close,
};
