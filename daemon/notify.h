/*
 * What the daemon and the service manager tell each other: passed sockets, readiness, status,
 * reloading, the watchdog. Without a service manager every call does nothing.
 */
#pragma once

#include "common/reason.h"

struct notify_sockets {
	int inference; /* owned; -1 if it was not passed */
	int admin;
};

/* Listening sockets passed at start, by their names "inference" and "admin" (FileDescriptorName= of
 * the socket units). -EINVAL, with the reason, for another name, a name that comes twice or a
 * descriptor that is not a listening SOCK_SEQPACKET Unix socket. */
int notify_take_sockets(struct notify_sockets *ret, struct reason *reason) _must_check_;

void notify_ready(void);
void notify_reloading(void);
void notify_stopping(void);
void notify_status(const char *fmt, ...) _printf_(1, 2);

/* How often the watchdog wants to hear of us, in milliseconds; 0: there is none. */
uint64_t notify_watchdog_ms(void);
void notify_watchdog(void);
