#include "client/deltactl/default_calibration.h"

/* The file as it is, without a copy of it in C. Paths are from the root, where make runs. */
__asm__(".section .rodata\n"
	".balign 64\n"
	".global default_calibration\n"
	".global default_calibration_end\n"
	"default_calibration:\n"
	".incbin \"models/calibration.txt\"\n"
	"default_calibration_end:\n"
	".byte 0\n"
	".previous\n");
