/*
 * What clients may ask for, one function each: ops_infer.c for both sockets, ops_admin.c for that
 * of the administrator. Each answers its request, now or later; the message lasts as long as the
 * call, unless a request takes it.
 */
#pragma once

#include "client/proto.h"

struct session;

typedef void op_fn(struct session *s, const struct proto_message *m);

op_fn op_hello, op_models, op_complete, op_cancel, op_tokenize, op_detokenize;
op_fn op_load, op_unload, op_pin, op_unpin, op_ps, op_list, op_show, op_stats, op_reload, op_drain;
