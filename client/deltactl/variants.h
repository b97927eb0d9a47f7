/*
 * Lists of variants as tables and as JSON.
 */
#pragma once

#include "client/deltactl/remote.h"

/* What is on disk or in memory; for list. */
int variants_print_catalog(const struct proto_variants *variants);
/* What happens with those in memory; for ps and top. `rates` may be NULL, or holds tokens per
 * second of each. max_rows 0 prints all. */
int variants_print_running(
	const struct proto_variants *variants, const double *rates, size_t max_rows);
json_t *variant_json(const struct proto_variant *v);
json_t *variants_json(const struct proto_variants *variants);
