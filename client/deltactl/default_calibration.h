/*
 * The calibration text that is used where none is given: models/calibration.txt, which the base
 * model in that folder wrote itself (bench/write_calibration.c).
 */
#pragma once

#include <stddef.h>

extern const char default_calibration[];
extern const char default_calibration_end[];
