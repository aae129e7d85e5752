/* SPDX-License-Identifier: Apache-2.0 */
/* A request/response load generator, small enough to read: what netperf calls TCP_RR and TCP_CRR.
 *
 *   traffic server PORT                         one byte back for each byte; after a 'c' it closes (so that the
 *                                               client keeps no TIME_WAIT and its ports stay free)
 *   traffic rr  ADDRESS PORT SECONDS            transactions on one connection
 *   traffic crr ADDRESS PORT SECONDS            connect, one transaction, close
 *   traffic stream ADDRESS PORT SECONDS         bytes one way, as fast as they go
 *   traffic udp-rr ADDRESS PORT SECONDS         transactions of datagrams on one socket
 *   traffic first  ADDRESS PORT SECONDS         one transaction of datagrams each on a new socket: a flow's first packet
 *   traffic flood  ADDRESS PORT SECONDS         datagrams one way, as fast as they go; the server swallows them
 *
 * ADDRESS+N means N addresses in a row, of which each connection or socket takes one at random.
 *
 * Ends after SECONDS or with SIGTERM and prints one JSON line: {"mode", "count", "seconds", "per_second", "errors",
 * "slowest_ms", "p50_us", "p99_us", "cpu_s"}; stream counts bytes, cpu_s is the processor time that the client took.
 * An error is a connection that could not be made or that broke, or a datagram that nobody answered within a second.
 * The percentiles are of the time that a connection (crr) or a whole transaction (first) took.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CHUNK = 131072, EVENTS = 64, TIMES = 1 << 22, FLOOD_BYTES = 64 };
static char chunk[CHUNK];
static float times_us[TIMES];
static unsigned int addresses = 1;
static volatile sig_atomic_t ended;

static void end(int number)
{
	(void)number;
	ended = 1;
}

static double now_s(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

/* What this thread ran, with what the kernel did for packets meanwhile; getrusage() would count ticks. */
static double cpu_s(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static socklen_t parse_address(char *text, int port, struct sockaddr_storage *out)
{
	char *plus = strchr(text, '+');
	struct sockaddr_in *v4 = (void *)out;
	struct sockaddr_in6 *v6 = (void *)out;

	if (plus) {
		*plus = 0;
		addresses = atoi(plus + 1);
	}
	memset(out, 0, sizeof(*out));
	if (inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
		v4->sin_family = AF_INET;
		v4->sin_port = htons(port);
		return sizeof(*v4);
	}
	if (inet_pton(AF_INET6, text, &v6->sin6_addr) == 1) {
		v6->sin6_family = AF_INET6;
		v6->sin6_port = htons(port);
		return sizeof(*v6);
	}
	fprintf(stderr, "%s: not an address\n", text);
	exit(2);
}

/* The address, or that of the row that chance takes. */
static struct sockaddr_storage one_of(const struct sockaddr_storage *first)
{
	struct sockaddr_storage address = *first;
	size_t last = address.ss_family == AF_INET6 ? offsetof(struct sockaddr_in6, sin6_addr) + 12 :
						      offsetof(struct sockaddr_in, sin_addr);
	uint32_t word;

	memcpy(&word, (char *)&address + last, sizeof(word));
	word = htonl(ntohl(word) + rand() % addresses);
	memcpy((char *)&address + last, &word, sizeof(word));
	return address;
}

static int connect_to(const struct sockaddr_storage *first, socklen_t length, int kind)
{
	struct sockaddr_storage address = one_of(first);
	int fd = socket(address.ss_family, kind | SOCK_CLOEXEC, 0), one = 1;
	struct timeval second = {.tv_sec = 1};

	if (fd < 0)
		return -1;
	if (kind == SOCK_STREAM)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	else
		setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &second, sizeof(second));
	if (connect(fd, (const void *)&address, length) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

static void add(int epoll, int fd)
{
	struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};

	if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0)
		die("epoll_ctl");
}

/* As answer(), from the address that was asked. */
static void answer_datagrams(int fd)
{
	char control[CMSG_SPACE(sizeof(struct in6_pktinfo))];
	struct sockaddr_storage peer;
	struct iovec data = {.iov_base = chunk, .iov_len = CHUNK};

	for (;;) {
		struct msghdr message = {.msg_name = &peer,
					 .msg_namelen = sizeof(peer),
					 .msg_iov = &data,
					 .msg_iovlen = 1,
					 .msg_control = control,
					 .msg_controllen = sizeof(control)};
		ssize_t got;

		data.iov_len = CHUNK;
		got = recvmsg(fd, &message, MSG_DONTWAIT);
		if (got < 0)
			return;
		if (got > 1)
			continue;
		data.iov_len = 1;
		if (CMSG_FIRSTHDR(&message))
			((struct in6_pktinfo *)CMSG_DATA(CMSG_FIRSTHDR(&message)))->ipi6_ifindex = 0;
		sendmsg(fd, &message, MSG_DONTWAIT);
	}
}

/* Requests are one byte; larger reads are a stream and are swallowed. */
static void answer(int fd)
{
	ssize_t got = recv(fd, chunk, sizeof(chunk), 0);

	if (got <= 0) {
		close(fd);
		return;
	}
	if (got > 1)
		return;
	if (send(fd, chunk, 1, MSG_NOSIGNAL) != 1 || chunk[0] == 'c')
		close(fd);
}

