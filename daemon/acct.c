#include "daemon/acct.h"

#include <assert.h>

struct account {
	struct acct *acct;
	struct account *next;
	uid_t uid;
	uint64_t n_charges;
	uint64_t used[N_ACCT_KINDS];
};

struct acct {
	struct account *accounts;
	uint64_t limit[N_ACCT_KINDS];
	uint64_t total[N_ACCT_KINDS];
};

int acct_new(struct acct **ret)
{
	struct acct *acct = calloc(1, sizeof(*acct));

	if (!acct)
		return -ENOMEM;
	for (size_t i = 0; i < N_ACCT_KINDS; i++)
		acct->limit[i] = UINT64_MAX;
	*ret = acct;
	return 0;
}

struct acct *acct_free(struct acct *acct)
{
	assert(!acct || !acct->accounts);
	free(acct);
	return NULL;
}

void acct_set_limit(struct acct *acct, enum acct_kind kind, uint64_t per_user)
{
	acct->limit[kind] = per_user;
}

static struct account *account_of(struct acct *acct, uid_t uid)
{
	struct account *a;

	for (a = acct->accounts; a; a = a->next)
		if (a->uid == uid)
			return a;
	a = calloc(1, sizeof(*a));
	if (!a)
		return NULL;
	a->acct = acct;
	a->uid = uid;
	a->next = acct->accounts;
	acct->accounts = a;
	return a;
}

static void account_free_if_unused(struct account *a)
{
	struct account **at = &a->acct->accounts;

	if (a->n_charges)
		return;
	while (*at != a)
		at = &(*at)->next;
	*at = a->next;
	free(a);
}

/* From `before` to `after` of one charge. Less is always allowed. */
static int account_move(struct account *a, enum acct_kind kind, uint64_t before, uint64_t after)
{
	uint64_t others = a->used[kind] - before;
	uint64_t limit = a->acct->limit[kind];

	if (after > before && (others > limit || after > limit - others))
		return ACCT_E_LIMIT;
	a->used[kind] = others + after;
	a->acct->total[kind] += after - before;
	return 0;
}

int acct_charge(
	struct acct *acct, uid_t uid, enum acct_kind kind, uint64_t amount, struct charge *charge)
{
	struct account *a;
	int r;

	assert(!charge->account);
	a = account_of(acct, uid);
	if (!a)
		return -ENOMEM;
	r = account_move(a, kind, 0, amount);
	if (r != 0) {
		account_free_if_unused(a);
		return r;
	}
	a->n_charges++;
	*charge = (struct charge){.account = a, .kind = kind, .amount = amount};
	return 0;
}

int charge_set(struct charge *charge, uint64_t amount)
{
	int r;

	r = account_move(charge->account, charge->kind, charge->amount, amount);
	if (r == 0)
		charge->amount = amount;
	return r;
}

void charge_release(struct charge *charge)
{
	struct account *a = charge->account;

	if (!a)
		return;
	a->used[charge->kind] -= charge->amount;
	a->acct->total[charge->kind] -= charge->amount;
	a->n_charges--;
	account_free_if_unused(a);
	*charge = CHARGE_INIT;
}

uint64_t acct_total(const struct acct *acct, enum acct_kind kind)
{
	return acct->total[kind];
}

uint64_t acct_users(const struct acct *acct)
{
	uint64_t n = 0;

	for (const struct account *a = acct->accounts; a; a = a->next)
		n++;
	return n;
}
