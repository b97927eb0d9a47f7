#include "tests/imported_base.h"

#include "foreign/import.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <cmocka.h>

static void require(int r, const char *folder, const struct reason *reason)
{
	if (r < 0)
		fail_msg("%s: error %d: %s", folder, r, reason->text);
}

struct base *imported_base_as(const char *folder, enum weights weights)
{
	struct reason reason = {0};
	struct checkpoint *checkpoint = NULL;
	struct import_report report;
	struct image *image = NULL;
	struct base *base = NULL;
	int fd = memfd_create("imported-base", MFD_CLOEXEC);

	assert_true(fd >= 0);
	require(checkpoint_open(folder, &checkpoint, &reason), folder, &reason);
	require(import_base(checkpoint, weights, fd, NULL, &report, &reason), folder, &reason);
	require(image_load(fd, &image, NULL, &reason), folder, &reason);
	require(base_bind(image, &base, &reason), folder, &reason);
	checkpoint_free(checkpoint);
	close(fd);
	return base;
}

struct base *imported_base(const char *folder)
{
	return imported_base_as(folder, WEIGHTS_BF16);
}

bool path_exists(const char *path)
{
	return access(path, F_OK) == 0;
}

const char *shared_folder(void)
{
	const char *folder = getenv("DELTAD_SHARED");

	return folder ? folder : "../shared";
}
