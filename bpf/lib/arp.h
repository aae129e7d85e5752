/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* ARP of a pod: everything it asks for lies behind its gateway, which is the host side of its own interface.
 * Its own address is asked for to find duplicates (RFC 5227); silence says that there are none.
 */
#pragma once

#include "ethernet.h"

enum arp_values {
	ARP_HARDWARE_ETHERNET = 1,
	ARP_REQUEST = 1,
	ARP_REPLY = 2,
};

/* All of it is aligned to two bytes, so nothing pads it. */
struct arp_ipv4 {
	__be16 hardware_type;
	__be16 protocol_type;
	__u8 hardware_length;
	__u8 protocol_length;
	__be16 operation;
	struct mac_addr sender_mac;
	__u8 sender_address[4];
	struct mac_addr target_mac;
	__u8 target_address[4];
};

struct arp_frame {
	struct ethhdr ethernet;
	struct arp_ipv4 arp;
};

_Static_assert(sizeof(struct arp_frame) == 42, "as on the wire");

static __always_inline bool arp_is_request(const struct arp_ipv4 *arp)
{
	return arp->hardware_type == be16(ARP_HARDWARE_ETHERNET) && arp->protocol_type == be16(ETH_P_IP) &&
	       arp->hardware_length == ETH_ALEN && arp->protocol_length == sizeof(__be32) &&
	       arp->operation == be16(ARP_REQUEST);
}

/* Who asked is answered. */
static __always_inline void arp_turn_into_reply(struct arp_frame *frame, const struct mac_addr *our_mac, __be32 sender,
						__be32 target)
{
	mac_copy(frame->ethernet.h_dest, frame->ethernet.h_source);
	mac_copy(&frame->arp.target_mac, &frame->arp.sender_mac);
	mac_copy(frame->ethernet.h_source, our_mac);
	mac_copy(&frame->arp.sender_mac, our_mac);
	frame->arp.operation = be16(ARP_REPLY);
	*(unaligned_u32 *)frame->arp.sender_address = target;
	*(unaligned_u32 *)frame->arp.target_address = sender;
}

/* STEP_ANSWERED, or the reason to drop it. */
static __always_inline int arp_answer(struct __sk_buff *skb, struct flow *flow)
{
	struct arp_frame *frame = packet_bytes(skb, 0, sizeof(*frame));
	const struct endpoint_entry *endpoint;
	__be32 sender, target;

	if (!frame)
		return DROP_INVALID_PACKET;
	sender = *(const unaligned_u32 *)frame->arp.sender_address;
	target = *(const unaligned_u32 *)frame->arp.target_address;
	if (!arp_is_request(&frame->arp) || !sender || sender == target)
		return DROP_MULTICAST_HANDLED;

	ipv4_mapped(&flow->tuple.source, sender);
	endpoint = endpoint_lookup(&flow->tuple.source, FAMILY_IPV4);
	if (!endpoint || endpoint->ifindex != skb->ifindex)
		return DROP_INVALID_SOURCE_IP;
	if (!mac_equal(frame->ethernet.h_source, &endpoint->mac) || !mac_equal(&frame->arp.sender_mac, &endpoint->mac))
		return DROP_INVALID_SOURCE_MAC;
	arp_turn_into_reply(frame, &endpoint->host_mac, sender, target);
	return STEP_ANSWERED;
}
