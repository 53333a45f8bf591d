/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
 *
 * Batches of packets to and from UDP sockets. Sending: packets of one size are one message, cut apart by the kernel
 * (UDP GSO, Linux 4.18), and all messages of a batch are one system call. Receiving: one call takes many messages, and
 * one message may hold many packets of one size that the kernel did not take apart (UDP GRO, Linux 5.0).
 */
#ifndef LCSYNC_UDP_H
#define LCSYNC_UDP_H

#include <errno.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "_wire.h"

#ifndef SOL_UDP
#define SOL_UDP 17
#endif
#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

enum {
	GSO_BYTES = 65000, /* of a message: IPv6 carries 65535, UDP header included */
	GSO_PACKETS = 64, /* of a message: UDP_MAX_SEGMENTS of kernels before 6.9 */
	FULL_US = 1000, /* between two tries at a queue that is full, */
	FULL_LIMIT_US = 20000, /* which is an error when it lasts */
	HOLD_US = 200, /* wait for the other thread to empty an assembler that is full */
	MESSAGES = 64, /* taken by one call */
	MESSAGE_BYTES = 65536, /* no UDP datagram is larger, coalesced or not */
	SPREAD = 1472, /* between buffers: at 64 KiB from each other all would start in the same lines of the cache */
};

static int64_t microseconds(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000ll + t.tv_nsec / 1000;
}

/* --- sending --- */

struct sender {
	struct sockaddr_in6 to;
	struct mmsghdr messages[BATCH];
	uint16_t packets[BATCH]; /* of each message */
	char control[BATCH][CMSG_SPACE(sizeof(uint16_t))];
	uint64_t calls, sent_messages;
};

/* Tells the kernel to cut a message into packets of `bytes`. */
static void set_segment(struct msghdr *m, char *control, uint16_t bytes)
{
	m->msg_control = control;
	m->msg_controllen = CMSG_SPACE(sizeof(bytes));
	struct cmsghdr *c = CMSG_FIRSTHDR(m);
	c->cmsg_level = SOL_UDP;
	c->cmsg_type = UDP_SEGMENT;
	c->cmsg_len = CMSG_LEN(sizeof(bytes));
	memcpy(CMSG_DATA(c), &bytes, sizeof(bytes));
}

/* Makes messages of the packets from `first` on; returns how many. With `segment` a message is a run of packets of one
 * size, of which the last may be shorter, else it is one packet.
 */
static int form_messages(struct sender *s, struct packets *p, uint32_t first, int segment)
{
	int n = 0;
	for (uint32_t i = first; i < p->count; n++) {
		const size_t size = p->parts[i][1].iov_len;
		size_t bytes = HEADER + size, last = size;
		uint32_t k = 1;
		while (segment && last == size && i + k < p->count && k < GSO_PACKETS) {
			last = p->parts[i + k][1].iov_len;
			if (last > size || bytes + HEADER + last > GSO_BYTES)
				break;
			bytes += HEADER + last;
			k++;
		}
		struct msghdr *m = &s->messages[n].msg_hdr;
		*m = (struct msghdr){ .msg_name = &s->to, .msg_namelen = sizeof(s->to), .msg_iov = p->parts[i], .msg_iovlen = 2 * k };
		if (k > 1)
			set_segment(m, s->control[n], HEADER + size);
		s->packets[n] = k;
		i += k;
	}
	return n;
}

/* Whether an error may be one of cutting: no kernel support, no checksums by the device, packets above its MTU. */
static int of_segments(int why)
{
	return why == EINVAL || why == EIO || why == EMSGSIZE || why == ENOPROTOOPT || why == EOPNOTSUPP;
}

/* Sends the packets from `*sent` on, which it advances; 0 or why it stopped: EINTR, to be called again. Where the kernel
 * does not cut, it is given packet after packet, and one that is too large for the interface goes out in fragments:
 * `*whole` is then 0.
 */
static int send_packets(struct sender *s, int fd, struct packets *p, uint32_t *sent, int *whole)
{
	int segment = 1;
	int64_t full_at = 0; /* when a call began that found the queue full, with none between that did not */
	int old = 1; /* an error may be that of an ICMP message, which anybody can send: it is told once */
	while (*sent < p->count) {
		int n = form_messages(s, p, *sent, segment), done = 0;
		while (done < n) {
			const int64_t began = microseconds();
			int k = sendmmsg(fd, s->messages + done, n - done, 0);
			s->calls++;
			if (k > 0) {
				full_at = 0;
				s->sent_messages += k;
				for (int i = done; i < done + k; i++)
					*sent += s->packets[i];
				done += k;
				if (done < n) /* by an error, which the next call tells, or by a signal, which it would not */
					return EINTR;
				continue;
			}
			int why = errno;
			if (why == ENOBUFS || why == EAGAIN) {
				full_at = full_at ? full_at : began;
				if (microseconds() >= full_at + FULL_LIMIT_US)
					return why;
				usleep(FULL_US);
			} else if (old) {
				old = 0;
			} else if (segment && s->packets[done] > 1 && of_segments(why)) {
				segment = 0;
				*whole = why != EMSGSIZE && why != EINVAL;
				break;
			} else {
				return why;
			}
		}
	}
	return 0;
}

