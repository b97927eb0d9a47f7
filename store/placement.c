#include "store/placement.h"

#include "store/part.h"

#define NO_RECORD SIZE_MAX

/* Of the same tensor: can b's components stand behind a's? */
static bool can_join(const struct tensor_record *a, const struct tensor_record *b)
{
	return a->codec == CODEC_FACTORS && b->codec == CODEC_FACTORS &&
	       a->coding == CODING_STREAM && b->coding == CODING_STREAM && a->bits == b->bits &&
	       a->zero == b->zero;
}

/* More components than a matrix has are refused when they are bound. */
static bool has_room(const struct tensor_record *r, uint64_t n_joined)
{
	return n_joined + r->n <= min_u64(r->rows, r->cols);
}

/* leaders[i]: the record whose memory record i shares, itself if it is the first. */
static int find_leaders(
	const struct tensor_table *t, uint32_t n_layers, size_t *leaders, struct placement *ret)
{
	size_t n_tensors = (size_t)n_layers * N_ROLES;
	_cleanup_(freep) size_t *last = malloc((n_tensors + 1) * sizeof(*last));

	if (!last)
		return -ENOMEM;
	for (size_t i = 0; i < n_tensors; i++)
		last[i] = NO_RECORD;
	for (size_t i = 0; i < t->n; i++) {
		const struct tensor_record *record = &t->records[i];
		size_t *before = &last[(size_t)record->layer * N_ROLES + record->role];
		size_t leader = i;

		if (*before != NO_RECORD && can_join(&t->records[*before], record) &&
			has_room(record, ret[leaders[*before]].n_joined))
			leader = leaders[*before];
		leaders[i] = leader;
		ret[i] = (struct placement){.first = leader == i ? 0 : ret[leader].n_joined};
		if (record->codec == CODEC_FACTORS)
			ret[leader].n_joined += record->n;
		*before = i;
	}
	return 0;
}

int placement_plan(const struct tensor_table *t, uint32_t n_layers, struct placement *ret)
{
	_cleanup_(freep) size_t *leaders = malloc((t->n + 1) * sizeof(*leaders));
	uint64_t at = 0;
	int r = leaders ? find_leaders(t, n_layers, leaders, ret) : -ENOMEM;

	for (size_t i = 0; r == 0 && i < t->n; i++) {
		struct tensor_record all = t->records[i];

		if (leaders[i] != i) {
			ret[i].at = ret[leaders[i]].at;
			ret[i].n_joined = ret[leaders[i]].n_joined;
			continue;
		}
		if (ret[i].n_joined > 0)
			all.n = ret[i].n_joined;
		ret[i].at = at;
		at += part_layout(&all).expanded_bytes;
	}
	return r;
}
