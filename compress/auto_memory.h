/*
 * How much memory both ways of method "auto" take, from shapes alone: the way is the same every
 * time for the same model. Arrays that grow with the model are counted; libraries, and what is
 * small beside them, are not.
 */
#pragma once

#include "store/base.h"

#include <stddef.h>

/* The whole model at once (compress/auto_run.h). */
uint64_t auto_memory(const struct model_config *c, size_t n_threads);
/* One block at a time (compress/auto_stream.h). */
uint64_t auto_stream_memory(const struct model_config *c, size_t n_threads);
