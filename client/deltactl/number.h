/*
 * Numbers from the command line: the whole text or nothing.
 */
#pragma once

#include "common/base.h"

/* False, with *ret untouched, for anything but a decimal number up to `last`. */
bool number_u64(const char *text, uint64_t last, uint64_t *ret) _must_check_;
bool number_u32(const char *text, uint32_t *ret) _must_check_;
/* "A:B" and "A:", the numbers from A up to but not B, with A < B. */
bool number_range(const char *text, uint64_t *ret_first, uint64_t *ret_end) _must_check_;
/* Takes "inf" and "-inf", but not "nan". */
bool number_f32(const char *text, float *ret) _must_check_;
/* Bytes: a decimal number, followed by nothing, K, M or G, which are powers of 1024. */
bool number_bytes(const char *text, uint64_t *ret) _must_check_;

#define NUMBER_LIST_MAX 16u

struct number_list {
	size_t n;
	uint32_t numbers[NUMBER_LIST_MAX];
};

/* 1 to NUMBER_LIST_MAX decimal numbers up to `last`, with commas between. */
bool number_list(const char *text, uint32_t last, struct number_list *ret) _must_check_;