/* --- receiving --- */

struct receiver {
	struct mmsghdr messages[MESSAGES];
	struct iovec parts[MESSAGES];
	struct sockaddr_in6 sources[MESSAGES];
	char control[MESSAGES][CMSG_SPACE(sizeof(int))];
	uint32_t lengths[MESSAGES];
	uint8_t *data;
	uint64_t taken_messages, taken_packets;
};

static const size_t MESSAGE_STRIDE = MESSAGE_BYTES + SPREAD;

/* The size of the packets that a message was put together from; 0: it is one packet. */
static uint32_t coalesced(struct msghdr *m)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c))
		if (c->cmsg_level == SOL_UDP && c->cmsg_type == UDP_GRO) {
			int size;
			memcpy(&size, CMSG_DATA(c), sizeof(size));
			return size > 0 ? size : 0;
		}
	return 0;
}

/* Feeds one message of packets of `size` bytes, the last of which may be shorter; returns their number. */
static uint32_t feed_message(struct assembler *a, const uint8_t *data, uint32_t bytes, uint32_t size,
                             const uint8_t *source)
{
	uint32_t total = 0, lengths[MESSAGES];
	while (bytes) {
		uint32_t n = 0, fed = 0;
		for (; n < MESSAGES && bytes; n++) {
			lengths[n] = bytes < size ? bytes : size;
			bytes -= lengths[n];
			fed += lengths[n];
		}
		feed_batch(a, data, size, lengths, n, source, 0);
		data += fed;
		total += n;
	}
	return total;
}

/* While the assembler is full, what comes waits in the socket's buffer, not to be thrown away here. */
static void hold(struct assembler *a, int64_t end_us)
{
	while (!a->nfree && a->nevents && microseconds() < end_us)
		usleep(HOLD_US);
}

/* Takes what is there, MESSAGES at most; returns how many messages it was, -1 with errno. */
static int take_messages(struct receiver *r, int fd, struct assembler *a, int64_t end_us)
{
	for (int i = 0; i < MESSAGES; i++) {
		struct msghdr *m = &r->messages[i].msg_hdr;
		r->parts[i] = (struct iovec){ r->data + i * MESSAGE_STRIDE, MESSAGE_BYTES };
		*m = (struct msghdr){ .msg_name = &r->sources[i], .msg_namelen = sizeof(r->sources[i]),
			.msg_iov = &r->parts[i], .msg_iovlen = 1, .msg_control = r->control[i],
			.msg_controllen = sizeof(r->control[i]) };
	}
	const int n = recvmmsg(fd, r->messages, MESSAGES, MSG_DONTWAIT, NULL);
	for (int i = 0; i < n;) {
		const uint8_t *data = r->data + i * MESSAGE_STRIDE, *source = r->sources[i].sin6_addr.s6_addr;
		uint32_t size = coalesced(&r->messages[i].msg_hdr), bytes = r->messages[i].msg_len;
		hold(a, end_us);
		if (size && size < bytes) {
			r->taken_packets += feed_message(a, data, bytes, size, source);
			i++;
			continue;
		}
		int k = 0; /* a run of messages that are one packet each */
		do
			r->lengths[k] = r->messages[i + k].msg_len;
		while (i + ++k < n && !coalesced(&r->messages[i + k].msg_hdr));
		feed_batch(a, data, MESSAGE_STRIDE, r->lengths, k, source, sizeof(r->sources[0]));
		r->taken_packets += k;
		i += k;
	}
	if (n > 0)
		r->taken_messages += n;
	return n;
}

/* Feeds packets until there is a new event or `timeout_ms` is over; 0 or why it stopped. */
static int receive_packets(struct receiver *r, int fd, struct assembler *a, int timeout_ms, int nap_us)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	const int64_t end = microseconds() + timeout_ms * 1000ll;
	const uint64_t before = a->pushed;
	while (a->pushed == before) {
		const int64_t left = end - microseconds();
		if (left <= 0)
			break;
		hold(a, end);
		const int n = take_messages(r, fd, a, end);
		if (n > 0) {
			if (n < MESSAGES && nap_us)
				usleep(nap_us);
			continue;
		}
		const int why = errno;
		if (n < 0 && why != EAGAIN && why != EINTR)
			return why;
		poll(&p, 1, left / 1000 + 1);
	}
	return 0;
}

#endif
