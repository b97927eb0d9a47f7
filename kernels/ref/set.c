#include "kernels/ref/ref.h"

void kernels_ref(struct kernels *k)
{
	*k = (struct kernels){
		.matmul = ref_matmul,
		.act_round = ref_act_round,
		.matmul_int = ref_matmul_int,
		.qmat_dot = ref_qmat_dot,
		.qmat_dot_int = ref_qmat_dot_int,
		.qmat_accumulate = ref_qmat_accumulate,
		.qmat_accumulate_int = ref_qmat_accumulate_int,
		.dropmat_dot = ref_dropmat_dot,
		.dropmat_dot_int = ref_dropmat_dot_int,
		.mat_row = ref_mat_row,
		.rms_norm = ref_rms_norm,
		.rope = ref_rope,
		.silu_mul = ref_silu_mul,
		.add = ref_add,
		.kv_store = ref_kv_store,
		.attend = ref_attend,
	};
}
