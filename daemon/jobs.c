#include "daemon/jobs.h"

struct place {
	struct request *request;
	uint64_t job; /* its number is its place and how often that was used: never 0 */
};

struct jobs {
	size_t n;
	struct place places[];
};

int jobs_new(size_t n, struct jobs **ret)
{
	struct jobs *j = calloc(1, sizeof(*j) + n * sizeof(j->places[0]));

	if (!j)
		return -ENOMEM;
	j->n = n;
	for (size_t i = 0; i < n; i++)
		j->places[i].job = i;
	*ret = j;
	return 0;
}

struct jobs *jobs_free(struct jobs *j)
{
	free(j);
	return NULL;
}

uint64_t jobs_add(struct jobs *j, struct request *r)
{
	for (size_t i = 0; i < j->n; i++) {
		struct place *p = &j->places[i];

		if (p->request)
			continue;
		p->request = r;
		p->job += j->n;
		return p->job;
	}
	return 0;
}

struct request *jobs_find(const struct jobs *j, uint64_t job)
{
	const struct place *p = &j->places[job % j->n];

	return p->job == job ? p->request : NULL;
}

void jobs_remove(struct jobs *j, uint64_t job)
{
	struct place *p = &j->places[job % j->n];

	if (p->job == job)
		p->request = NULL;
}

struct request *jobs_at(const struct jobs *j, size_t i)
{
	return j->places[i].request;
}

size_t jobs_places(const struct jobs *j)
{
	return j->n;
}
