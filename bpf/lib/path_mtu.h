/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Routers of the underlay tell this node, not the pod, that an encapsulated packet was too big for the next link
 * (RFC 1191, RFC 8201). What they say is remembered for the node that was meant, until it expires.
 */
#pragma once

#include "clock.h"
#include "endpoint.h"
#include "icmp.h"
#include "node.h"

CONFIG(__u32, config_tunnel_port);

/* The MTU that the ICMP message states; 0 if it is no such message. */
static __always_inline __u32 path_mtu_stated(struct __sk_buff *skb, __u32 l4_offset, __u8 family)
{
	struct {
		__u8 type;
		__u8 code;
		__be16 checksum;
		union {
			__be32 mtu6;
			struct {
				__be16 unused;
				__be16 mtu4;
			};
		};
	} message;

	if (bpf_skb_load_bytes(skb, l4_offset, &message, sizeof(message)))
		return 0;
	if (family == FAMILY_IPV6)
		return message.type == ICMP6_PACKET_TOO_BIG ? be32(message.mtu6) : 0;
	return message.type == ICMP4_UNREACHABLE && message.code == ICMP4_FRAGMENTATION_NEEDED ? be16(message.mtu4) : 0;
}

static __always_inline void path_mtu_remember(__u32 node_id, __u32 mtu_bytes)
{
	struct path_mtu_entry *path = bpf_map_lookup_elem(&path_mtus, &node_id);
	__u32 now_s = clock_now_s();

	if (!path || (path->expires_s > now_s && path->mtu_bytes < mtu_bytes))
		return;
	path->mtu_bytes = mtu_bytes;
	path->expires_s = now_s + PATH_MTU_LIFETIME_S;
}

/* Is it about a packet that this node sent to the overlay of another? Then its node id. */
static __always_inline __u32 path_mtu_node(const struct tuple *quoted, __u8 family)
{
	const struct node_entry *node;
	struct end end;

	end_set_remote(&end, &quoted->source, family);
	if (end.sec_identity != IDENTITY_HOST)
		return NODE_ID_NONE;
	end_set_remote(&end, &quoted->destination, family);
	node = node_lookup(end.node_id);
	if (!node || !(node->flags & NODE_TUNNEL) || !address_equal(&node->address, &quoted->destination))
		return NODE_ID_NONE;
	return end.node_id;
}

/* Takes an ICMP message to this node into account, whatever it says. Not static, so that it is verified once. */
__noinline int path_mtu_learn(struct __sk_buff *skb, __u32 l4_offset, __u32 family)
{
	__u32 mtu_bytes = path_mtu_stated(skb, l4_offset, family);
	struct tuple quoted = {};
	__u32 node_id;

	if (mtu_bytes < PATH_MTU_MIN_BYTES || mtu_bytes > IP_LENGTH_MAX ||
	    !icmp_quoted(skb, l4_offset, family, &quoted))
		return 0;
	if (quoted.protocol != IPPROTO_UDP || be16(quoted.destination_port) != config_tunnel_port)
		return 0;
	node_id = path_mtu_node(&quoted, family);
	if (node_id)
		path_mtu_remember(node_id,
				  mtu_bytes - (family == FAMILY_IPV4 ? OVERLAY_BYTES_IPV4 : OVERLAY_BYTES_IPV6));
	return 0;
}
