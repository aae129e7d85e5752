/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The ways to another node that lead past the stack: by the overlay, or by the link that both share. */
#pragma once

#include "../abi/config.h"
#include "endpoint.h"
#include "hop.h"
#include "node.h"
#include "too_big.h"

CONFIG(__u32, config_overlay_ifindex);

enum forward_values {
	TUNNEL_TTL = 64,
	ADDRESS_FAMILY_IPV4 = 2, /* AF_INET */
	ADDRESS_FAMILY_IPV6 = 10,
};

/* What matters of a packet here, and what is decided, each in one word, as policy.h explains. */
union forward_packet {
	struct {
		__u16 l4_offset;
		__u8 protocol;
		__u8 family;
	};
	__u32 word;
};

union forward_answer {
	struct {
		__u16 mtu_bytes; /* the largest packet that may go there */
		__u8 reason;     /* 0: go; else enum drop_reason */
		__u8 way;        /* TRACE_TO_OVERLAY or TRACE_TO_NETWORK; TRACE_TO_STACK: routes lead there */
	};
	__u32 word;
};

/* IPv6 has no neighbours with an IPv4 address. */
static __always_inline enum trace_point forward_way(const struct node_entry *node, __u8 family)
{
	if (likely(node->flags & NODE_TUNNEL))
		return TRACE_TO_OVERLAY;
	return node->ifindex && (family == FAMILY_IPV4 || node->family == FAMILY_IPV6) ? TRACE_TO_NETWORK
										       : TRACE_TO_STACK;
}

/* How to reach another node, and whether the packet fits. This and what follows are not static, so that they are
 * verified once, as event_send().
 */
__noinline __u32 forward_decide(struct __sk_buff *skb, __u32 node_id, __u32 now_s, __u32 what)
{
	union forward_packet packet = {.word = what};
	union forward_answer answer = {.reason = DROP_NO_TUNNEL_ENDPOINT};
	const struct node_entry *node = node_lookup(node_id);

	if (unlikely(!node || (node->flags & NODE_TUNNEL && !config_overlay_ifindex)))
		return answer.word;
	answer.mtu_bytes = node_mtu(node, node_id, now_s, packet.family);
	answer.way = forward_way(node, packet.family);
	answer.reason = packet_is_too_big(skb, packet.l4_offset, packet.protocol, answer.mtu_bytes)
			    ? DROP_FRAGMENTATION_NEEDED
			    : STEP_DONE;
	return answer.word;
}

/* The same for a packet that may leave; reason 0 if no other node has its destination. */
static __always_inline union forward_answer forward_of(struct __sk_buff *skb, const struct flow *flow, __u8 family)
{
	union forward_packet packet = {
	    .l4_offset = flow->l4_offset, .protocol = flow->tuple.protocol, .family = family};
	union forward_answer answer = {};

	if (flow->destination.node_id)
		answer.word = forward_decide(skb, flow->destination.node_id, flow->now_s, packet.word);
	return answer;
}

/* Numbers of one node alone never travel. */
static __always_inline __u32 tunnel_identity(__u32 sec_identity, __u32 instead)
{
	return identity_is_local(sec_identity) ? instead : sec_identity;
}

static __always_inline void tunnel_set_address(struct bpf_tunnel_key *key, const struct node_entry *node)
{
	if (node->family == FAMILY_IPV4)
		key->remote_ipv4 = be32(node->address.words[3]);
	else
		__builtin_memcpy(key->remote_ipv6, &node->address, sizeof(key->remote_ipv6));
}

/* Out by that device, to where its routes lead; TC_ACT_SHOT if that cannot be. */
__noinline int forward_by_device(struct __sk_buff *skb, __u32 ifindex, __u32 hop_limit)
{
	__u8 family = skb->protocol == be16(ETH_P_IP) ? FAMILY_IPV4 : FAMILY_IPV6;

	if (hop_limit <= 1 || hop_count_down(skb, hop_limit, family))
		return TC_ACT_SHOT;
	return bpf_redirect_neigh(ifindex, 0, 0, 0);
}

static __always_inline long route_ask(struct __sk_buff *skb, struct bpf_fib_lookup *route)
{
	if (skb->protocol == be16(ETH_P_IP)) {
		route->family = ADDRESS_FAMILY_IPV4;
		return bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct iphdr, saddr), &route->ipv4_src,
					  sizeof(route->ipv4_src)) ||
		       bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct iphdr, daddr), &route->ipv4_dst,
					  sizeof(route->ipv4_dst));
	}
	route->family = ADDRESS_FAMILY_IPV6;
	return bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, saddr), route->ipv6_src,
				  sizeof(route->ipv6_src)) ||
	       bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, daddr), route->ipv6_dst,
				  sizeof(route->ipv6_dst));
}

/* Out by the device to which the node's routes lead, with a source that the stack would take for its own. */
__noinline int forward_by_route(struct __sk_buff *skb, __u32 hop_limit)
{
	struct bpf_fib_lookup route = {.ifindex = skb->ifindex};
	long found;

	if (route_ask(skb, &route))
		return TC_ACT_SHOT;
	found = bpf_fib_lookup(skb, &route, sizeof(route), 0);
	if (found != BPF_FIB_LKUP_RET_SUCCESS && found != BPF_FIB_LKUP_RET_NO_NEIGH)
		return TC_ACT_SHOT;
	return forward_by_device(skb, route.ifindex, hop_limit);
}

/* Out by the overlay device, `vni` being the source's identity; TC_ACT_SHOT if that cannot be. Without a checksum of the
 * outer packet: the inner one has its own, and to compute another means to read all of the packet. The outer packet is
 * never fragmented.
 */
__noinline int forward_by_overlay(struct __sk_buff *skb, __u32 node_id, __u32 vni)
{
	const struct node_entry *node = node_lookup(node_id);
	struct bpf_tunnel_key key = {.tunnel_id = vni, .tunnel_ttl = TUNNEL_TTL};
	__u64 flags = BPF_F_ZERO_CSUM_TX | BPF_F_DONT_FRAGMENT;

	if (!node)
		return TC_ACT_SHOT;
	tunnel_set_address(&key, node);
	if (node->family == FAMILY_IPV6)
		flags |= BPF_F_TUNINFO_IPV6;
	if (bpf_skb_set_tunnel_key(skb, &key, TUNNEL_KEY_BYTES, flags))
		return TC_ACT_SHOT;
	return bpf_redirect(config_overlay_ifindex, 0);
}

/* Out to a node on a link of ours, under its MAC; TC_ACT_SHOT if that cannot be. The hop limit is counted down unless it
 * is 0: the stack has done so.
 */
__noinline int forward_to_neighbour(struct __sk_buff *skb, __u32 node_id, __u32 hop_limit)
{
	__u8 family = skb->protocol == be16(ETH_P_IP) ? FAMILY_IPV4 : FAMILY_IPV6;
	const struct node_entry *node = node_lookup(node_id);
	struct bpf_redir_neigh next_hop = {.nh_family = ADDRESS_FAMILY_IPV6};

	if (!node || (hop_limit && hop_count_down(skb, hop_limit, family)))
		return TC_ACT_SHOT;
	if (node->family == FAMILY_IPV4) {
		next_hop.nh_family = ADDRESS_FAMILY_IPV4;
		next_hop.ipv4_nh = node->address.words[3];
	} else {
		__builtin_memcpy(next_hop.ipv6_nh, &node->address, sizeof(next_hop.ipv6_nh));
	}
	return bpf_redirect_neigh(node->ifindex, &next_hop, sizeof(next_hop), 0);
}
