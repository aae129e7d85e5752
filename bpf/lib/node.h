/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The other nodes of the cluster: which there are, and how much fits through the way to them. */
#pragma once

#include "../maps/node.h"
#include "flow.h"
#include "ipcache.h"

enum node_values {
	TUNNEL_KEY_BYTES = offsetof(struct bpf_tunnel_key, local_ipv4), /* what kernels before 5.18 know */
	IPV6_MTU_MIN = 1280,
};

/* 0 if there is no such node. */
static __always_inline const struct node_entry *node_lookup(__u32 node_id)
{
	const struct node_entry *node;

	if (node_id == NODE_ID_NONE)
		return 0;
	node = bpf_map_lookup_elem(&nodes, &node_id);
	return node && node->family ? node : 0;
}

/* Is it an address of another node? What else a node has, pods and their CIDRs, has other identities. */
static __always_inline bool node_has_address(const struct ipv6_addr *address, __u8 family)
{
	const struct ipcache_entry *entry = ipcache_lookup(address, family);

	return entry && entry->node_id != NODE_ID_NONE && entry->sec_identity == IDENTITY_REMOTE_NODE;
}

/* Do packets of this node come through the overlay, and by no other way? Not static, so that it is verified once. */
__noinline int node_is_behind_tunnel(__u32 node_id)
{
	const struct node_entry *node = node_lookup(node_id);

	return node && node->flags & NODE_TUNNEL;
}

/* The largest IP packet that reaches the node whole, as far as is known today. No host can be told to send IPv6
 * in less than 1280 bytes (RFC 8200).
 */
static __always_inline __u32 node_mtu(const struct node_entry *node, __u32 node_id, __u32 now_s, __u8 family)
{
	const struct path_mtu_entry *path = bpf_map_lookup_elem(&path_mtus, &node_id);
	__u32 mtu_bytes = node->mtu_bytes;

	if (unlikely(path && path->expires_s > now_s && path->mtu_bytes < mtu_bytes))
		mtu_bytes = path->mtu_bytes;
	return family == FAMILY_IPV6 && mtu_bytes < IPV6_MTU_MIN ? IPV6_MTU_MIN : mtu_bytes;
}
