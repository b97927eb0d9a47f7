/*
 * Variants as clients see them: what is in memory from the registry, what else there is from the
 * store's catalog.
 */
#pragma once

#include "client/proto.h"

struct session;

/* Answers MODELS, LIST (the whole catalog) or PS (what is in memory or on its way); `reply` is the
 * op of the answer. */
void variants_send(struct session *s, uint64_t request, enum proto_op reply);
void variants_send_show(struct session *s, uint64_t request, struct proto_str name);
