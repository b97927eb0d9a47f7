#include "kernels/avx512/avx512.h"

void kernels_avx512(struct kernels *k)
{
	k->matmul = avx512_matmul;
	k->act_round = avx512_act_round;
	k->matmul_int = avx512_matmul_int;
	k->qmat_dot = avx512_qmat_dot;
	k->qmat_dot_int = avx512_qmat_dot_int;
	k->qmat_accumulate = avx512_qmat_accumulate;
	k->qmat_accumulate_int = avx512_qmat_accumulate_int;
	k->dropmat_dot = avx512_dropmat_dot;
	k->dropmat_dot_int = avx512_dropmat_dot_int;
	k->rms_norm = avx512_rms_norm;
	k->rope = avx512_rope;
	k->silu_mul = avx512_silu_mul;
	k->add = avx512_add;
	k->kv_store = avx512_kv_store;
	k->attend = avx512_attend;
}
