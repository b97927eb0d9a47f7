#pragma once

#include "kernels/kernels.h"

void kernels_avx512(struct kernels *k);
