/*
 * Reads by io_uring. The only file that knows liburing.
 */
#pragma once

#include "store/reader.h"

extern const struct reader_ops ring_reader;
