#include "daemon/request.h"

#include "common/clock.h"
#include "daemon/jobs.h"
#include "daemon/log.h"
#include "daemon/server.h"
#include "daemon/session.h"

#include <string.h>

/* What a negative result of loading or checking means to a client. */
static enum proto_status status_of(int error)
{
	switch (-error) {
	case EMEDIUMTYPE:
		return PROTO_STATUS_WRONG_BASE;
	case EOPNOTSUPP:
		return PROTO_STATUS_NOT_SUPPORTED;
	case ENOMEM:
		return PROTO_STATUS_BUDGET;
	default:
		return PROTO_STATUS_LOAD_FAILED;
	}
}

static void request_unlink(struct request *r)
{
	struct request **at;

	if (!r->session)
		return;
	at = &r->session->requests;
	while (*at != r)
		at = &(*at)->next;
	*at = r->next;
	r->session = NULL;
}

static void message_free(struct wire_received *message)
{
	if (message)
		wire_received_done(message);
	free(message);
}

void request_end(struct request *r)
{
	struct server *server = r->server;

	request_unlink(r);
	registry_forget(server->registry, &r->waiter);
	if (r->job) {
		jobs_remove(server->jobs, r->job);
		r->entry->n_streams--;
	}
	if (r->entry)
		registry_release(server->registry, r->entry);
	charge_release(&r->charge);
	stream_free(r->stream);
	message_free(r->message);
	free(r);
	server->n_requests--;
	server_check_drained(server);
}

void request_fail(struct request *r, enum proto_status status, const struct reason *reason)
{
	if (r->session)
		session_send_error(r->session, r->number, status, reason);
	request_end(r);
}

static void fail_with_words(struct request *r, enum proto_status status, const char *words)
{
	struct reason reason;

	reason_set(&reason, 0, "%s", words);
	request_fail(r, status, &reason);
}

static bool number_in_use(const struct session *s, uint64_t number)
{
	for (const struct request *r = s->requests; r; r = r->next)
		if (r->number == number)
			return true;
	return false;
}

static struct request *refuse(
	struct session *s, uint64_t number, enum proto_status status, const struct reason *reason)
{
	session_send_error(s, number, status, reason);
	return NULL;
}

/* A charged request in the session's list; NULL if it was refused, with the answer sent. */
static struct request *request_new(struct session *s, uint64_t number)
{
	_cleanup_(freep) struct request *r = NULL;
	struct server *server = s->server;
	struct reason reason;
	int error;

	if (server->draining) {
		reason_set(&reason, 0, "the daemon is shutting down");
		return refuse(s, number, PROTO_STATUS_SHUTTING_DOWN, &reason);
	}
	if (number_in_use(s, number)) {
		reason_set(&reason, 0, "request %llu is still running", (unsigned long long)number);
		return refuse(s, number, PROTO_STATUS_BAD_ARGUMENT, &reason);
	}
	r = calloc(1, sizeof(*r));
	error = r ? acct_charge(server->acct, s->peer.uid, ACCT_KIND_REQUESTS, 1, &r->charge)
		  : -ENOMEM;
	if (error == ACCT_E_LIMIT) {
		reason_set(&reason, 0, "user %u has %llu requests, the most one may have",
			s->peer.uid, (unsigned long long)server->config->limits_requests_per_user);
		return refuse(s, number, PROTO_STATUS_BUSY, &reason);
	}
	if (error < 0) {
		reason_set(&reason, 0, "%s", strerror(-error));
		return refuse(s, number, PROTO_STATUS_INTERNAL, &reason);
	}
	r->server = server;
	r->session = s;
	r->number = number;
	r->begun_ns = clock_ns();
	r->next = s->requests;
	s->requests = r;
	server->n_requests++;
	return take_ptr(r);
}

static void answer_load_failure(struct request *r, int error, const struct reason *reason)
{
	request_fail(r, status_of(error), reason);
}

static void on_loaded(struct waiter *w, int condition, int error, const struct reason *reason)
{
	struct request *r = container_of(w, struct request, waiter);

	if (condition == REGISTRY_E_FAILED) {
		answer_load_failure(r, error, reason);
		return;
	}
	r->entry = take_ptr(w->entry);
	r->load_ns = clock_ns() - r->begun_ns;
	r->ready(r, &r->message->message);
}

/* A name of the protocol as text; false if it cannot be one. */
static bool name_of(struct proto_str name, char ret[static REGISTRY_MAX_NAME + 1])
{
	if (name.n > REGISTRY_MAX_NAME || memchr(name.bytes, '\0', name.n))
		return false;
	memcpy(ret, name.bytes, name.n);
	ret[name.n] = '\0';
	return true;
}

