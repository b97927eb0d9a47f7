/*
 * The attention of a pass (compress/block_pass.h). A piece of work is one sequence and one head of
 * keys with the heads of queries that share it; queries go by strips, so that scores need little
 * room and those that nobody may see are mostly not computed.
 */
#pragma once

#include "compress/block_pass.h"

/* Numbers of scores of one worker. */
size_t block_attention_scratch(uint32_t longest);

void block_attention_forward(struct block_pass *p);  /* q, k, v -> a */
void block_attention_backward(struct block_pass *p); /* da -> dq, dk, dv, still placed */
