/*
 * Messages on a socket: one packet with at most one descriptor, received with suspicion. Long
 * messages go through a sealed memfd without the caller noticing. Blocking is the socket's choice.
 */
#pragma once

#include "client/proto.h"

/* Expected conditions. */
enum {
	WIRE_E_CLOSED = 1, /* the peer has closed the connection */
	WIRE_E_STRANGER,   /* a descriptor that may take long to close */
};

/*
 * One packet of up to `room` bytes and its descriptor, -1 if there is none; the caller owns it.
 * Descriptors are close-on-exec. -EBADMSG, with everything received closed, if the packet or its
 * control data was cut off or brought more than one descriptor; -EMFILE, with the packet gone, if
 * this process may have no more descriptors; -EAGAIN if there is nothing now.
 */
int wire_recv(int sock, void *packet, size_t room, size_t *ret_n, int *ret_fd) _must_check_;

/*
 * Before receiving from a stranger: does the next packet bring nothing besides its bytes, or one
 * memfd? 0: it may be received; -EAGAIN; -EMFILE, and it stays, if this process may have no more
 * descriptors. WIRE_E_STRANGER: it brings something else. The packet then
 * stays, so that nothing can be received any more, and *ret_stranger is a copy of its first
 * descriptor, or -1, which the caller closes where nobody waits for it.
 */
int wire_look(int sock, int *ret_stranger) _must_check_;

/*
 * Closes a socket. Whatever came and was not read is read first: otherwise the kernel would throw
 * away our last words and tell the peer of a broken connection instead. WIRE_E_STRANGER: it was not
 * closed but shut down, as descriptors are in it; close() it where nobody waits for it.
 */
int wire_hang_up(int sock) _must_check_;

/* Sends one packet, with a copy of descriptor `fd` unless it is -1. Never raises SIGPIPE; -EPIPE or
 * -ECONNRESET if the peer is gone, -EAGAIN if its buffer is full. */
int wire_send(int sock, const void *packet, size_t n, int fd) _must_check_;

/* A message ready to be sent, for queues. */
struct wire_packet {
	uint8_t *bytes; /* owned */
	size_t n;
	int fd;        /* owned; -1 unless the body is in a memfd */
	size_t n_body; /* bytes in that memfd */
};

#define WIRE_PACKET_INIT ((struct wire_packet){.fd = -1})

/* Encodes; a message longer than PROTO_MAX_PACKET becomes a header and a sealed memfd. -EMSGSIZE
 * past PROTO_MAX_BODY. */
int wire_pack(const struct proto_message *m, struct wire_packet *ret) _must_check_;
void wire_packet_done(struct wire_packet *p);

/* Both in one. */
int wire_send_message(int sock, const struct proto_message *m) _must_check_;

/* A received message with all that its strings point into; large, so give it a lasting place. */
struct wire_received {
	struct proto_header header; /* request is 0 where even the header was unreadable */
	struct proto_message message;
	void *map; /* the body, if it came in a memfd */
	size_t n_map;
	uint8_t packet[PROTO_MAX_PACKET];
};

/*
 * Receives, checks and decodes one message. WIRE_E_CLOSED; -EAGAIN; -EMFILE; -EBADMSG and
 * -EOPNOTSUPP as proto_decode(), also for a descriptor that is missing, uncalled-for, unsealed or
 * too large; `header` is valid then too, so that an ERROR can be addressed.
 */
int wire_receive(int sock, struct wire_received *ret, struct reason *reason) _must_check_;
void wire_received_done(struct wire_received *r);
