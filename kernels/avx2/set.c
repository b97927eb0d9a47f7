#include "kernels/avx2/avx2.h"

void kernels_avx2(struct kernels *k)
{
	k->matmul = avx2_matmul;
	k->act_round = avx2_act_round;
	k->matmul_int = avx2_matmul_int;
	k->qmat_dot = avx2_qmat_dot;
	k->qmat_dot_int = avx2_qmat_dot_int;
	k->qmat_accumulate = avx2_qmat_accumulate;
	k->qmat_accumulate_int = avx2_qmat_accumulate_int;
	k->dropmat_dot = avx2_dropmat_dot;
	k->dropmat_dot_int = avx2_dropmat_dot_int;
	k->rms_norm = avx2_rms_norm;
	k->rope = avx2_rope;
	k->silu_mul = avx2_silu_mul;
	k->add = avx2_add;
	k->kv_store = avx2_kv_store;
	k->attend = avx2_attend;
}
