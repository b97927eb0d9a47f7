#include "daemon/loader.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>

enum order_kind {
	ORDER_KIND_LOAD,
	ORDER_KIND_DROP,
	ORDER_KIND_END,
};

/* A message to the thread. */
struct order {
	struct mail mail;
	enum order_kind kind;
	bool is_base;
	struct load_result
		*result;        /* LOAD: allocated with the order, so that it can always be sent */
	int fd;                 /* LOAD: owned */
	struct loaded *dropped; /* DROP */
	char name[];            /* LOAD */
};

struct loader {
	pthread_t thread;
	const struct kernels *kernels;
	struct mailbox *orders;
	struct mailbox *results;
	struct mail *taken;  /* results taken from the box, not yet from here; the loop's */
	struct loaded *base; /* the thread's until it has ended */
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

static void run_load(struct loader *l, struct order *order)
{
	const struct progress progress = {.update = on_progress, .user = l};
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
}

/* False: the end. */
static bool run_order(struct loader *l, struct order *order)
{
	bool more = order->kind != ORDER_KIND_END;

	if (order->kind == ORDER_KIND_LOAD)
		run_load(l, order);
	else if (order->kind == ORDER_KIND_DROP && order->dropped != l->base)
		loaded_free(order->dropped);
	closep(&order->fd);
	free(order);
	return more;
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

/* Signals belong to the loop. */
static int start_thread(struct loader *l)
{
	sigset_t all, before;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = pthread_create(&l->thread, NULL, run, l);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (r != 0)
		return -r;
	pthread_setname_np(l->thread, "deltad-loader");
	return 0;
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
		r = start_thread(l);
	if (r < 0) {
		mailbox_free(l->results, NULL);
		mailbox_free(l->orders, NULL);
		free(l);
		return r;
	}
	*ret = l;
	return 0;
}

static struct order *order_new(enum order_kind kind, const char *name)
{
	struct order *order = calloc(1, sizeof(*order) + strlen(name) + 1);

	if (!order)
		return NULL;
	order->kind = kind;
	order->fd = -1;
	memcpy(order->name, name, strlen(name) + 1);
	return order;
}

/* Dropping and ending must not fail: without memory for a message they wait until there is some. */
static struct order *order_new_patiently(enum order_kind kind)
{
	struct order *order;

	while (!(order = order_new(kind, "")))
		usleep(10000);
	return order;
}

int loader_load(struct loader *l, uint64_t id, const char *name, int fd, bool is_base)
{
	struct order *order = order_new(ORDER_KIND_LOAD, name);

	if (!order)
		return -ENOMEM;
	order->result = calloc(1, sizeof(*order->result));
	if (!order->result) {
		free(order);
		return -ENOMEM;
	}
	order->result->id = id;
	order->fd = fd;
	order->is_base = is_base;
	mailbox_post(l->orders, &order->mail);
	return 0;
}

void loader_drop(struct loader *l, struct loaded *loaded)
{
	struct order *order = order_new_patiently(ORDER_KIND_DROP);

	order->dropped = loaded;
	mailbox_post(l->orders, &order->mail);
}

struct loader *loader_free(struct loader *l)
{
	struct load_result *result;

	if (!l)
		return NULL;
	mailbox_post(l->orders, &order_new_patiently(ORDER_KIND_END)->mail);
	pthread_join(l->thread, NULL);
	while ((result = loader_take(l))) {
		if (result->loaded != l->base)
			loaded_free(result->loaded);
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
