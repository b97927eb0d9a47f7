#include "compress/levels.h"

#include "store/base.h"

#include <string.h>
#include <unistd.h>

static uint64_t projection_bytes(const struct delta *delta)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < delta->n_records; i++)
		if (tensor_role_is_projection((enum tensor_role)delta->records[i].role))
			sum += delta->records[i].bytes + sizeof(delta->records[i]);
	return sum;
}

static int open_beginning(int fd, uint64_t n_bytes, const struct base *base, struct delta **ret,
	struct reason *reason)
{
	if (ftruncate(fd, (off_t)n_bytes) < 0)
		return reason_set(
			reason, -errno, "cannot shorten a memory file: %s", strerror(errno));
	return delta_load(fd, base, ret, NULL, reason);
}

static int measure_level(const struct certificate_settings *settings, struct served *base,
	uint64_t original_bytes, struct rate_point *ret, struct reason *reason)
{
	struct certificate c = {0};
	int r = certificate_measure(settings, &c, reason);

	if (r < 0)
		return r;
	*ret = (struct rate_point){.kl = c.kl};
	if (original_bytes > 0)
		ret->bits = 16.0 * (double)projection_bytes(base->delta) / (double)original_bytes;
	return 0;
}

int levels_measure(const struct certificate_settings *settings, struct served *base, int fd,
	const struct format_header *header, uint64_t original_bytes, struct rate_point *ret,
	struct reason *reason)
{
	for (uint32_t level = header->n_levels - 1; level-- > 0;) {
		struct delta *delta;
		int r;

		r = open_beginning(fd, header->level_end[level], base->base, &delta, reason);
		if (r == 0)
			r = served_add_delta(base, delta, reason);
		if (r == 0)
			r = measure_level(settings, base, original_bytes, &ret[level], reason);
		served_drop_delta(base);
		if (r < 0)
			return r;
	}
	return 0;
}
