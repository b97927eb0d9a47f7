#include "daemon/loader.h"

#include "common/thread.h"

#include <stdatomic.h>
#include <string.h>

struct load_order {
	struct order order;
	bool is_base;
	struct load_result *result; /* allocated with the order, so that it can always be sent */
	int fd;                     /* owned */
	char name[];
};

struct loader {
	pthread_t thread;
	const struct kernels *kernels;
	struct mailbox *orders;
	struct mailbox *results;
	struct mail *taken;  /* results taken from the box, not yet from here; the loop's */
	struct loaded *base; /* the thread's until it has ended */
	struct order end;
	atomic_bool ending; /* set by the loop: loads are cancelled */
	/* Written by the thread, read by the loop. */
	atomic_uint_fast64_t current_id, done, total;
};

static void on_progress(void *user, const char *stage, uint64_t done, uint64_t total)
{
	struct loader *l = user;

	(void)stage;
	atomic_store(&l->done, done);
	atomic_store(&l->total, total);
}

static void run_load(struct loader *l, struct load_order *order)
{
	const struct progress progress = {
		.update = on_progress, .user = l, .cancelled = &l->ending};
	struct load_result *result = order->result;

	atomic_store(&l->done, 0);
	atomic_store(&l->total, 0);
	atomic_store(&l->current_id, result->id);
	if (order->is_base) {
		result->error = loaded_new_base(
			order->fd, l->kernels, &progress, &result->loaded, &result->reason);
		l->base = result->loaded;
	} else if (l->base) {
		result->error = loaded_new_delta(
			order->fd, l->base, &progress, &result->loaded, &result->reason);
	} else {
		result->error = reason_set(&result->reason, -ENODEV, "the base is not in memory");
	}
	if (result->error < 0 && !result->reason.text[0])
		reason_set(&result->reason, 0, "%s", strerror(-result->error));
	if (result->error < 0)
		reason_prefix(&result->reason, 0, "%s", order->name);
	atomic_store(&l->current_id, 0);
	mailbox_post(l->results, &result->mail);
	close(order->fd);
	free(order);
}

static void drop(const struct loader *l, struct loaded *loaded)
{
	if (loaded != l->base)
		loaded_free(loaded);
}

/* False: the end. */
static bool run_order(struct loader *l, struct order *order)
{
	switch (order->kind) {
	case ORDER_KIND_LOAD:
		run_load(l, container_of(order, struct load_order, order));
		return true;
	case ORDER_KIND_DROP:
		drop(l, container_of(order, struct loaded, drop));
		return true;
	case ORDER_KIND_END:
		return false;
	}
	return true;
}

static void *run(void *user)
{
	struct loader *l = user;
	bool more = true;

	while (more) {
		struct mail *mail, *next;

		mailbox_wait(l->orders, -1);
		for (mail = mailbox_take(l->orders); mail; mail = next) {
			next = mail->next;
			more &= run_order(l, container_of(mail, struct order, mail));
		}
	}
	return NULL;
}

int loader_new(const struct kernels *kernels, struct loader **ret)
{
	struct loader *l = calloc(1, sizeof(*l));
	int r;

	if (!l)
		return -ENOMEM;
	l->kernels = kernels;
	r = mailbox_new(&l->orders);
	if (r >= 0)
		r = mailbox_new(&l->results);
	if (r >= 0)
		r = thread_start(&l->thread, "deltad-loader", run, l);
	if (r < 0) {
		mailbox_free(l->results, NULL);
		mailbox_free(l->orders, NULL);
		free(l);
		return r;
	}
	*ret = l;
	return 0;
}

int loader_load(struct loader *l, uint64_t id, const char *name, int fd, bool is_base)
{
	size_t n = strlen(name) + 1;
	struct load_order *order = calloc(1, sizeof(*order) + n);

	if (!order)
		return -ENOMEM;
	order->result = calloc(1, sizeof(*order->result));
	if (!order->result) {
		free(order);
		return -ENOMEM;
	}
	order->order.kind = ORDER_KIND_LOAD;
	order->result->id = id;
	order->fd = fd;
	order->is_base = is_base;
	memcpy(order->name, name, n);
	mailbox_post(l->orders, &order->order.mail);
	return 0;
}

void loader_drop(struct loader *l, struct loaded *loaded)
{
	loaded->drop.kind = ORDER_KIND_DROP;
	mailbox_post(l->orders, &loaded->drop.mail);
}

struct loader *loader_free(struct loader *l)
{
	struct load_result *result;

	if (!l)
		return NULL;
	atomic_store(&l->ending, true);
	l->end.kind = ORDER_KIND_END;
	mailbox_post(l->orders, &l->end.mail);
	pthread_join(l->thread, NULL);
	while ((result = loader_take(l))) {
		drop(l, result->loaded);
		free(result);
	}
	loaded_free(l->base);
	mailbox_free(l->results, NULL);
	mailbox_free(l->orders, NULL);
	free(l);
	return NULL;
}

int loader_fd(const struct loader *l)
{
	return mailbox_fd(l->results);
}

struct load_result *loader_take(struct loader *l)
{
	struct mail *first;

	if (!l->taken)
		l->taken = mailbox_take(l->results);
	first = l->taken;
	if (!first)
		return NULL;
	l->taken = first->next;
	return container_of(first, struct load_result, mail);
}

bool loader_progress(const struct loader *l, uint64_t id, uint64_t *ret_done, uint64_t *ret_total)
{
	if (atomic_load(&l->current_id) != id)
		return false;
	*ret_done = atomic_load(&l->done);
	*ret_total = atomic_load(&l->total);
	return true;
}
