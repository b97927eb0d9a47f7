/*
 * Memory nodes (NUMA): memory that every thread reads all of is spread over all nodes, so that no
 * node's memory alone limits how fast it can be read. Plain system calls; no library.
 */
#pragma once

#include "common/base.h"

#define NODES_MAX 1024u

struct nodes {
	unsigned int n;
	unsigned long bits[NODES_MAX / (8 * sizeof(unsigned long))];
};

/* Those that this process may take memory from; n is 0 where the kernel knows none or does not
 * say. */
void nodes_allowed(struct nodes *ret);

/* Asks that pages of a mapping that are not there yet, page-aligned, be taken from these nodes in
 * turn. The policy belongs to the memory and stays when the mapping goes. */
int nodes_interleave(void *at, uint64_t n_bytes, const struct nodes *nodes) _must_check_;
