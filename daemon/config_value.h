/*
 * Texts of configuration values: numbers with units to integers and back.
 */
#pragma once

#include "daemon/config.h"

#define CONFIG_VALUE_SIZE 32

/* The value of a number-like key, within its bounds. -EBADMSG says what was expected. */
int config_value_parse(const struct config_key *key, const char *text, uint64_t *ret,
	struct reason *reason) _must_check_;

/* The shortest text that parses to the same value. */
void config_value_format(
	const struct config_key *key, uint64_t value, char ret[static CONFIG_VALUE_SIZE]);
