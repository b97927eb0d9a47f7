/*
 * A budget for many tensors, of each of which some codings are at hand: the menu. What is chosen
 * together is what one lambda would choose (compress/allocate.h), and then the steps to finer
 * codings that still fit, the most worthwhile first.
 */
#pragma once

#include "common/reason.h"
#include "compress/allocate.h"

struct menu_entry {
	struct rate_loss point;
	uint32_t tag; /* the caller's */
};

/* Of one tensor. */
struct menu {
	struct menu_entry *entries; /* borrowed; at least one */
	size_t n;
};

/* Keeps the entries on the lower convex hull of loss over bytes, the smallest first: each step to
 * the next buys less loss a byte than the one before. Returns how many there are, 1 or more. */
size_t menu_hull(struct menu_entry *entries, size_t n);

/* One of them is set. */
struct menu_goal {
	double bytes; /* most of all together; 0: not said */
	double loss;  /* likewise */
};

struct menu_choice {
	size_t *picks; /* n_menus of them, the caller's: numbers of entries */
	struct rate_loss sum;
	double lambda; /* loss a byte of the last step that one lambda takes; 0: of none */
};

/* Menus are hulls. -ERANGE, with a reason, if the smallest entries are too large together, or the
 * finest lose too much; -ENOMEM. */
int menu_choose(const struct menu *menus, size_t n_menus, const struct menu_goal *goal,
	struct menu_choice *ret, struct reason *reason) _must_check_;
