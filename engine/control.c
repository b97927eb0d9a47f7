/*
 * The mutex guards which job has which slot, so that a request can never reach the next job of a
 * slot. Flags are atomic besides, because the engine reads them without it.
 */
#include "engine/control.h"

#include <pthread.h>
#include <stdatomic.h>

struct slot {
	bool live;
	uint64_t job;
	atomic_uint flags;
};

struct control {
	pthread_mutex_t lock;
	uint32_t n_slots;
	struct slot slots[];
};

int control_new(uint32_t max_jobs, struct control **ret)
{
	struct control *c = calloc(1, sizeof(*c) + max_jobs * sizeof(c->slots[0]));

	if (!c)
		return -ENOMEM;
	pthread_mutex_init(&c->lock, NULL);
	c->n_slots = max_jobs;
	*ret = c;
	return 0;
}

struct control *control_free(struct control *c)
{
	if (!c)
		return NULL;
	pthread_mutex_destroy(&c->lock);
	free(c);
	return NULL;
}

int control_claim(struct control *c, uint64_t job, uint32_t *ret_slot)
{
	int r = CONTROL_E_FULL;

	pthread_mutex_lock(&c->lock);
	for (uint32_t i = 0; i < c->n_slots; i++) {
		struct slot *s = &c->slots[i];

		if (s->live)
			continue;
		s->live = true;
		s->job = job;
		atomic_store(&s->flags, 0);
		*ret_slot = i;
		r = 0;
		break;
	}
	pthread_mutex_unlock(&c->lock);
	return r;
}

void control_release(struct control *c, uint32_t slot)
{
	pthread_mutex_lock(&c->lock);
	c->slots[slot].live = false;
	pthread_mutex_unlock(&c->lock);
}

uint32_t control_flags(const struct control *c, uint32_t slot)
{
	return atomic_load(&c->slots[slot].flags);
}

void control_change(struct control *c, uint64_t job, uint32_t set, uint32_t clear)
{
	pthread_mutex_lock(&c->lock);
	for (uint32_t i = 0; i < c->n_slots; i++) {
		struct slot *s = &c->slots[i];

		if (!s->live || s->job != job)
			continue;
		atomic_fetch_and(&s->flags, ~clear);
		atomic_fetch_or(&s->flags, set);
	}
	pthread_mutex_unlock(&c->lock);
}
