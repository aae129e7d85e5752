/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* nodes: node id -> where a node of the cluster, another than this one, is reached.
 * The ids are this node's own; ipcache entries carry them, so a node that moves costs one entry here.
 */
#pragma once

#include "types.h"

enum node_id {
	NODE_ID_NONE = 0, /* this node, or none of the cluster's */
};

enum node_flags {
	NODE_TUNNEL = 1, /* its pods, and it itself, are reached through the overlay; else as the routes say */
};

struct node_entry {
	struct ipv6_addr address; /* on the underlay; IPv4 in mapped form */
	__u32 ifindex;            /* device on whose link it is a neighbour; 0: routes lead to it */
	__u16 mtu_bytes;          /* the largest IP packet of a pod that reaches it whole */
	__u8 family;              /* of the address: 4, 6; 0: no such node */
	__u8 flags;               /* enum node_flags */
};

enum path_mtu_limits {
	PATH_MTU_LIFETIME_S = 600, /* RFC 1191: then a larger packet may try again */
	PATH_MTU_MIN_BYTES = 576,  /* of the underlay: less is nobody's honest word */
	OVERLAY_BYTES_IPV4 = 50,   /* what encapsulation adds: IPv4, UDP, VXLAN, Ethernet */
	OVERLAY_BYTES_IPV6 = 70,   /* the same with IPv6 */
};

/* path_mtus: node id -> what routers of the underlay said of the way to it. */
struct path_mtu_entry {
	__u32 expires_s; /* CLOCK_MONOTONIC */
	__u16 mtu_bytes; /* as in node_entry, and smaller */
	__u16 pad;
};
