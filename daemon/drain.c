/*
 * How the daemon ends: no new connections and requests; running requests may finish within the
 * configured time, then they are cancelled; it is over when all have ended and the clients have
 * taken their answers, or do not within a grace time.
 */
#include "daemon/log.h"
#include "daemon/notify.h"
#include "daemon/request.h"
#include "daemon/server.h"
#include "daemon/session.h"

#include <string.h>

#define GRACE_MS 2000

static void finish(struct server *server)
{
	server->drained = true;
	loop_stop(server->loop);
}

void server_check_drained(struct server *server)
{
	if (!server->draining || server->drained || server->n_requests)
		return;
	for (const struct session *s = server->sessions; s; s = s->next)
		if (s->first && !s->closed)
			return;
	finish(server);
}

static void refuse_waiting(struct session *s)
{
	struct reason reason;
	struct request *next;

	reason_set(&reason, 0, "the daemon is shutting down");
	for (struct request *r = s->requests; r; r = next) {
		next = r->next;
		if (!r->job)
			request_fail(r, PROTO_STATUS_SHUTTING_DOWN, &reason);
	}
}

static void cancel_all(struct server *server)
{
	server->cancelling = true;
	log_info("cancelling %llu requests", (unsigned long long)server->n_requests);
	for (size_t i = 0; i < jobs_places(server->jobs); i++) {
		const struct request *r = jobs_at(server->jobs, i);

		if (r)
			engine_cancel(server->engine, r->job);
	}
	for (struct session *s = server->sessions; s; s = s->next)
		refuse_waiting(s);
}

static int on_drain_timer(void *user)
{
	struct server *server = user;

	if (server->cancelling) {
		finish(server);
		return 0;
	}
	cancel_all(server);
	return loop_timer_set(server->drain_timer, GRACE_MS);
}

static int start_timer(struct server *server, uint64_t ms)
{
	int r;

	if (!server->drain_timer) {
		r = loop_add_timer(server->loop, on_drain_timer, server, &server->drain_timer);
		if (r < 0)
			return r;
	}
	return loop_timer_set(server->drain_timer, ms);
}

void server_drain(struct server *server)
{
	int r;

	if (!server->draining) {
		server->draining = true;
		notify_stopping();
		notify_status("finishing %llu requests", (unsigned long long)server->n_requests);
		log_info("ending: %llu requests are running",
			(unsigned long long)server->n_requests);
		for (size_t i = 0; i < array_len(server->listeners); i++)
			server->listeners[i] = listener_free(server->listeners[i]);
		r = start_timer(server, server->config->shutdown_drain);
	} else {
		r = server->cancelling ? 0 : start_timer(server, 0);
	}
	if (r < 0) {
		log_error("no timer for the end, so it is now: %s", strerror(-r));
		finish(server);
	}
	server_check_drained(server);
}