static void answer_condition(struct request *r, enum registry_condition condition, const char *name,
	struct reason *reason)
{
	const struct entry *entry = registry_find(r->server->registry, name);

	switch (condition) {
	case REGISTRY_E_WAIT:
		return;
	case REGISTRY_E_UNKNOWN:
		reason_set(reason, 0, "there is no variant \"%s\"", name);
		request_fail(r, PROTO_STATUS_UNKNOWN_VARIANT, reason);
		return;
	case REGISTRY_E_FAILED:
		answer_load_failure(r, entry ? entry->error : -EIO, reason);
		return;
	case REGISTRY_E_BUDGET:
		reason_prefix(reason, 0, "variant \"%s\"", name);
		request_fail(r, PROTO_STATUS_BUDGET, reason);
		return;
	case REGISTRY_E_NOT_RESIDENT:
		reason_set(reason, 0, "variant \"%s\" is not in memory", name);
		request_fail(r, PROTO_STATUS_NOT_RESIDENT, reason);
		return;
	case REGISTRY_E_PINNED:
		reason_set(reason, 0, "variant \"%s\" is pinned, or the base", name);
		request_fail(r, PROTO_STATUS_NOT_PERMITTED, reason);
		return;
	}
}

void request_begin(struct session *s, const struct proto_message *m, struct proto_str variant,
	bool fresh, request_fn *ready)
{
	char name[REGISTRY_MAX_NAME + 1] = "?";
	struct request *r = request_new(s, m->request);
	struct reason reason = {""};
	int condition = REGISTRY_E_UNKNOWN;

	if (!r)
		return;
	r->ready = ready;
	r->waiter.ready = on_loaded;
	r->message = take_ptr(s->server->received);
	if (name_of(variant, name))
		condition = registry_acquire(
			s->server->registry, name, fresh, &r->waiter, &r->entry, &reason);
	if (condition == 0) {
		r->ready(r, &r->message->message);
	} else if (condition < 0) {
		if (!reason.text[0])
			reason_set(&reason, 0, "%s: %s", name, strerror(-condition));
		answer_load_failure(r, condition, &reason);
	} else {
		answer_condition(r, (enum registry_condition)condition, name, &reason);
	}
}

static void answer_unloaded(struct request *r)
{
	if (r->session)
		session_send_ok(r->session, r->number, "");
	request_end(r);
}

static void on_left(struct waiter *w, int condition, int error, const struct reason *reason)
{
	(void)condition;
	(void)error;
	(void)reason;
	answer_unloaded(container_of(w, struct request, waiter));
}

void request_begin_unload(struct session *s, const struct proto_message *m)
{
	char name[REGISTRY_MAX_NAME + 1] = "?";
	struct request *r = request_new(s, m->request);
	struct reason reason = {""};
	int condition = REGISTRY_E_NOT_RESIDENT;

	if (!r)
		return;
	r->waiter.ready = on_left;
	if (name_of(m->name.name, name))
		condition = registry_unload(s->server->registry, name, &r->waiter);
	if (condition == 0)
		answer_unloaded(r);
	else
		answer_condition(r, (enum registry_condition)condition, name, &reason);
}

void request_submit(struct request *r, struct job_spec *spec, struct stream *stream)
{
	struct server *server = r->server;
	int condition;

	r->stream = stream;
	spec->variant = r->entry->loaded->variant;
	spec->id = jobs_add(server->jobs, r);
	condition = spec->id ? engine_submit(server->engine, spec) : ENGINE_E_BUSY;
	if (condition != 0)
		jobs_remove(server->jobs, spec->id);
	if (condition == ENGINE_E_BUSY) {
		fail_with_words(
			r, PROTO_STATUS_BUSY, "the engine has as many requests as it takes");
		return;
	}
	if (condition == ENGINE_E_TOO_LONG) {
		fail_with_words(r, PROTO_STATUS_TOO_LONG,
			"prompt and answer together exceed the context or the memory for keys and "
			"values");
		return;
	}
	if (condition < 0) {
		log_error("cannot submit a job: %s", strerror(-condition));
		fail_with_words(r, PROTO_STATUS_INTERNAL, strerror(-condition));
		return;
	}
	r->job = spec->id;
	r->entry->n_requests++;
	r->entry->n_streams++;
	message_free(take_ptr(r->message));
	if (r->session && r->session->throttled)
		request_pause(r);
}

