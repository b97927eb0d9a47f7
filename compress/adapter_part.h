/*
 * An adapter's factors as a part of a delta: V^T = A, U^T = B transposed, sigma the scale. Nothing
 * is fitted and nothing rounded: numbers are fp16 where every number of the module is one, else
 * f32.
 */
#pragma once

#include "compress/parts.h"
#include "foreign/adapter.h"

/* ret->payload is NULL where the adapter has no factors for the place. */
int adapter_part(const struct adapter *a, const struct part_place *place, struct part *ret,
	struct reason *reason) _must_check_;
