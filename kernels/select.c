#include "kernels/kernels.h"

#include "kernels/ref/ref.h"
#ifdef __x86_64__
#include "kernels/avx2/avx2.h"
#include "kernels/avx512/avx512.h"
#endif

#include <string.h>

/* In rising order; each set overwrites what it does better than those before it. */
struct set {
	const char *name;
	bool usable;
	void (*fill)(struct kernels *k);
};

int kernels_select(struct kernels *ret, const char *force, struct reason *reason)
{
	struct cpu_features cpu = cpu_features_detect();
	const struct set sets[] = {
		{"ref", true, kernels_ref},
#ifdef __x86_64__
		{"avx2", cpu.avx2, kernels_avx2},
		{"avx512", cpu.avx512, kernels_avx512},
#endif
	};
	struct kernels k = {0};

	(void)cpu;
	for (size_t i = 0; i < array_len(sets); i++) {
		bool wanted = force && strcmp(force, sets[i].name) == 0;

		if (wanted && !sets[i].usable)
			return reason_set(reason, -EOPNOTSUPP,
				"this CPU lacks what the kernel set \"%s\" needs", force);
		if (!sets[i].usable)
			continue;
		sets[i].fill(&k);
		k.name = sets[i].name;
		if (!wanted)
			continue;
		*ret = k;
		return 0;
	}
	if (force)
		return reason_set(reason, -EOPNOTSUPP,
			"no kernel set is named \"%s\" (there are ref, avx2, avx512)", force);
	*ret = k;
	return 0;
}
