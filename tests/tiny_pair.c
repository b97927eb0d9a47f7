#include "tests/tiny_pair.h"

#include "tests/golden_file.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

struct checkpoint *folder_opened(const char *folder)
{
	struct reason reason = {0};
	struct checkpoint *c;

	if (checkpoint_open(folder, &c, &reason) < 0)
		fail_msg("%s: %s", folder, reason.text);
	return c;
}

struct checkpoint *tiny_open(const char *name)
{
	char folder[128];

	return folder_opened(tiny_folder(name, folder));
}

struct tiny_pair tiny_pair(const char *name)
{
	char tuned[64];

	snprintf(tuned, sizeof(tuned), "%s-ft", name);
	return (struct tiny_pair){.base = tiny_open(name), .tuned = tiny_open(tuned)};
}

void tiny_pair_done(struct tiny_pair *p)
{
	checkpoint_free(p->base);
	checkpoint_free(p->tuned);
}
