#include "store/ring.h"

#include <liburing.h>

/* A completion that belongs to no slot: the answer to a cancellation. */
#define NO_SLOT UINT64_MAX

struct ring {
	struct io_uring uring;
	/* Is the memory registered, its pages held once and not by every read? It counts as locked
	 * then, of which RLIMIT_MEMLOCK allows its user so much, unless he has CAP_IPC_LOCK. Where
	 * that is refused, reads hold and let go of it themselves. */
	bool registered;
};

static int ring_open(void *memory, uint64_t n_bytes, void **ret_state)
{
	_cleanup_(freep) struct ring *ring = calloc(1, sizeof(*ring));
	const struct iovec all = {.iov_base = memory, .iov_len = n_bytes};
	int r;

	if (!ring)
		return -ENOMEM;
	/* Room for a cancellation beside every read. */
	r = io_uring_queue_init(2 * READER_DEPTH, &ring->uring, 0);
	if (r < 0)
		return r;
	r = n_bytes > 0 ? io_uring_register_buffers(&ring->uring, &all, 1) : 0;
	ring->registered = n_bytes > 0 && r == 0;
	*ret_state = take_ptr(ring);
	return -r;
}

static int enter(struct io_uring *uring)
{
	int r;

	do
		r = io_uring_submit(uring);
	while (r == -EINTR);
	return r < 0 ? r : 0;
}

static int ring_submit(void *state, unsigned int slot, const struct read_request *request)
{
	struct ring *ring = state;
	struct io_uring_sqe *sqe = io_uring_get_sqe(&ring->uring);
	int r;

	if (!sqe)
		return -EBUSY;
	if (ring->registered)
		io_uring_prep_read_fixed(sqe, request->fd, request->to,
			(unsigned int)request->n_bytes, request->offset, 0);
	else
		io_uring_prep_read(sqe, request->fd, request->to, (unsigned int)request->n_bytes,
			request->offset);
	io_uring_sqe_set_data64(sqe, slot);
	r = enter(&ring->uring);
	if (r < 0) {
		/* It stays in the queue, and must not start with what is submitted later. */
		io_uring_prep_nop(sqe);
		io_uring_sqe_set_data64(sqe, NO_SLOT);
	}
	return r;
}

static int ring_complete(void *state, unsigned int *ret_slot, int *ret_result)
{
	struct ring *ring = state;

	for (;;) {
		struct io_uring_cqe *cqe;
		uint64_t slot;
		int r = io_uring_wait_cqe(&ring->uring, &cqe);

		if (r == -EINTR || r == -EAGAIN)
			continue;
		if (r < 0)
			return r;
		slot = io_uring_cqe_get_data64(cqe);
		*ret_result = cqe->res;
		io_uring_cqe_seen(&ring->uring, cqe);
		if (slot == NO_SLOT)
			continue;
		*ret_slot = (unsigned int)slot;
		return 0;
	}
}

/* A read that is already past cancelling ends by itself; both end in ring_complete(). */
static void ring_cancel(void *state)
{
	struct ring *ring = state;

	for (unsigned int slot = 0; slot < READER_DEPTH; slot++) {
		struct io_uring_sqe *sqe = io_uring_get_sqe(&ring->uring);

		if (!sqe)
			break;
		io_uring_prep_cancel64(sqe, slot, 0);
		io_uring_sqe_set_data64(sqe, NO_SLOT);
	}
	(void)enter(&ring->uring);
}

static void ring_close(void *state)
{
	struct ring *ring = state;

	io_uring_queue_exit(&ring->uring);
	free(ring);
}

const struct reader_ops ring_reader = {
	.open = ring_open,
	.submit = ring_submit,
	.complete = ring_complete,
	.cancel = ring_cancel,
	.close = ring_close,
};
