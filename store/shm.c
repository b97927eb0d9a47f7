#include "store/shm.h"

#include "common/file.h"
#include "store/nodes.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif
#ifndef MFD_HUGE_2MB
#define MFD_HUGE_2MB (21U << 26)
#endif

#define HUGE_PAGE (UINT64_C(2) << 20)
#define HUGE_PAGES_FOLDER "/sys/kernel/mm/hugepages/hugepages-2048kB/"
#define TRANSPARENT_PAGES "/sys/kernel/mm/transparent_hugepage/shmem_enabled"

static uint64_t read_count(const char *path)
{
	_cleanup_(closep) int fd = open(path, O_RDONLY | O_CLOEXEC);
	char text[32] = {0};

	if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0)
		return 0;
	return strtoull(text, NULL, 10);
}

static bool huge_pages_suffice(uint64_t n_bytes)
{
	uint64_t n_free = read_count(HUGE_PAGES_FOLDER "free_hugepages");
	uint64_t n_promised = read_count(HUGE_PAGES_FOLDER "resv_hugepages");

	return n_free > n_promised && n_free - n_promised >= div_up(n_bytes, HUGE_PAGE);
}

/* MFD_NOEXEC_SEAL is known from Linux 6.3 on. */
static int create_memfd(const char *name, unsigned int flags)
{
	int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL | flags);

	if (fd < 0 && errno == EINVAL)
		fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | flags);
	return fd < 0 ? -errno : fd;
}

static int map(const struct shm *shm, int protection, uint8_t **ret)
{
	void *at = mmap(NULL, shm->mapped_bytes, protection, MAP_SHARED, shm->fd, 0);

	/* Before Linux 6.7 no shared mapping of write-sealed memory was allowed, reading included.
	 * A private one that is never written shows the same pages. */
	if (at == MAP_FAILED && errno == EPERM && !(protection & PROT_WRITE))
		at = mmap(NULL, shm->mapped_bytes, protection, MAP_PRIVATE | MAP_NORESERVE, shm->fd,
			0);
	if (at == MAP_FAILED)
		return -errno;
	/* Advice only: where huge pages are off, small ones serve. */
	(void)madvise(at, shm->mapped_bytes, MADV_HUGEPAGE);
	*ret = at;
	return 0;
}

/* Taking more than there is would not fail: it would end some process, ours or another. */
static bool machine_has(uint64_t n_bytes)
{
	struct sysinfo info;

	return sysinfo(&info) < 0 ||
	       n_bytes <= ((uint64_t)info.totalram + info.totalswap) * info.mem_unit;
}

static bool transparent_pages_possible(void)
{
	_cleanup_(closep) int fd = open(TRANSPARENT_PAGES, O_RDONLY | O_CLOEXEC);
	char text[128] = {0};

	if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0)
		return false;
	return !strstr(text, "[never]") && !strstr(text, "[deny]");
}

static void unmap(const struct shm *shm, uint8_t **at)
{
	if (*at)
		munmap(*at, shm->mapped_bytes);
	*at = NULL;
}

/* On failure *shm is as it was. */
static int create(struct shm *shm, const char *name, unsigned int flags, uint64_t mapped_bytes)
{
	_cleanup_(closep) int fd = create_memfd(name, flags);

	if (fd < 0)
		return fd;
	if (ftruncate(fd, (off_t)mapped_bytes) < 0)
		return -errno;
	shm->fd = take_fd(&fd);
	shm->mapped_bytes = mapped_bytes;
	return 0;
}

/* Gives the mapping its memory at [at, at + n_bytes), so that writing there cannot fail; or says
 * why not. */
static int make_room(const struct shm *shm, uint64_t at, uint64_t n_bytes)
{
	uint64_t begin = at & ~(HUGE_PAGE - 1), n = at + n_bytes - begin;

	if (madvise(shm->room + begin, n, MADV_POPULATE_WRITE) == 0)
		return 0;
	/* Linux before 5.14, whose pwrite() takes no reserved pages. */
	if (errno == EINVAL && shm->reserved && fallocate(shm->fd, 0, (off_t)begin, (off_t)n) == 0)
		return 0;
	/* Writing there would be a signal. */
	return errno == EFAULT ? -ENOMEM : -errno;
}

/* Reserved huge pages are promised to the mapping, or it is refused: somebody else may have taken
 * them since they were counted. What a control group may have of them the kernel asks only when
 * pages are made, so one is made at once: mostly it may have none, and small ones will do. */
