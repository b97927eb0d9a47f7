#include "common/mailbox.h"

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>

struct mailbox {
	pthread_mutex_t lock;
	struct mail *first;
	struct mail **end; /* where the next message is linked */
	int fd;
};

int mailbox_new(struct mailbox **ret)
{
	_cleanup_(freep) struct mailbox *box = calloc(1, sizeof(*box));

	if (!box)
		return -ENOMEM;
	box->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (box->fd < 0)
		return -errno;
	pthread_mutex_init(&box->lock, NULL);
	box->end = &box->first;
	*ret = take_ptr(box);
	return 0;
}

struct mailbox *mailbox_free(struct mailbox *box, void (*drop)(struct mail *))
{
	struct mail *next;

	if (!box)
		return NULL;
	for (struct mail *m = box->first; m; m = next) {
		next = m->next;
		drop(m);
	}
	close(box->fd);
	pthread_mutex_destroy(&box->lock);
	free(box);
	return NULL;
}

int mailbox_fd(const struct mailbox *box)
{
	return box->fd;
}

void mailbox_post(struct mailbox *box, struct mail *mail)
{
	bool was_empty;

	mail->next = NULL;
	pthread_mutex_lock(&box->lock);
	was_empty = !box->first;
	*box->end = mail;
	box->end = &mail->next;
	pthread_mutex_unlock(&box->lock);
	if (was_empty)
		eventfd_write(box->fd, 1);
}

struct mail *mailbox_take(struct mailbox *box)
{
	eventfd_t ignored;
	struct mail *all;

	/* Clearing before taking: a message posted in between leaves the fd readable. */
	eventfd_read(box->fd, &ignored);
	pthread_mutex_lock(&box->lock);
	all = box->first;
	box->first = NULL;
	box->end = &box->first;
	pthread_mutex_unlock(&box->lock);
	return all;
}

void mailbox_wait(struct mailbox *box, int timeout_ms)
{
	struct pollfd p = {.fd = box->fd, .events = POLLIN};

	poll(&p, 1, timeout_ms);
}
