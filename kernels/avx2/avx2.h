#pragma once

#include "kernels/kernels.h"

void kernels_avx2(struct kernels *k);
