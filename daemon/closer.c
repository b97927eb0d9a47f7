#include "daemon/closer.h"

#include "common/thread.h"

struct closer {
	pthread_t thread;
	struct mailbox *given, *closed;
	struct mail *taken; /* from `closed`, not yet from here; the loop's, as the next two are */
	size_t n_given;     /* and not taken back */
	struct closing end; /* of the thread */
};

static void *run(void *user)
{
	struct closer *c = user;
	bool more = true;

	while (more) {
		struct mail *mail, *next;

		mailbox_wait(c->given, -1);
		for (mail = mailbox_take(c->given); mail; mail = next) {
			struct closing *closing = container_of(mail, struct closing, mail);

			next = mail->next;
			if (closing == &c->end) {
				more = false;
				continue;
			}
			for (size_t i = 0; i < array_len(closing->fds); i++)
				closep(&closing->fds[i]);
			mailbox_post(c->closed, mail);
		}
	}
	return NULL;
}

int closer_new(struct closer **ret)
{
	struct closer *c = calloc(1, sizeof(*c));
	int r;

	if (!c)
		return -ENOMEM;
	r = mailbox_new(&c->given);
	if (r >= 0)
		r = mailbox_new(&c->closed);
	if (r >= 0)
		r = thread_start(&c->thread, "deltad-closer", run, c);
	if (r < 0) {
		mailbox_free(c->closed, NULL);
		mailbox_free(c->given, NULL);
		free(c);
		return r;
	}
	*ret = c;
	return 0;
}

struct closer *closer_free(struct closer *c)
{
	if (!c)
		return NULL;
	if (c->n_given) {
		pthread_detach(c->thread);
		return NULL;
	}
	mailbox_post(c->given, &c->end.mail);
	pthread_join(c->thread, NULL);
	mailbox_free(c->closed, NULL);
	mailbox_free(c->given, NULL);
	free(c);
	return NULL;
}

void closer_give(struct closer *c, struct closing *closing)
{
	c->n_given++;
	mailbox_post(c->given, &closing->mail);
}

int closer_fd(const struct closer *c)
{
	return mailbox_fd(c->closed);
}

struct closing *closer_take(struct closer *c)
{
	struct mail *first;

	if (!c->taken)
		c->taken = mailbox_take(c->closed);
	first = c->taken;
	if (!first)
		return NULL;
	c->taken = first->next;
	c->n_given--;
	return container_of(first, struct closing, mail);
}
