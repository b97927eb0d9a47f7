#include "daemon/loop.h"

#include <signal.h>
#include <systemd/sd-event.h>

struct loop {
	sd_event *event;
	bool stopping;
	struct loop_defer *deferred;
};

struct loop_source {
	sd_event_source *source;
	union {
		loop_fn *fn;
		loop_io_fn *io_fn;
	};
	void *user;
};

int loop_new(struct loop **ret)
{
	struct loop *loop = calloc(1, sizeof(*loop));
	int r;

	if (!loop)
		return -ENOMEM;
	r = sd_event_new(&loop->event);
	if (r < 0) {
		free(loop);
		return r;
	}
	*ret = loop;
	return 0;
}

void loop_run_deferred(struct loop *loop)
{
	while (loop->deferred) {
		struct loop_defer *d = loop->deferred;

		loop->deferred = d->next;
		d->fn(d->user);
	}
}

struct loop *loop_free(struct loop *loop)
{
	if (!loop)
		return NULL;
	loop_run_deferred(loop);
	sd_event_unref(loop->event);
	free(loop);
	return NULL;
}

int loop_run(struct loop *loop)
{
	while (!loop->stopping) {
		int r = sd_event_run(loop->event, UINT64_MAX);

		loop_run_deferred(loop);
		if (r < 0)
			return r;
		/* A failing callback makes sd-event ask for the exit with its errno as code. */
		if (sd_event_get_state(loop->event) == SD_EVENT_FINISHED) {
			int code = 0;

			sd_event_get_exit_code(loop->event, &code);
			return code;
		}
	}
	return 0;
}

void loop_stop(struct loop *loop)
{
	loop->stopping = true;
}

void loop_defer(struct loop *loop, struct loop_defer *defer, void (*fn)(void *user), void *user)
{
	*defer = (struct loop_defer){.next = loop->deferred, .fn = fn, .user = user};
	loop->deferred = defer;
}

static struct loop_source *source_new(void *user)
{
	struct loop_source *s = calloc(1, sizeof(*s));

	if (s)
		s->user = user;
	return s;
}

/* What the three kinds share: take over the new source, or free it where `r` says it failed. A
 * callback that fails must not be quietly disabled, which is what sd-event does by itself. */
static int source_ready(struct loop_source *s, int r, struct loop_source **ret)
{
	if (r >= 0)
		r = sd_event_source_set_exit_on_failure(s->source, true);
	if (r < 0) {
		loop_source_free(s);
		return r;
	}
	*ret = s;
	return 0;
}

static int on_io(sd_event_source *source, int fd, uint32_t revents, void *user)
{
	struct loop_source *s = user;

	(void)source;
	(void)fd;
	return s->io_fn(s->user, revents);
}

int loop_add_io(struct loop *loop, int fd, uint32_t epoll_events, loop_io_fn *fn, void *user,
	struct loop_source **ret)
{
	struct loop_source *s = source_new(user);

	if (!s)
		return -ENOMEM;
	s->io_fn = fn;
	return source_ready(
		s, sd_event_add_io(loop->event, &s->source, fd, epoll_events, on_io, s), ret);
}

int loop_source_set_events(struct loop_source *source, uint32_t epoll_events)
{
	return sd_event_source_set_io_events(source->source, epoll_events);
}

static int on_timer(sd_event_source *source, uint64_t usec, void *user)
{
	struct loop_source *s = user;

	(void)source;
	(void)usec;
	return s->fn(s->user);
}

int loop_add_timer(struct loop *loop, loop_fn *fn, void *user, struct loop_source **ret)
{
	struct loop_source *s = source_new(user);
	int r;

	if (!s)
		return -ENOMEM;
	s->fn = fn;
	r = sd_event_add_time(loop->event, &s->source, CLOCK_MONOTONIC, UINT64_MAX, 0, on_timer, s);
	if (r >= 0)
		r = sd_event_source_set_enabled(s->source, SD_EVENT_OFF);
	return source_ready(s, r, ret);
}

int loop_timer_set(struct loop_source *source, uint64_t after_ms)
{
	int r;

	r = sd_event_source_set_time_relative(source->source, after_ms * 1000);
	if (r < 0)
		return r;
	return sd_event_source_set_enabled(source->source, SD_EVENT_ONESHOT);
}

static int on_signal(sd_event_source *source, const struct signalfd_siginfo *info, void *user)
{
	struct loop_source *s = user;

	(void)source;
	(void)info;
	return s->fn(s->user);
}

int loop_add_signal(
	struct loop *loop, int signal, loop_fn *fn, void *user, struct loop_source **ret)
{
	struct loop_source *s;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, signal);
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
		return -errno;
	s = source_new(user);
	if (!s)
		return -ENOMEM;
	s->fn = fn;
	return source_ready(
		s, sd_event_add_signal(loop->event, &s->source, signal, on_signal, s), ret);
}

struct loop_source *loop_source_free(struct loop_source *source)
{
	if (!source)
		return NULL;
	sd_event_source_disable_unref(source->source);
	free(source);
	return NULL;
}
