/*
 * Accounts: what each user (uid) has of the daemon's resources at this moment, and the limits. A
 * charge is an object that is released, so that it cannot leak; an account lives as long as it has
 * any charge.
 */
#pragma once

#include "common/base.h"

#include <sys/types.h>

enum acct_kind {
	ACCT_KIND_CONNECTIONS,
	ACCT_KIND_REQUESTS,
	ACCT_KIND_QUEUED_BYTES, /* written by us, not yet read by the client */
	N_ACCT_KINDS,
};

struct acct;
struct account;

struct charge {
	struct account *account; /* NULL: nothing charged */
	enum acct_kind kind;
	uint64_t amount;
};

#define CHARGE_INIT ((struct charge){.account = NULL})

/* Expected conditions. */
enum {
	ACCT_E_LIMIT = 1,
};

int acct_new(struct acct **ret) _must_check_;
struct acct *acct_free(struct acct *acct); /* all charges must be released */

/* Most that one user may have; charges already made stay. */
void acct_set_limit(struct acct *acct, enum acct_kind kind, uint64_t per_user);

/* ACCT_E_LIMIT leaves nothing charged. `charge` must be empty. */
int acct_charge(struct acct *acct, uid_t uid, enum acct_kind kind, uint64_t amount,
	struct charge *charge) _must_check_;
/* Changes the amount of a charge that exists. ACCT_E_LIMIT leaves it as it was. */
int charge_set(struct charge *charge, uint64_t amount) _must_check_;
void charge_release(struct charge *charge);

/* Sum over all users, and how many users have charges. */
uint64_t acct_total(const struct acct *acct, enum acct_kind kind);
uint64_t acct_users(const struct acct *acct);
