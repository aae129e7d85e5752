/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Answers to those who ask on a link of the node for an address that it announces (l2_announced), also to those who
 * ask whether somebody has it because they would like to have it (RFC 5227, RFC 4862). All else is the stack's.
 */
#pragma once

#include "../maps/l2_announcement.h"
#include "arp.h"
#include "nd_advertisement.h"

static __always_inline const struct l2_announcement *l2_announcement_of(struct __sk_buff *skb,
									const struct ipv6_addr *address)
{
	struct l2_announcement_key key = {.ifindex = skb->ifindex, .address = *address};

	const struct l2_announcement *announcement = bpf_map_lookup_elem(&l2_announced, &key);

	return announcement && announcement->until_ns > bpf_ktime_get_boot_ns() ? announcement : 0;
}

static __always_inline int l2_answer_arp(struct __sk_buff *skb)
{
	struct arp_frame *frame = packet_bytes(skb, 0, sizeof(*frame));
	const struct l2_announcement *announcement;
	struct ipv6_addr address;
	__be32 sender, target;

	if (!frame || !arp_is_request(&frame->arp))
		return STEP_IGNORE;
	sender = *(const unaligned_u32 *)frame->arp.sender_address;
	target = *(const unaligned_u32 *)frame->arp.target_address;
	if (sender == target) /* an announcement of somebody else's: the lease says whose it is */
		return STEP_IGNORE;
	ipv4_mapped(&address, target);
	announcement = l2_announcement_of(skb, &address);
	if (likely(!announcement))
		return STEP_IGNORE;
	arp_turn_into_reply(frame, &announcement->mac, sender, target);
	return STEP_ANSWERED;
}

/* Whoever asks from no address gets the answer where all hear it (RFC 4861, 7.2.4). */
static __always_inline int l2_answer_solicitation(struct __sk_buff *skb, struct flow *flow,
						  const struct nd_message *solicitation)
{
	const struct l2_announcement *announcement = l2_announcement_of(skb, &solicitation->target);
	const struct ipv6_addr all_nodes = {.words = {be32(0xff020000), 0, 0, be32(1)}};
	__u8 flags = ND_SOLICITED_OVERRIDE;
	struct mac_addr mac;

	if (!announcement)
		return STEP_IGNORE;
	if (address_is_unroutable(&flow->tuple.source, FAMILY_IPV6)) {
		flow->tuple.source = all_nodes;
		flags = ND_OVERRIDE;
	}
	mac = announcement->mac;
	return nd_send_advertisement(skb, flow, solicitation, &mac, flags);
}

static __always_inline int l2_answer_nd(struct __sk_buff *skb, struct flow *flow)
{
	const struct ipv6hdr *ip = packet_bytes(skb, ETH_HLEN, sizeof(*ip));
	struct nd_message message = {};

	if (!ip || likely(ip->nexthdr != IPPROTO_ICMPV6) || likely(ip->hop_limit != ND_HOP_LIMIT))
		return STEP_IGNORE;
	__builtin_memcpy(&flow->tuple.source, &ip->saddr, sizeof(flow->tuple.source));
	if (bpf_skb_load_bytes(skb, ETH_HLEN + sizeof(*ip), &message, ND_SOLICITATION_BYTES) ||
	    message.type != ICMP6_NEIGHBOUR_SOLICITATION || message.code)
		return STEP_IGNORE;
	return l2_answer_solicitation(skb, flow, &message);
}

static __noinline int l2_answer_request(struct __sk_buff *skb, struct flow *flow)
{
	if (skb->pkt_type > PACKET_MULTICAST) /* somebody else's */
		return STEP_IGNORE;
	if (skb->protocol == be16(ETH_P_ARP))
		return l2_answer_arp(skb);
	if (skb->protocol == be16(ETH_P_IPV6))
		return l2_answer_nd(skb, flow);
	return STEP_IGNORE;
}

/* STEP_ANSWERED: the packet is the answer now. STEP_IGNORE: it is as it was. Else a drop reason. */
static __always_inline int l2_answer(struct __sk_buff *skb, struct flow *flow)
{
	return likely(skb->protocol == be16(ETH_P_IP)) ? STEP_IGNORE : l2_answer_request(skb, flow);
}
