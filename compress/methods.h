/*
 * Every method there is. compress/method.c lists them.
 */
#pragma once

#include "compress/method.h"

extern const struct method method_delta_come; /* compress/delta_come.c */
extern const struct method method_deltadq;    /* compress/deltadq.c */
