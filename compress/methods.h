/*
 * Every method there is. compress/method.c lists them.
 */
#pragma once

#include "compress/method.h"

extern const struct method method_auto;              /* compress/auto.c */
extern const struct method method_auto_stream;       /* compress/auto_stream.c; stands in for it */
extern const struct method method_delta_come;        /* compress/delta_come.c */
extern const struct method method_delta_come_solved; /* likewise */
extern const struct method method_delta_come_whitened; /* likewise */
extern const struct method method_deltadq;             /* compress/deltadq.c */
extern const struct method method_k_bit;               /* compress/method_k_bit.c */
extern const struct method method_sign;                /* compress/method_sign.c */
extern const struct method method_sign_row;            /* likewise */
extern const struct method method_low_rank;            /* compress/method_low_rank.c */
extern const struct method method_low_rank_whitened;   /* likewise */
extern const struct method method_low_rank_k_bit;      /* compress/method_residual.c */
extern const struct method method_sparse;              /* compress/method_sparse.c */
extern const struct method method_lossless;            /* compress/method_verbatim.c */
extern const struct method method_dense;               /* likewise */
extern const struct method method_zero;                /* likewise */
extern const struct method method_lora;                /* compress/method_lora.c */
