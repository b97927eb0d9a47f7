#include "daemon/notify.h"

#include "common/clock.h"
#include "daemon/loop.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <systemd/sd-daemon.h>

#define STATUS_SIZE 256
#define NS_PER_US 1000

static int take_socket(
	int fd, const char *name, struct notify_sockets *sockets, struct reason *reason)
{
	int *place;
	int flags;

	if (strcmp(name, "inference") == 0)
		place = &sockets->inference;
	else if (strcmp(name, "admin") == 0)
		place = &sockets->admin;
	else
		return reason_set(reason, -EINVAL,
			"passed socket \"%s\": the names are \"inference\" and \"admin\"", name);
	if (*place >= 0)
		return reason_set(reason, -EINVAL, "socket \"%s\" was passed twice", name);
	if (sd_is_socket(fd, AF_UNIX, SOCK_SEQPACKET, 1) <= 0)
		return reason_set(reason, -EINVAL,
			"passed socket \"%s\" is not a listening Unix socket of type SEQPACKET",
			name);
	flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return -errno;
	*place = fd;
	return 0;
}

static void free_names(char **names)
{
	for (size_t i = 0; names && names[i]; i++)
		free(names[i]);
	free(names);
}

int notify_take_sockets(struct notify_sockets *ret, struct reason *reason)
{
	struct notify_sockets sockets = {-1, -1};
	char **names = NULL;
	int n, r = 0;

	/* Unsets the variables, and sets close-on-exec on what was passed. */
	n = sd_listen_fds_with_names(true, &names);
	if (n < 0)
		return reason_set(reason, n, "passed sockets: %s", strerror(-n));
	for (int i = 0; i < n && r >= 0; i++)
		r = take_socket(SD_LISTEN_FDS_START + i, names[i], &sockets, reason);
	free_names(names);
	if (r < 0)
		return r;
	*ret = sockets;
	return 0;
}

void notify_ready(void)
{
	sd_notify(0, "READY=1");
}

void notify_reloading(void)
{
	/* Type=notify-reload pairs the answer with the request by this time. */
	sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%" PRIu64, clock_ns() / NS_PER_US);
}

void notify_stopping(void)
{
	sd_notify(0, "STOPPING=1");
}

void notify_status(const char *fmt, ...)
{
	char status[STATUS_SIZE];
	va_list args;

	va_start(args, fmt);
	vsnprintf(status, sizeof(status), fmt, args);
	va_end(args);
	sd_notifyf(0, "STATUS=%s", status);
}

uint64_t notify_watchdog_ms(void)
{
	uint64_t usec = 0;

	if (sd_watchdog_enabled(0, &usec) <= 0)
		return 0;
	return max_u64(usec / 1000 / 2, 1);
}

void notify_watchdog(void)
{
	sd_notify(0, "WATCHDOG=1");
}
