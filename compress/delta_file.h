/*
 * A delta file in the making: tensor records with their payloads, in memory or in a file of work in
 * progress, then the whole file at once, as often as wanted (the certificate is measured on a first
 * writing).
 */
#pragma once

#include "common/digest.h"
#include "common/reason.h"
#include "compress/parts.h"
#include "store/format.h"

struct delta_file;

int delta_file_new(struct delta_file **ret) _must_check_;
struct delta_file *delta_file_free(struct delta_file *f);

/* Takes the part's payload, whatever the result. Order is free; no (level, layer, role) twice. */
int delta_file_add(struct delta_file *f, struct part *part) _must_check_;

/* Parts so far, in the order in which they were added until the first writing sorts them. The
 * payload of one that is kept elsewhere is NULL. */
size_t delta_file_count(const struct delta_file *f);
const struct part *delta_file_part(const struct delta_file *f, size_t i);

/* The payload of part i stands in a file, which stays the caller's, from `at` on: it is read from
 * there when it is needed, and no longer kept in memory. */
void delta_file_move(struct delta_file *f, size_t i, int fd, uint64_t at);

/* A copy of the payload of part i, wherever it is kept; malloc'ed, aligned to 64. */
int delta_file_payload(const struct delta_file *f, size_t i, uint8_t **ret) _must_check_;

/* Bytes of payloads and records of all parts for which the function is true. */
uint64_t delta_file_bytes(const struct delta_file *f, bool (*of)(enum tensor_role role));

/* What else is in the file; parts that are NULL (or of no bytes) are left out. */
struct delta_file_parts {
	const struct model_config *config;
	const struct digest *base, *tuned;
	const struct certificate *certificate;
	const struct rate_point *points;       /* certificate->n_points of them */
	const struct certificate_tasks *tasks; /* with a certificate */
	const uint8_t *tokenizer, *chat, *selftest;
	size_t n_tokenizer, n_chat, n_selftest;
};

/* Into an empty open file. */
int delta_file_write(struct delta_file *f, const struct delta_file_parts *parts, int fd,
	struct format_header *ret_header, struct reason *reason) _must_check_;
