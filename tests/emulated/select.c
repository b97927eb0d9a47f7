#include "tests/emulated/select.h"

#include <string.h>

#ifdef __x86_64__

#include "kernels/amx/amx.h"
#include "tests/emulated/tile_traps.h"

/* kernels_avx512() and kernels_amx() of the second compilation. */
void emulated_avx512(struct kernels *k);
void emulated_amx(struct kernels *k);

int select_shipped(struct kernels *ret, const char *name, struct reason *reason)
{
	int r = kernels_select(ret, name, reason);

	if (r != -EOPNOTSUPP || strcmp(name, "amx") != 0 || !tile_traps_set())
		return r;
	r = kernels_select(ret, "avx512", reason);
	if (r < 0)
		return r;
	kernels_amx(ret);
	ret->name = "amx (tile unit emulated)";
	return 0;
}

int select_emulated(struct kernels *ret, const char *name, struct reason *reason)
{
	const bool is_amx = strcmp(name, "amx") == 0;
	int r;

	if (!is_amx && strcmp(name, "avx512") != 0)
		return reason_set(reason, -EOPNOTSUPP, "\"%s\" is not emulated", name);
	r = kernels_select(ret, "avx2", reason);
	if (r < 0)
		return r;
	emulated_avx512(ret);
	if (is_amx)
		emulated_amx(ret);
	ret->name = is_amx ? "amx (emulated)" : "avx512 (emulated)";
	return 0;
}

#else

int select_shipped(struct kernels *ret, const char *name, struct reason *reason)
{
	return kernels_select(ret, name, reason);
}

int select_emulated(struct kernels *ret, const char *name, struct reason *reason)
{
	(void)ret;
	return reason_set(reason, -EOPNOTSUPP, "\"%s\" is not emulated here", name);
}

#endif

int select_or_emulate(struct kernels *ret, const char *name, struct reason *reason)
{
	int r = select_shipped(ret, name, reason);

	return r == -EOPNOTSUPP ? select_emulated(ret, name, reason) : r;
}
