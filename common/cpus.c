#include "common/cpus.h"

#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

size_t cpus_of_quota(long long quota_us, long long period_us)
{
	if (quota_us <= 0 || period_us <= 0)
		return 0;
	return (size_t)div_up((uint64_t)quota_us, (uint64_t)period_us);
}

size_t cpus_of_cpu_max(const char *text)
{
	long long quota, period;

	if (sscanf(text, "%lld %lld", &quota, &period) != 2)
		return 0;
	return cpus_of_quota(quota, period);
}

static void closefp(FILE **f)
{
	if (*f)
		fclose(*f);
}

static bool read_line(const char *path, char *ret, int room)
{
	_cleanup_(closefp) FILE *f = fopen(path, "re");

	return f && fgets(ret, room, f);
}

static size_t quota_v2(const char *folder)
{
	char path[PATH_MAX], line[64];

	if (snprintf(path, sizeof(path), "%s/cpu.max", folder) >= (int)sizeof(path))
		return 0;
	return read_line(path, line, sizeof(line)) ? cpus_of_cpu_max(line) : 0;
}

static size_t quota_v1(const char *folder)
{
	char path[PATH_MAX], quota[32], period[32];

	if (snprintf(path, sizeof(path), "%s/cpu.cfs_quota_us", folder) >= (int)sizeof(path) ||
		!read_line(path, quota, sizeof(quota)))
		return 0;
	if (snprintf(path, sizeof(path), "%s/cpu.cfs_period_us", folder) >= (int)sizeof(path) ||
		!read_line(path, period, sizeof(period)))
		return 0;
	return cpus_of_quota(strtoll(quota, NULL, 10), strtoll(period, NULL, 10));
}

/* The smallest limit of a group and its ancestors; 0 if none of them has one. `group` is cut. */
static size_t smallest_quota(const char *root, char *group, size_t (*quota)(const char *folder))
{
	char folder[PATH_MAX];
	size_t least = 0;

	for (;;) {
		if (snprintf(folder, sizeof(folder), "%s%s", root, group) < (int)sizeof(folder)) {
			size_t limit = quota(folder);

			if (limit && (!least || limit < least))
				least = limit;
		}
		char *slash = strrchr(group, '/');
		if (!slash)
			return least;
		*slash = '\0';
	}
}

/* Does the comma-separated list of controllers name "cpu"? */
static bool names_cpu(const char *controllers)
{
	size_t n;

	for (const char *at = controllers; *at; at += n + (at[n] == ',')) {
		n = strcspn(at, ",");
		if (n == 3 && memcmp(at, "cpu", 3) == 0)
			return true;
	}
	return false;
}

/* One line of /proc/self/cgroup: "0::/a/b" (version 2) or "4:cpu,cpuacct:/a/b" (version 1). */
static size_t quota_of_line(const char *root, char *line)
{
	char *controllers = strchr(line, ':'), *group;
	char folder[PATH_MAX];

	line[strcspn(line, "\n")] = '\0';
	if (!controllers || !(group = strchr(++controllers, ':')))
		return 0;
	*group++ = '\0';
	if (*controllers && !names_cpu(controllers))
		return 0;
	if (snprintf(folder, sizeof(folder), "%s/sys/fs/cgroup%s", root,
		    *controllers ? "/cpu" : "") >= (int)sizeof(folder))
		return 0;
	return smallest_quota(folder, group, *controllers ? quota_v1 : quota_v2);
}

size_t cpus_of_groups(const char *root)
{
	char line[PATH_MAX];
	_cleanup_(closefp) FILE *f = NULL;
	size_t least = 0;

	if (snprintf(line, sizeof(line), "%s/proc/self/cgroup", root) >= (int)sizeof(line))
		return 0;
	f = fopen(line, "re");
	if (!f)
		return 0;
	while (fgets(line, sizeof(line), f)) {
		size_t limit = quota_of_line(root, line);

		if (limit && (!least || limit < least))
			least = limit;
	}
	return least;
}

static size_t affinity_count(void)
{
	/* Machines may have more CPUs than cpu_set_t has bits. */
	for (int n = CPU_SETSIZE; n <= 1 << 20; n *= 2) {
		cpu_set_t *set = CPU_ALLOC(n);
		size_t bytes = CPU_ALLOC_SIZE(n);
		int r, count;

		if (!set)
			return 1;
		r = sched_getaffinity(0, bytes, set);
		count = r == 0 ? CPU_COUNT_S(bytes, set) : 0;
		CPU_FREE(set);
		if (count > 0)
			return (size_t)count;
		if (errno != EINVAL)
			return 1;
	}
	return 1;
}

size_t cpus_usable(void)
{
	size_t affinity = affinity_count(), quota = cpus_of_groups("");

	return quota ? (size_t)min_u64(affinity, quota) : affinity;
}