static int create_reserved(struct shm *shm, const char *name, uint64_t n_bytes)
{
	_cleanup_(shm_done) struct shm reserved = *shm;
	int r = create(&reserved, name, MFD_HUGETLB | MFD_HUGE_2MB, align_up(n_bytes, HUGE_PAGE));

	if (r < 0)
		return r;
	reserved.reserved = true;
	r = map(&reserved, PROT_READ | PROT_WRITE, &reserved.room);
	if (r == 0)
		r = make_room(&reserved, 0, 1);
	if (r < 0)
		return r;
	*shm = reserved;
	reserved = SHM_INIT;
	return 0;
}

/* Without the kernel's help all memory comes from the nodes of the threads that fill it. */
static void spread(struct shm *shm, const struct nodes *nodes)
{
	if (nodes_interleave(shm->room, shm->mapped_bytes, nodes) == 0)
		shm->n_nodes = nodes->n;
}

int shm_create(const char *name, uint64_t n_bytes, struct shm *ret)
{
	_cleanup_(shm_done) struct shm shm = {.fd = -1, .n_bytes = n_bytes, .n_nodes = 1};
	struct nodes nodes;
	int r = -ENOMEM;

	if (!machine_has(n_bytes))
		return r;
	if (huge_pages_suffice(n_bytes))
		r = create_reserved(&shm, name, n_bytes);
	if (r < 0)
		r = create(&shm, name, 0, n_bytes);
	if (r < 0)
		return r;
	nodes_allowed(&nodes);
	if (!shm.room && (nodes.n > 1 || transparent_pages_possible()))
		r = map(&shm, PROT_READ | PROT_WRITE, &shm.room);
	if (r < 0)
		return r;
	if (nodes.n > 1)
		spread(&shm, &nodes);
	*ret = shm;
	shm = SHM_INIT;
	return 0;
}

/* New pages are not cleared before they are written, which is why small ones are not mapped. */
static int write_all(int fd, uint64_t at, const uint8_t *bytes, uint64_t n_bytes)
{
	while (n_bytes > 0) {
		ssize_t n = pwrite(fd, bytes, n_bytes, (off_t)at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -ENOSPC;
		at += (uint64_t)n;
		bytes += n;
		n_bytes -= (uint64_t)n;
	}
	return 0;
}

int shm_write(struct shm *shm, uint64_t at, const void *bytes, uint64_t n_bytes)
{
	int r;

	assert(range_inside(at, n_bytes, shm->n_bytes));
	r = shm->room ? make_room(shm, at, n_bytes) : -ENOSYS;
	if (r < 0)
		return shm->reserved ? r : write_all(shm->fd, at, bytes, n_bytes);
	memcpy(shm->room + at, bytes, n_bytes);
	return 0;
}

/* Of a whole filled mapping: what the kernel says of it. */
static uint64_t transparent_bytes(const uint8_t *mapping)
{
	FILE *f = fopen("/proc/self/smaps", "re");
	uint64_t begin, end, kib = 0;
	bool inside = false;
	char line[512];

	if (!f)
		return 0;
	/* Each further mapping of the list would cost the kernel a walk through its pages. */
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%" SCNx64 "-%" SCNx64, &begin, &end) == 2)
			inside = begin == (uint64_t)(uintptr_t)mapping;
		else if (inside && sscanf(line, "ShmemPmdMapped: %" SCNu64, &kib) == 1)
			break;
	}
	fclose(f);
	return kib << 10;
}

int shm_seal(struct shm *shm)
{
	int r;

	if (shm->reserved)
		shm->huge_bytes = shm->mapped_bytes;
	else if (shm->room)
		shm->huge_bytes = transparent_bytes(shm->room);
	unmap(shm, &shm->room);
	r = memory_file_seal(shm->fd);
	return r < 0 ? r : map(shm, PROT_READ, &shm->bytes);
}

int shm_adopt(int fd, struct shm *ret)
{
	struct shm shm = {.fd = fd, .n_nodes = 1};
	struct stat st;
	int seals = fcntl(fd, F_GET_SEALS);
	int r;

	if (seals < 0)
		return -errno;
	if ((seals & MEMORY_FILE_SEALS) != MEMORY_FILE_SEALS)
		return -EPERM;
	if (fstat(fd, &st) < 0)
		return -errno;
	shm.n_bytes = shm.mapped_bytes = (uint64_t)st.st_size;
	r = map(&shm, PROT_READ, &shm.bytes);
	if (r < 0)
		return r;
	*ret = shm;
	return 0;
}

void shm_done(struct shm *shm)
{
	unmap(shm, &shm->room);
	unmap(shm, &shm->bytes);
	if (shm->fd >= 0)
		close(shm->fd);
	*shm = SHM_INIT;
}
