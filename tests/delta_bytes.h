/*
 * Where the bytes of a delta file are: what inspect says of its sections, levels and tensors,
 * against the file itself.
 */
#pragma once

#include <stdint.h>

/* Fails the running test unless header, digests, sections and payloads of `inspect --json` tile the
 * file: none meets another, between them and behind them is nothing but zeros up to the next
 * alignment, and the totals are the sums of what they name. Returns the size of the file. */
uint64_t delta_bytes_check(const char *path, const char *inspected);
