/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Masquerade: what pods say to the outside leaves with the node's address.
 *
 * A mapping is two entries of nat4 or nat6, which find each other: NAT_OUT by the addresses as the pod has them, and
 * NAT_IN by those that the network sees. One that lacks the other is void. The remote end is the same in both, so a
 * port of the node serves as many flows as there are remote ends. Services take ports of the same space: NAT_IN with
 * NAT_SERVICE says that service_flows4/6 tell the rest; NAT_OUT with it, that a backend in the node's own network
 * namespace answers, as the frontend that it holds.
 */
#pragma once

#include "types.h"

enum nat_direction {
	NAT_OUT = 0, /* local end: the pod's; the entry holds the node's */
	NAT_IN = 1,  /* local end: the node's; the entry holds the pod's */
};

enum nat_flags {
	NAT_SERVICE =
	    1, /* stands alone: a port that a service's connection has, or a packet of its backend on this node */
};

enum nat_limits {
	NAT_PORT_MIN = 1024,       /* lowest port that a flow is given in place of its own */
	NAT_PORTS = 64512,         /* how many there are from there on */
	NAT_SERVICE_PORTS = 31744, /* and for services: below those that Linux gives to the node's own sockets */
	NAT_PROBES = 32,           /* ports looked at in a round of the search */
	NAT_ROUNDS = 32,
};

struct nat4_key {
	__be32 local;
	__be32 remote;
	__be16 local_port; /* as conntrack has ports: of an ICMP echo the identifier */
	__be16 remote_port;
	__u8 protocol;
	__u8 direction; /* enum nat_direction */
	__u16 pad;
};

struct nat6_key {
	struct ipv6_addr local;
	struct ipv6_addr remote;
	__be16 local_port;
	__be16 remote_port;
	__u8 protocol;
	__u8 direction;
	__u16 pad;
};

struct nat_entry {
	struct ipv6_addr address; /* local end on the other side; IPv4 in mapped form */
	__be16 port;
	__u16 flags;  /* enum nat_flags */
	__u32 used_s; /* CLOCK_MONOTONIC, moved once a second at most */
};

/* masquerade: ifindex -> the addresses with which pods' packets leave by that device. */
struct masquerade_entry {
	struct ipv6_addr ipv4; /* in mapped form; all zero: none, as of a family that is off */
	struct ipv6_addr ipv6;
};

/* no_masquerade4 / no_masquerade6: destinations that see the pods' own addresses. */
struct no_masquerade4_key {
	__u32 prefix_len; /* 0..32 */
	__be32 address;
};

struct no_masquerade6_key {
	__u32 prefix_len; /* 0..128 */
	struct ipv6_addr address;
};