/* In the end the engine goes first, and its last words may still fill a queue. */
void request_pause(struct request *r)
{
	if (!r->job || r->paused || !r->server->engine)
		return;
	r->paused = true;
	r->server->n_paused++;
	engine_pause(r->server->engine, r->job);
}

void request_resume(struct request *r)
{
	if (!r->paused)
		return;
	r->paused = false;
	r->server->n_paused--;
	if (r->server->engine)
		engine_resume(r->server->engine, r->job);
}

static void send_done(struct request *r, struct proto_done *done)
{
	struct proto_message m = {.op = PROTO_DONE, .request = r->number};

	if (!r->session)
		return;
	done->load_ns = r->load_ns;
	m.done = *done;
	session_send(r->session, &m);
}

void request_cancel(struct request *r)
{
	struct proto_done done = {.finish = PROTO_FINISH_CANCELLED};

	r->cancelled = true;
	if (r->job) {
		engine_cancel(r->server->engine, r->job);
		return;
	}
	send_done(r, &done);
	request_end(r);
}

void request_abandon(struct request *r)
{
	request_unlink(r);
	if (!r->job) {
		request_end(r);
		return;
	}
	/* A paused job ends as any other; only the count of paused ones must be right. */
	request_resume(r);
	engine_cancel(r->server->engine, r->job);
}

static void send_token(struct request *r, const struct sampled *sampled, const char *text, size_t n)
{
	struct proto_message m = {.op = PROTO_TOKEN, .request = r->number};

	m.token.token = sampled->token;
	m.token.logprob = sampled->logprob;
	m.token.text = (struct proto_str){text, (uint32_t)n};
	m.token.n_top = sampled->n_top;
	for (uint32_t i = 0; i < sampled->n_top; i++)
		m.token.top[i] =
			(struct proto_logprob){sampled->top[i].token, sampled->top[i].logprob};
	r->n_sent++;
	session_send(r->session, &m);
}

static void on_token(struct request *r, const struct sampled *sampled)
{
	const char *text;
	size_t n, n_stop;
	int condition;

	/* Tokens that were on their way when the text ended, or when the client left. */
	if (r->stopped || !r->session)
		return;
	r->entry->n_generated++;
	condition = stream_push(r->stream, sampled->token, &text, &n);
	if (condition == STREAM_E_STOP) {
		r->stopped = true;
		engine_stop(r->server->engine, r->job);
		if (!stream_stop(r->stream, &n_stop)) {
			r->rest = text;
			r->n_rest = n;
			return;
		}
	}
	send_token(r, sampled, text, n);
}

static void describe_end(
	const struct request *r, const struct engine_event *event, struct proto_done *done)
{
	switch (event->reason) {
	case FINISH_STOP:
		done->finish = PROTO_FINISH_STOP;
		return;
	case FINISH_LENGTH:
		done->finish = r->stopped ? PROTO_FINISH_STOP : PROTO_FINISH_LENGTH;
		return;
	case FINISH_CANCELLED:
		if (r->cancelled) {
			done->finish = PROTO_FINISH_CANCELLED;
			return;
		}
		break;
	case FINISH_SHUTDOWN:
		break;
	case FINISH_ERROR:
		done->finish = PROTO_FINISH_ERROR;
		done->status = PROTO_STATUS_INTERNAL;
		done->words = proto_str(strerror(-event->error));
		return;
	}
	done->finish = PROTO_FINISH_ERROR;
	done->status = PROTO_STATUS_SHUTTING_DOWN;
	done->words = proto_str("the daemon is shutting down");
}

static void on_finished(struct request *r, const struct engine_event *event)
{
	struct proto_done done = {
		.n_prompt = event->n_prompt,
		.n_generated = r->n_sent,
		.queue_ns = event->queue_ns,
		.prompt_ns = event->prompt_ns,
		.decode_ns = event->decode_ns,
	};
	const char *stop;
	size_t n_stop = 0;

	describe_end(r, event, &done);
	if (!r->stopped && stream_end(r->stream, &r->rest, &r->n_rest) == STREAM_E_STOP)
		done.finish = PROTO_FINISH_STOP;
	done.text = (struct proto_str){r->rest, (uint32_t)r->n_rest};
	stop = stream_stop(r->stream, &n_stop);
	done.stop = (struct proto_str){stop, (uint32_t)n_stop};
	if (r->paused)
		r->server->n_paused--;
	send_done(r, &done);
	request_end(r);
}

void request_on_event(struct request *r, const struct engine_event *event)
{
	switch (event->kind) {
	case ENGINE_EVENT_TOKEN:
		on_token(r, &event->sampled);
		return;
	case ENGINE_EVENT_FINISHED:
		on_finished(r, event);
		return;
	}
}
