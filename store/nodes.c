#include "store/nodes.h"

#include <linux/mempolicy.h>
#include <string.h>
#include <sys/syscall.h>

void nodes_allowed(struct nodes *ret)
{
	memset(ret, 0, sizeof(*ret));
	if (syscall(SYS_get_mempolicy, NULL, ret->bits, (unsigned long)NODES_MAX, NULL,
		    MPOL_F_MEMS_ALLOWED) < 0)
		return;
	for (size_t i = 0; i < array_len(ret->bits); i++)
		ret->n += (unsigned int)__builtin_popcountl(ret->bits[i]);
}

int nodes_interleave(void *at, uint64_t n_bytes, const struct nodes *nodes)
{
	/* The kernel takes one bit less than it is told. */
	if (syscall(SYS_mbind, at, (unsigned long)n_bytes, MPOL_INTERLEAVE, nodes->bits,
		    (unsigned long)NODES_MAX + 1, 0u) < 0)
		return -errno;
	return 0;
}
