/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Services: a frontend (address, port, protocol) stands for backends, of which one is chosen for each connection.
 *
 *   services4/6 ── first_slot, slots ──> service_slots ── backend id ──> backends
 *
 * A set of backends is a run of service_slots: each backend as often as its weight says, or a Maglev table. The agent
 * writes a run anew and then switches the frontend to it with one write, so that a program sees one whole set or the
 * other. A run, a backend's id and a service's id that are free are given out again only after every program that might
 * have read them has ended.
 *
 * What was translated per packet is remembered in service_flows4/6, as the tuple that a packet's tuple becomes: one
 * entry for each direction.
 */
#pragma once

#include "types.h"

/* A frontend of any node (NodePort) has address 0 here too: it is what stands for the addresses of other nodes. */
struct service4_key {
	__be32 address;
	__be16 port;
	__u8 protocol;
	__u8 pad;
};

struct service6_key {
	struct ipv6_addr address;
	__be16 port;
	__u8 protocol;
	__u8 pad;
};

enum service_flags {
	SERVICE_EXTERNAL = 1,     /* may be reached from outside of the cluster */
	SERVICE_MAGLEV = 2,       /* the slot follows from the client's address and port; else it is random */
	SERVICE_AFFINITY = 4,     /* a client keeps its backend for affinity_s */
	SERVICE_SOURCE_ALLOW = 8, /* from outside only clients within source_ranges4/6 */
	SERVICE_SOURCE_DENY = 16, /* from outside only clients that are not within them */
	SERVICE_DSR = 32,         /* backends answer clients outside directly; else through this node */
	SERVICE_KEEP_SOURCE = 64, /* externalTrafficPolicy Local: backends see the client's address */
	SERVICE_NO_XDP = 128,     /* left to the programs behind XDP */
	SERVICE_OWN_NODE = 256, /* HostPort: nobody but this node serves it; address 0 stands for its addresses alone */
};

/* A run of service_slots. */
struct service_set {
	__u32 first_slot;
	__u32 slots; /* 0: no backend */
};

struct service_entry {
	struct service_set inside;  /* for clients of the cluster: pods and nodes */
	struct service_set outside; /* for all others */
	__u32 service_id;           /* of the frontend; not 0 */
	__u32 affinity_s;
	__u32 flags;       /* enum service_flags */
	__u32 affinity_id; /* with SERVICE_AFFINITY: frontends with the same one share what clients have had */
};

/* service_ips4 / service_ips6: addresses that frontends have, but for those that every node has. */
struct service_address4_key {
	__be32 address;
};

struct service_address6_key {
	struct ipv6_addr address;
};

enum service_address_flags {
	SERVICE_ADDRESS_ALONE = 1, /* no machine has it: what no frontend takes is for nobody */
};

enum backend_state {
	BACKEND_NONE = 0,        /* nothing has this id: what still has it chooses another backend */
	BACKEND_ACTIVE = 1,      /* takes connections */
	BACKEND_TERMINATING = 2, /* keeps those that it has */
};

/* backends: backend id -> where it is. Id 0 is nobody's. */
struct backend_entry {
	struct ipv6_addr address; /* IPv4 in mapped form */
	__be16 port;
	__u8 protocol;
	__u8 state; /* enum backend_state */
	__u32 pad;
};

/* affinity: which backend a client has had. */
struct affinity_key {
	struct ipv6_addr
	    client; /* from a socket: the cookie of its network namespace in the last two words, the first all ones */
	__u32 affinity_id;
	__u32 pad;
};

struct affinity_entry {
	__u32 backend_id;
	__u32 used_s; /* CLOCK_MONOTONIC */
};

/* source_ranges4 / source_ranges6: is the client within the ranges of the service? Presence is the answer. */
struct source_range4_key {
	__u32 prefix_len; /* 32 more than the range's own: the service's id comes first */
	__u32 service_id;
	__be32 address;
};

struct source_range6_key {
	__u32 prefix_len;
	__u32 service_id;
	struct ipv6_addr address;
};

/* service_flows4 / service_flows6: the tuple of packets of one direction of a connection, and the one that they get. */
struct service_flow4_key {
	__be32 source;
	__be32 destination;
	__be16 source_port;
	__be16 destination_port;
	__u8 protocol;
	__u8 pad[3];
};

struct service_flow6_key {
	struct ipv6_addr source;
	struct ipv6_addr destination;
	__be16 source_port;
	__be16 destination_port;
	__u8 protocol;
	__u8 pad[3];
};

enum service_flow_flags {
	SERVICE_FLOW_REPLY = 1, /* of the backend's packets */
	SERVICE_FLOW_SNAT = 2,  /* the backend sees this node, not the client */
	SERVICE_FLOW_DSR = 4,   /* the backend answers the client by way of its own node alone */
	SERVICE_FLOW_HOST = 8,  /* the backend is in this node's own network namespace */
};

struct service_flow_entry {
	struct ipv6_addr source; /* IPv4 in mapped form */
	struct ipv6_addr destination;
	__be16 source_port;
	__be16 destination_port;
	__u32 backend_id;
	__u32 service_id;
	__u32 used_s;  /* CLOCK_MONOTONIC, moved once a second at most */
	__u32 ifindex; /* of a reply that leaves the node: the device by which the connection came; else 0 */
	__u32 flags;   /* enum service_flow_flags */
};

/* How a node tells the backend's node what a client has called (DSR): first of the IPv4 options, or in a header of IPv6
 * destination options right behind the IPv6 header.
 */
enum dsr_limits {
	DSR_OPTION4 = 0x9a, /* copied into fragments; 26 is a number without a meaning elsewhere */
	DSR_OPTION4_BYTES = 8,
	DSR_OPTION6 = 0x1b, /* who does not know it passes over it (RFC 8200) */
	DSR_OPTION6_BYTES = 24,
};

/* With config_dsr_outer_family natively all packets of such a connection have another IP header of the same family around them, from
 * the one node to the other.
 */

struct dsr_option4 {
	__u8 type;
	__u8 option_bytes;
	__be16 port;
	__be32 address;
};

struct dsr_option6 {
	__u8 next_header;
	__u8 length; /* in 8 bytes, less one */
	__u8 type;
	__u8 option_bytes; /* that follow */
	struct ipv6_addr address;
	__be16 port;
	__be16 pad; /* the option PadN of two bytes */
};

/* socket_flows: an address of one socket, and the one that it becomes. */
enum socket_flow_direction {
	SOCKET_FLOW_FORWARD = 1, /* what an unconnected socket sends to: the frontend becomes the backend */
	SOCKET_FLOW_REVERSE = 2, /* what its process sees: the backend becomes the frontend */
};

struct socket_flow_key {
	__u64 socket_cookie;
	struct ipv6_addr address; /* IPv4 in mapped form */
	__be16 port;
	__u16 direction; /* enum socket_flow_direction */
	__u32 pad;
};

struct socket_flow_entry {
	struct ipv6_addr address; /* IPv4 in mapped form */
	__be16 port;
	__u16 pad;
	__u32 service_id;
	__u32 backend_id;
	__u32 reported_s; /* CLOCK_MONOTONIC; the last event about it */
};
