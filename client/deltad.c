#include "client/deltad.h"

#include "client/handle.h"
#include "client/options.h"

#include <string.h>

static const char *program(void)
{
	return program_invocation_short_name;
}

static struct deltad *new_handle(void)
{
	return calloc(1, sizeof(struct deltad));
}

int deltad_connect(const char *path, struct deltad **ret)
{
	struct deltad *d = new_handle();
	int r;

	if (!d)
		return -ENOMEM;
	if (!path)
		path = secure_getenv("DELTAD_SOCKET");
	r = connection_open(
		path ? path : DELTAD_SOCKET_PATH, program(), &d->connection, &d->reason);
	if (r < 0) {
		deltad_close(d);
		return r;
	}
	*ret = d;
	return 0;
}

int deltad_connect_fd(int fd, struct deltad **ret)
{
	struct deltad *d = new_handle();
	int r;

	if (!d) {
		close(fd);
		return -ENOMEM;
	}
	r = connection_adopt(fd, program(), &d->connection, &d->reason);
	if (r < 0) {
		deltad_close(d);
		return r;
	}
	*ret = d;
	return 0;
}

struct deltad *deltad_close(struct deltad *d)
{
	if (!d)
		return NULL;
	connection_free(d->connection);
	free(d->streams);
	free(d->strings);
	free(d);
	return NULL;
}

int deltad_fd(const struct deltad *d)
{
	return connection_fd(d->connection);
}

const char *deltad_server(const struct deltad *d)
{
	return connection_server(d->connection);
}

const char *deltad_reason(const struct deltad *d)
{
	return d->reason.text;
}

static uint64_t *find_stream(struct deltad *d, uint64_t stream)
{
	for (size_t i = 0; i < d->n_streams; i++)
		if (d->streams[i] == stream)
			return &d->streams[i];
	return NULL;
}

static void forget_stream(struct deltad *d, uint64_t stream)
{
	uint64_t *at = find_stream(d, stream);

	if (at)
		*at = d->streams[--d->n_streams];
}

static int room_for_stream(struct deltad *d)
{
	size_t room = d->room_streams ? 2 * d->room_streams : 8;
	uint64_t *streams;

	if (d->n_streams < d->room_streams)
		return 0;
	streams = reallocarray(d->streams, room, sizeof(*streams));
	if (!streams)
		return -ENOMEM;
	d->streams = streams;
	d->room_streams = room;
	return 0;
}

static void message_done(struct proto_message *m)
{
	proto_message_done(m);
}

int deltad_complete(
	struct deltad *d, const struct deltad_complete_options *options, uint64_t *ret_stream)
{
	_cleanup_(message_done) struct proto_message m = {0};
	int r;

	d->reason.text[0] = '\0';
	r = room_for_stream(d);
	if (r == 0)
		r = options_message(options, &m, &d->reason);
	if (r == 0)
		r = connection_send(d->connection, &m, &d->reason);
	if (r < 0)
		return r;
	d->streams[d->n_streams++] = m.request;
	*ret_stream = m.request;
	return 0;
}

int deltad_cancel(struct deltad *d, uint64_t stream)
{
	struct proto_message m = {.op = PROTO_CANCEL, .request = stream};

	d->reason.text[0] = '\0';
	if (!find_stream(d, stream))
		return -ENOENT;
	return connection_send(d->connection, &m, &d->reason);
}

/* Copies a string behind `*at`, terminated, and moves *at. */
static const char *keep_string(char **at, struct proto_str s)
{
	char *kept = *at;

	if (s.n > 0)
		memcpy(kept, s.bytes, s.n);
	kept[s.n] = '\0';
	*at += s.n + 1;
	return kept;
}

static int keep_strings(
	struct deltad *d, struct proto_str text, struct proto_str stop, struct proto_str words)
{
	size_t need = (size_t)text.n + stop.n + words.n + 3;
	char *at;

	if (need > d->room_strings) {
		char *strings = realloc(d->strings, need);

		if (!strings)
			return -ENOMEM;
		d->strings = strings;
		d->room_strings = need;
	}
	at = d->strings;
	d->event.text = keep_string(&at, text);
	d->event.n_text = text.n;
	d->event.stop = keep_string(&at, stop);
	d->event.words = keep_string(&at, words);
	return 0;
}

static int token_event(struct deltad *d, const struct proto_token *t)
{
	struct deltad_event *e = &d->event;

	e->kind = DELTAD_TOKEN;
	e->token = t->token;
	e->logprob = t->logprob;
	e->n_top = t->n_top;
	e->top = d->top;
	for (uint32_t i = 0; i < t->n_top; i++)
		d->top[i] = (struct deltad_logprob){
			.token = t->top[i].token, .logprob = t->top[i].logprob};
	return keep_strings(d, t->text, (struct proto_str){0}, (struct proto_str){0});
}

static int done_event(struct deltad *d, const struct proto_done *m)
{
	struct deltad_event *e = &d->event;

	e->kind = DELTAD_DONE;
	e->finish = (enum deltad_finish)m->finish;
	e->error = status_errno(m->status);
	e->n_prompt = m->n_prompt;
	e->n_generated = m->n_generated;
	e->load_ns = m->load_ns;
	e->queue_ns = m->queue_ns;
	e->prompt_ns = m->prompt_ns;
	e->decode_ns = m->decode_ns;
	return keep_strings(d, m->text, m->stop, m->words);
}

static int error_event(struct deltad *d, const struct proto_error *m)
{
	d->event.kind = DELTAD_DONE;
	d->event.finish = DELTAD_FINISH_ERROR;
	d->event.error = status_errno(m->status);
	return keep_strings(d, (struct proto_str){0}, (struct proto_str){0}, m->words);
}

static int make_event(struct deltad *d, const struct proto_message *m)
{
	d->event = (struct deltad_event){.stream = m->request};
	if (m->op == PROTO_TOKEN)
		return token_event(d, &m->token);
	if (m->op == PROTO_DONE)
		return done_event(d, &m->done);
	if (m->op == PROTO_ERROR)
		return error_event(d, &m->error);
	return reason_set(&d->reason, -EPROTO, "op %u: not part of a stream", m->op);
}

int deltad_next(struct deltad *d, uint64_t stream, int timeout_ms, const struct deltad_event **ret)
{
	int r;

	d->reason.text[0] = '\0';
	if (stream != 0 && !find_stream(d, stream))
		return -ENOENT;
	/* Where no stream runs nothing comes but the connection's end. */
	if (d->n_streams == 0)
		timeout_ms = 0;
	r = connection_receive(d->connection, stream, timeout_ms, &d->in, &d->reason);
	if (r < 0)
		return r == -ETIMEDOUT && d->n_streams == 0 ? -ENOENT : r;
	r = find_stream(d, d->in.message.request)
		    ? make_event(d, &d->in.message)
		    : reason_set(&d->reason, -EPROTO, "a message for no stream of ours");
	/* Also where there was no memory for it: nothing will come after it. */
	if (d->in.message.op != PROTO_TOKEN)
		forget_stream(d, d->in.message.request);
	wire_received_done(&d->in);
	if (r < 0)
		return r;
	*ret = &d->event;
	return 0;
}