static __attribute__((noreturn)) void serve(int port)
{
	int listener = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1, zero = 0, epoll = epoll_create1(0);
	int datagrams = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
	struct epoll_event ready[EVENTS];

	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	setsockopt(listener, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof(zero));
	if (bind(listener, (void *)&any, sizeof(any)) < 0 || listen(listener, 4096) < 0)
		die("listen");
	add(epoll, listener);
	setsockopt(datagrams, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof(zero));
	setsockopt(datagrams, IPPROTO_IPV6, IPV6_RECVPKTINFO, &one, sizeof(one));
	if (bind(datagrams, (void *)&any, sizeof(any)) < 0)
		die("bind");
	add(epoll, datagrams);
	for (;;) {
		int count = epoll_wait(epoll, ready, EVENTS, -1);

		for (int i = 0; i < count; i++) {
			if (ready[i].data.fd == datagrams) {
				answer_datagrams(datagrams);
				continue;
			}
			if (ready[i].data.fd != listener) {
				answer(ready[i].data.fd);
				continue;
			}
			int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

			if (fd < 0)
				continue;
			setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
			add(epoll, fd);
		}
	}
}

static int transact(int fd, int last)
{
	char byte = last ? 'c' : 'x';

	if (send(fd, &byte, 1, MSG_NOSIGNAL) != 1 || recv(fd, &byte, 1, 0) != 1)
		return -1;
	return last && recv(fd, &byte, 1, 0) != 0 ? -1 : 0;
}

static int compare(const void *left, const void *right)
{
	float a = *(const float *)left, b = *(const float *)right;

	return (a > b) - (a < b);
}

static float percentile_us(unsigned int taken, double share)
{
	return taken ? times_us[(unsigned int)((taken - 1) * share)] : 0;
}

/* Nothing but sending; what a full device or a refusal takes is no error of ours. */
static unsigned long long flood(int fd, double until)
{
	unsigned long long count = 0;

	while (!ended && now_s() < until)
		for (int i = 0; i < EVENTS; i++)
			count += send(fd, chunk, FLOOD_BYTES, 0) == FLOOD_BYTES;
	return count;
}

static unsigned long long stream(int fd, double until)
{
	unsigned long long count = 0;

	while (!ended && now_s() < until) {
		ssize_t sent = send(fd, chunk, sizeof(chunk), MSG_NOSIGNAL);

		if (sent < 0 && !ended)
			die("send");
		if (sent > 0)
			count += sent;
	}
	return count;
}

static int run(const char *mode, char *address_text, int port, double seconds)
{
	struct sockaddr_storage address;
	socklen_t length = parse_address(address_text, port, &address);
	unsigned long long count = 0, errors = 0;
	int crr = !strcmp(mode, "crr"), first = !strcmp(mode, "first"), anew = crr || first, fd = -1;
	int kind = first || !strcmp(mode, "udp-rr") || !strcmp(mode, "flood") ? SOCK_DGRAM : SOCK_STREAM;
	double start = now_s(), last = start, now, slowest = 0, spent = cpu_s();
	unsigned int taken = 0;

	srand(getpid());
	while (!ended && (now = now_s()) < start + seconds) {
		if (now - last > slowest)
			slowest = now - last;
		last = now;
		if (fd < 0 && (fd = connect_to(&address, length, kind)) < 0) {
			if (ended)
				break;
			if (++errors > 1000)
				die("connect");
			continue;
		}
		if (crr && taken < TIMES)
			times_us[taken++] = (now_s() - now) * 1e6;
		if (!strcmp(mode, "stream") || !strcmp(mode, "flood")) {
			count = kind == SOCK_STREAM ? stream(fd, start + seconds) : flood(fd, start + seconds);
			break;
		}
		if (transact(fd, crr) < 0) {
			if (ended)
				break;
			if (++errors > 1000)
				die("transaction");
			close(fd);
			fd = -1;
			continue;
		}
		if (first && taken < TIMES)
			times_us[taken++] = (now_s() - now) * 1e6;
		count++;
		if (anew) {
			close(fd);
			fd = -1;
		}
	}
	seconds = now_s() - start;
	spent = cpu_s() - spent;
	qsort(times_us, taken, sizeof(*times_us), compare);
	printf("{\"mode\": \"%s\", \"count\": %llu, \"seconds\": %.3f, \"per_second\": %.1f, \"errors\": %llu, "
	       "\"slowest_ms\": %.3f, \"p50_us\": %.1f, \"p99_us\": %.1f, \"cpu_s\": %.6f}\n",
	       mode, count, seconds, count / seconds, errors, slowest * 1e3, percentile_us(taken, 0.5),
	       percentile_us(taken, 0.99), spent);
	return 0;
}

static int is_mode(const char *word)
{
	static const char *const modes[] = {"rr", "crr", "stream", "udp-rr", "first", "flood"};

	for (unsigned int i = 0; i < sizeof(modes) / sizeof(*modes); i++)
		if (!strcmp(word, modes[i]))
			return 1;
	return 0;
}

int main(int argc, char **argv)
{
	struct sigaction ending = {.sa_handler = end};

	signal(SIGPIPE, SIG_IGN);
	if (argc == 3 && !strcmp(argv[1], "server"))
		serve(atoi(argv[2]));
	sigaction(SIGTERM, &ending, NULL);
	sigaction(SIGINT, &ending, NULL);
	if (argc == 5 && is_mode(argv[1]))
		return run(argv[1], argv[2], atoi(argv[3]), atof(argv[4]));
	fprintf(stderr, "usage: traffic server PORT | traffic rr|crr|stream|udp-rr|first|flood ADDRESS PORT SECONDS\n");
	return 2;
}
