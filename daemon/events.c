#include "daemon/events.h"

#include "common/mailbox.h"

struct event_mail {
	struct mail mail;
	struct engine_event event;
};

struct events {
	struct mailbox *to_loop;
	struct mailbox *to_engine; /* empty messages on their way back */
	struct mail *waiting;      /* the loop's: taken from the box, not yet handed out */
	struct mail *spare;        /* the engine's: empty messages */
};

static void free_list(struct mail *m)
{
	while (m) {
		struct mail *next = m->next;

		free(container_of(m, struct event_mail, mail));
		m = next;
	}
}

struct events *events_free(struct events *e)
{
	if (!e)
		return NULL;
	free_list(e->waiting);
	free_list(e->spare);
	if (e->to_loop)
		free_list(mailbox_take(e->to_loop));
	if (e->to_engine)
		free_list(mailbox_take(e->to_engine));
	mailbox_free(e->to_loop, NULL);
	mailbox_free(e->to_engine, NULL);
	free(e);
	return NULL;
}

int events_new(size_t n, struct events **ret)
{
	struct events *e = calloc(1, sizeof(*e));
	int r;

	if (!e)
		return -ENOMEM;
	r = mailbox_new(&e->to_loop);
	if (r >= 0)
		r = mailbox_new(&e->to_engine);
	for (size_t i = 0; i < n && r >= 0; i++) {
		struct event_mail *m = calloc(1, sizeof(*m));

		if (!m)
			r = -ENOMEM;
		else
			mailbox_post(e->to_engine, &m->mail);
	}
	if (r < 0) {
		events_free(e);
		return r;
	}
	*ret = e;
	return 0;
}

/* A lost event would leave its request hanging for ever, so the engine rather waits for memory. */
static struct event_mail *spare_mail(struct events *e)
{
	struct mail *m;

	if (!e->spare)
		e->spare = mailbox_take(e->to_engine);
	m = e->spare;
	if (m) {
		e->spare = m->next;
		return container_of(m, struct event_mail, mail);
	}
	for (;;) {
		struct event_mail *made = calloc(1, sizeof(*made));

		if (made)
			return made;
		usleep(10000);
	}
}

void events_emit(void *events, const struct engine_event *event)
{
	struct events *e = events;
	struct event_mail *m = spare_mail(e);

	m->event = *event;
	mailbox_post(e->to_loop, &m->mail);
}

int events_fd(const struct events *e)
{
	return mailbox_fd(e->to_loop);
}

bool events_take(struct events *e, struct engine_event *ret)
{
	struct mail *m;

	if (!e->waiting)
		e->waiting = mailbox_take(e->to_loop);
	m = e->waiting;
	if (!m)
		return false;
	e->waiting = m->next;
	*ret = container_of(m, struct event_mail, mail)->event;
	mailbox_post(e->to_engine, m);
	return true;
}
