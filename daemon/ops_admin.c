#include "daemon/ops.h"

#include "daemon/log.h"
#include "daemon/request.h"
#include "daemon/server.h"
#include "daemon/session.h"
#include "daemon/stats.h"
#include "daemon/variants.h"

/* To answer first and drain afterwards would lose the answer to a client that is the last one. */
void op_drain(struct session *s, const struct proto_message *m)
{
	log_info("uid %u asks to drain", s->peer.uid);
	session_send_ok(s, m->request, "");
	server_drain(s->server);
}

static void load_ready(struct request *r, const struct proto_message *m)
{
	struct proto_message reply = {.op = PROTO_LOAD_REPLY, .request = r->number};

	(void)m;
	reply.load_reply.memory_bytes = r->entry->memory_bytes;
	reply.load_reply.load_ns = r->load_ns;
	session_send(r->session, &reply);
	request_end(r);
}

void op_load(struct session *s, const struct proto_message *m)
{
	request_begin(s, m, m->name.name, true, load_ready);
}

void op_unload(struct session *s, const struct proto_message *m)
{
	request_begin_unload(s, m);
}

static void pin_ready(struct request *r, const struct proto_message *m)
{
	(void)m;
	registry_pin(r->server->registry, r->entry);
	session_send_ok(r->session, r->number, "");
	request_end(r);
}

void op_pin(struct session *s, const struct proto_message *m)
{
	request_begin(s, m, m->name.name, false, pin_ready);
}

void op_unpin(struct session *s, const struct proto_message *m)
{
	char name[REGISTRY_MAX_NAME + 1] = "";
	struct reason reason;

	if (m->name.name.n <= REGISTRY_MAX_NAME)
		__builtin_memcpy(name, m->name.name.bytes, m->name.name.n);
	if (registry_unpin(s->server->registry, name) == 0) {
		session_send_ok(s, m->request, "");
		return;
	}
	reason_set(&reason, 0, "variant \"%s\" is not pinned", name);
	session_send_error(s, m->request, PROTO_STATUS_NOT_RESIDENT, &reason);
}

void op_ps(struct session *s, const struct proto_message *m)
{
	variants_send(s, m->request, PROTO_PS_REPLY);
}

void op_list(struct session *s, const struct proto_message *m)
{
	variants_send(s, m->request, PROTO_LIST_REPLY);
}

void op_show(struct session *s, const struct proto_message *m)
{
	variants_send_show(s, m->request, m->name.name);
}

void op_stats(struct session *s, const struct proto_message *m)
{
	struct proto_stat items[STATS_MAX];
	struct proto_message reply = {.op = PROTO_STATS_REPLY, .request = m->request};

	reply.stats_reply.items = items;
	reply.stats_reply.n = stats_collect(s->server, items);
	session_send(s, &reply);
}

void op_reload(struct session *s, const struct proto_message *m)
{
	struct reason words;

	log_info("uid %u asks to reload", s->peer.uid);
	if (server_reload(s->server, &words) < 0)
		session_send_error(s, m->request, PROTO_STATUS_BAD_ARGUMENT, &words);
	else
		session_send_ok(s, m->request, words.text);
}
