#include "compress/stream_entry.h"

#include <string.h>

void stream_entry_done(struct stream_entry *e)
{
	for (size_t i = 0; i < e->n; i++)
		part_done(&e->parts[i]);
	free(e->parts);
	*e = (struct stream_entry){0};
}

/* The menu's first entry is nothing: it has no bytes. */
int stream_entry_add(
	struct stream_entry *e, size_t projection, uint64_t numbers, struct ladder *ladder)
{
	struct part *parts = reallocarray(e->parts, e->n + ladder->n_parts + 1, sizeof(*e->parts));

	if (!parts)
		return -ENOMEM;
	e->parts = parts;
	for (size_t i = 0; i < ladder->n_parts; i++)
		e->parts[e->n++] = part_take(&ladder->parts[i]);
	e->sums.numbers[projection] = numbers;
	e->sums.nothing[projection] = ladder->entries[0].point.loss;
	return 0;
}

int stream_entry_write(const struct stream_entry *e, struct work_file *work, const float *dx,
	size_t n_dx, struct reason *reason)
{
	_cleanup_(freep) uint64_t *at = calloc(e->n + 1, sizeof(*at));
	const struct digest digest = digest_of(dx, n_dx);
	const struct work_entry entry = {
		.sums = &e->sums,
		.digests = &digest,
		.parts = e->parts,
		.n_parts = e->n,
	};
	int r;

	if (!at)
		return -ENOMEM;
	r = work_file_write_x(work, (work_file_blocks(work) + 1) % 2, 0, dx);
	if (r < 0)
		return reason_set(reason, r, "the file of work in progress: %s", strerror(-r));
	return work_file_add(work, &entry, at, reason);
}
