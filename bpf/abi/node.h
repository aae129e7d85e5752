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
