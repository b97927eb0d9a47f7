/*
 * A Hugging Face folder as a bound base image that lives in memory only.
 */
#pragma once

#include "foreign/weights.h"
#include "store/base.h"

/* Fails the running test, with the reason, if anything goes wrong. */
struct base *imported_base(const char *folder);
/* The same with these weights. */
struct base *imported_base_as(const char *folder, enum weights weights);

/* Is there such a file or folder? */
bool path_exists(const char *path);
/* $DELTAD_SHARED or ../shared: data that stays outside the repository. */
const char *shared_folder(void);
