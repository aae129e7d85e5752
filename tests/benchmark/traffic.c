/* SPDX-License-Identifier: Apache-2.0 */
/* A request/response load generator, small enough to read: what netperf calls TCP_RR and TCP_CRR.
 *
 *   traffic server PORT                         one byte back for each byte; after a 'c' it closes (so that the
 *                                               client keeps no TIME_WAIT and its ports stay free)
 *   traffic rr  ADDRESS PORT SECONDS            transactions on one connection
 *   traffic crr ADDRESS PORT SECONDS            connect, one transaction, close
 *   traffic stream ADDRESS PORT SECONDS         bytes one way, as fast as they go
 *
 * Ends after SECONDS or with SIGTERM and prints one JSON line: {"mode", "count", "seconds", "per_second", "errors",
 * "slowest_ms"}; stream counts bytes. An error is a connection that could not be made or that broke.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CHUNK = 131072, EVENTS = 64 };
static char chunk[CHUNK];
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

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static socklen_t parse_address(const char *text, int port, struct sockaddr_storage *out)
{
	struct sockaddr_in *v4 = (void *)out;
	struct sockaddr_in6 *v6 = (void *)out;

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

static int connect_to(const struct sockaddr_storage *address, socklen_t length)
{
	int fd = socket(address->ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;

	if (fd < 0)
		return -1;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (connect(fd, (const void *)address, length) < 0) {
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
	struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
	struct epoll_event ready[EVENTS];

	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	setsockopt(listener, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof(zero));
	if (bind(listener, (void *)&any, sizeof(any)) < 0 || listen(listener, 4096) < 0)
		die("listen");
	add(epoll, listener);
	for (;;) {
		int count = epoll_wait(epoll, ready, EVENTS, -1);

		for (int i = 0; i < count; i++) {
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

static int run(const char *mode, const char *address_text, int port, double seconds)
{
	struct sockaddr_storage address;
	socklen_t length = parse_address(address_text, port, &address);
	unsigned long long count = 0, errors = 0;
	int crr = !strcmp(mode, "crr"), stream = !strcmp(mode, "stream"), fd = -1;
	double start = now_s(), last = start, now, slowest = 0;

	while (!ended && (now = now_s()) < start + seconds) {
		if (now - last > slowest)
			slowest = now - last;
		last = now;
		if (fd < 0 && (fd = connect_to(&address, length)) < 0) {
			if (ended)
				break;
			if (++errors > 1000)
				die("connect");
			continue;
		}
		if (stream) {
			ssize_t sent = send(fd, chunk, sizeof(chunk), MSG_NOSIGNAL);

			if (sent < 0 && ended)
				break;
			if (sent < 0)
				die("send");
			count += sent;
			continue;
		}
		if (transact(fd, crr) < 0) {
			if (ended)
				break;
			errors++;
			close(fd);
			fd = -1;
			continue;
		}
		count++;
		if (crr) {
			close(fd);
			fd = -1;
		}
	}
	seconds = now_s() - start;
	printf("{\"mode\": \"%s\", \"count\": %llu, \"seconds\": %.3f, \"per_second\": %.1f, \"errors\": %llu, "
	       "\"slowest_ms\": %.3f}\n",
	       mode, count, seconds, count / seconds, errors, slowest * 1e3);
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
	if (argc == 5 && (!strcmp(argv[1], "rr") || !strcmp(argv[1], "crr") || !strcmp(argv[1], "stream")))
		return run(argv[1], argv[2], atoi(argv[3]), atof(argv[4]));
	fprintf(stderr, "usage: traffic server PORT | traffic rr|crr|stream ADDRESS PORT SECONDS\n");
	return 2;
}
