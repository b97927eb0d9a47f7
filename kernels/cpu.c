#include "kernels/kernels.h"

#ifdef __x86_64__

#include <cpuid.h>

struct leaf {
	uint32_t eax, ebx, ecx, edx;
};

/* All zeros where the CPU does not have it. */
static struct leaf cpuid_leaf(uint32_t number, uint32_t sub)
{
	struct leaf l = {0};

	if (!__get_cpuid_count(number, sub, &l.eax, &l.ebx, &l.ecx, &l.edx))
		return (struct leaf){0};
	return l;
}

/* Which register states the operating system saves; without it an instruction that the CPU has
 * still faults. */
static uint64_t saved_states(const struct leaf *features)
{
	uint32_t low, high;

	if (!(features->ecx & bit_OSXSAVE))
		return 0;
	__asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
	return (uint64_t)high << 32 | low;
}

static bool has(uint64_t word, uint64_t bits)
{
	return (word & bits) == bits;
}

/* Bits that older <cpuid.h> do not name. */
enum {
	LEAF7_EDX_AMX_BF16 = 1 << 22,
	LEAF7_EDX_AMX_TILE = 1 << 24,
	LEAF7_EDX_AMX_INT8 = 1 << 25,
	LEAF7_1_EAX_AVX512_BF16 = 1 << 5,
};

#define STATE_AVX UINT64_C(0x6)     /* SSE and the upper halves of ymm */
#define STATE_AVX512 UINT64_C(0xe6) /* and masks, upper halves of zmm, zmm16 to zmm31 */
#define STATE_AMX UINT64_C(0x60000) /* tile configuration and tile data */

struct cpu_features cpu_features_detect(void)
{
	struct leaf l1 = cpuid_leaf(1, 0), l7 = cpuid_leaf(7, 0), l7_1 = cpuid_leaf(7, 1);
	uint64_t states = saved_states(&l1);
	struct cpu_features f;

	f.avx2 = has(states, STATE_AVX) && has(l1.ecx, bit_FMA | bit_F16C | bit_AVX) &&
		 has(l7.ebx, bit_AVX2);
	f.avx512 = f.avx2 && has(states, STATE_AVX512) &&
		   has(l7.ebx, bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL) &&
		   has(l7.ecx, bit_AVX512VNNI);
	f.avx512_bf16 = f.avx512 && has(l7_1.eax, LEAF7_1_EAX_AVX512_BF16);
	f.amx = f.avx512_bf16 && has(states, STATE_AMX) &&
		has(l7.edx, LEAF7_EDX_AMX_BF16 | LEAF7_EDX_AMX_TILE | LEAF7_EDX_AMX_INT8);
	return f;
}

#else

struct cpu_features cpu_features_detect(void)
{
	return (struct cpu_features){0};
}

#endif
