/*
 * How many CPUs this process may use: its affinity mask, cut down by the CPU quota of its control
 * groups (version 2, and the cpu controller of version 1).
 */
#pragma once

#include "common/base.h"

/* At least 1. */
size_t cpus_usable(void);

/* The quota alone, of the control groups that this process is in and of those above them; 0 if none
 * has one. `root` is put before /proc/self/cgroup and /sys/fs/cgroup: "" but for tests. */
size_t cpus_of_groups(const char *root);
/* The parsers behind it. "max 100000" or "150000 100000" of cpu.max: whole CPUs, rounded up; 0 if
 * there is no limit or the text is not understood. */
size_t cpus_of_cpu_max(const char *text);
/* The same for cpu.cfs_quota_us and cpu.cfs_period_us. */
size_t cpus_of_quota(long long quota_us, long long period_us);
