#include "kernels/kernels.h"

#include "kernels/ref/ref.h"
#ifdef __x86_64__
#include "kernels/amx/amx.h"
#include "kernels/avx2/avx2.h"
#include "kernels/avx512/avx512.h"
#endif

#include <string.h>

/* In rising order; each set overwrites what it does better than those before it. */
struct set {
	const char *name;
	bool usable;
	int (*permit)(void); /* NULL: none needed; else 0 or a negative errno, asked when chosen */
	const char *refusal;
	void (*fill)(struct kernels *k);
};

static int refuse(const struct set *set, const char *why, struct reason *reason)
{
	return reason_set(
		reason, -EOPNOTSUPP, "the kernel set \"%s\" cannot be had: %s", set->name, why);
}

int kernels_select(struct kernels *ret, const char *force, struct reason *reason)
{
	struct cpu_features cpu = cpu_features_detect();
	const struct set sets[] = {
		{"ref", true, NULL, NULL, kernels_ref},
#ifdef __x86_64__
		{"avx2", cpu.avx2, NULL, NULL, kernels_avx2},
		{"avx512", cpu.avx512, NULL, NULL, kernels_avx512},
		{"amx", cpu.amx, amx_permit, "the system refuses the registers of the tile unit",
			kernels_amx},
#endif
	};
	struct kernels k = {0};

	(void)cpu;
	for (size_t i = 0; i < array_len(sets); i++) {
		const struct set *set = &sets[i];
		bool wanted = force && strcmp(force, set->name) == 0;

		if (wanted && !set->usable)
			return refuse(set, "this CPU lacks what it needs", reason);
		if (!set->usable)
			continue;
		if (set->permit && set->permit() < 0) {
			if (wanted)
				return refuse(set, set->refusal, reason);
			k.declined = set->refusal;
			continue;
		}
		set->fill(&k);
		k.name = set->name;
		if (!wanted)
			continue;
		*ret = k;
		return 0;
	}
	if (force)
		return reason_set(reason, -EOPNOTSUPP,
			"no kernel set is named \"%s\" (there are ref, avx2, avx512, amx)", force);
	*ret = k;
	return 0;
}
