#include "compress/served.h"

#include "common/file.h"
#include "foreign/import.h"
#include "store/image.h"

#include <string.h>
#include <sys/mman.h>

void served_done(struct served *s)
{
	variant_free(s->with_delta);
	delta_free(s->delta);
	variant_free(s->variant);
	model_free(s->model);
	base_free(s->base);
	*s = (struct served){0};
}

int served_of_base(
	struct base *base, const struct kernels *kernels, struct served *ret, struct reason *reason)
{
	_cleanup_(served_done) struct served s = {.base = base};
	int r;

	r = model_new(base, kernels, &s.model, reason);
	if (r == 0)
		r = variant_new(s.model, NULL, &s.variant, reason);
	if (r < 0)
		return r;
	*ret = s;
	s = (struct served){0};
	return 0;
}

/* The image of a checkpoint in a memfd of its own. */
static int image_of(struct checkpoint *checkpoint, enum weights weights,
	const struct progress *progress, struct image **ret, struct reason *reason)
{
	_cleanup_(closep) int fd =
		memfd_create("deltad-checkpoint", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	struct import_report report;
	int r;

	if (fd < 0)
		return reason_set(reason, -errno, "cannot make a memory file");
	r = import_base(checkpoint, weights, fd, progress, &report, reason);
	if (r < 0)
		return r;
	r = memory_file_seal(fd);
	if (r < 0)
		return reason_set(reason, r, "cannot seal a memory file: %s", strerror(-r));
	return image_from_memfd(take_fd(&fd), false, ret, reason);
}

int served_of_checkpoint(struct checkpoint *checkpoint, enum weights weights,
	const struct kernels *kernels, const struct progress *progress, struct served *ret,
	struct reason *reason)
{
	struct image *image;
	struct base *base;
	int r;

	r = image_of(checkpoint, weights, progress, &image, reason);
	if (r < 0)
		return r;
	r = base_bind(image, &base, reason);
	if (r < 0) {
		image_free(image);
		return r;
	}
	return served_of_base(base, kernels, ret, reason);
}

void served_drop_delta(struct served *s)
{
	s->with_delta = variant_free(s->with_delta);
	s->delta = delta_free(s->delta);
}

int served_add_delta(struct served *s, struct delta *delta, struct reason *reason)
{
	int r;

	r = variant_new(s->model, delta, &s->with_delta, reason);
	if (r < 0) {
		delta_free(delta);
		return r;
	}
	s->delta = delta;
	return 0;
}
