#include "store/shm.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <time.h>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif
#ifndef MFD_HUGE_2MB
#define MFD_HUGE_2MB (21U << 26)
#endif

#define HUGE_PAGE (UINT64_C(2) << 20)
#define HUGE_PAGES_FOLDER "/sys/kernel/mm/hugepages/hugepages-2048kB/"
#define SEAL_ATTEMPTS 100u /* each waits in the kernel as well: some 15 seconds in all */
#define CONTENT_SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)

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

/* Makes the memfd and all of its memory. Returns the descriptor. */
static int create_filled(const char *name, unsigned int flags, uint64_t n_bytes)
{
	_cleanup_(closep) int fd = create_memfd(name, flags);

	if (fd < 0)
		return fd;
	if (ftruncate(fd, (off_t)n_bytes) < 0 || fallocate(fd, 0, 0, (off_t)n_bytes) < 0)
		return -errno;
	return take_fd(&fd);
}

static int map(struct shm *shm, int protection)
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
	shm->bytes = at;
	return 0;
}

/* Taking more than there is would not fail: it would end some process, ours or another. */
static bool machine_has(uint64_t n_bytes)
{
	struct sysinfo info;

	return sysinfo(&info) < 0 ||
	       n_bytes <= ((uint64_t)info.totalram + info.totalswap) * info.mem_unit;
}

static void unmap(struct shm *shm)
{
	if (shm->bytes)
		munmap(shm->bytes, shm->mapped_bytes);
	shm->bytes = NULL;
}

int shm_create(const char *name, uint64_t n_bytes, struct shm *ret)
{
	_cleanup_(shm_done) struct shm shm = {.fd = -1, .n_bytes = n_bytes};
	int r;

	if (!machine_has(n_bytes))
		return -ENOMEM;
	if (huge_pages_suffice(n_bytes)) {
		shm.mapped_bytes = align_up(n_bytes, HUGE_PAGE);
		shm.fd = create_filled(name, MFD_HUGETLB | MFD_HUGE_2MB, shm.mapped_bytes);
	}
	/* Somebody else may have taken the huge pages meanwhile. */
	if (shm.fd < 0) {
		shm.mapped_bytes = n_bytes;
		shm.fd = create_filled(name, 0, n_bytes);
	}
	if (shm.fd < 0)
		return shm.fd;
	r = map(&shm, PROT_READ | PROT_WRITE);
	if (r < 0)
		return r;
	*ret = shm;
	shm = SHM_INIT;
	return 0;
}

/*
 * A page that direct input filled stays pinned until a worker of the kernel has marked it dirty,
 * which may be after the read was reported as done. The kernel waits a tenth of a second for such
 * pages and then says EBUSY; on a loaded machine that is too short.
 */
static int add_seals(int fd)
{
	const struct timespec pause = {.tv_nsec = 10000000};

	for (unsigned int attempt = 0;; attempt++) {
		if (fcntl(fd, F_ADD_SEALS, CONTENT_SEALS | F_SEAL_SEAL) == 0)
			return 0;
		if (errno != EBUSY || attempt == SEAL_ATTEMPTS)
			return -errno;
		(void)nanosleep(&pause, NULL);
	}
}

int shm_seal(struct shm *shm)
{
	int r;

	unmap(shm);
	r = add_seals(shm->fd);
	return r < 0 ? r : map(shm, PROT_READ);
}

int shm_adopt(int fd, struct shm *ret)
{
	struct shm shm = {.fd = fd};
	struct stat st;
	int seals = fcntl(fd, F_GET_SEALS);
	int r;

	if (seals < 0)
		return -errno;
	if ((seals & CONTENT_SEALS) != CONTENT_SEALS)
		return -EPERM;
	if (fstat(fd, &st) < 0)
		return -errno;
	shm.n_bytes = shm.mapped_bytes = (uint64_t)st.st_size;
	r = map(&shm, PROT_READ);
	if (r < 0)
		return r;
	*ret = shm;
	return 0;
}

void shm_done(struct shm *shm)
{
	unmap(shm);
	if (shm->fd >= 0)
		close(shm->fd);
	*shm = SHM_INIT;
}
