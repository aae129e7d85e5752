/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Neighbour discovery of a pod (RFC 4861), answered as arp.h answers ARP. What else a pod may say of its link is
 * consumed in silence: there is nobody on it. What would steer others (advertisements of routers, redirects) is
 * forbidden.
 */
#pragma once

#include "ethernet.h"
#include "icmp.h"

enum nd_values {
	ND_HOP_LIMIT = 255, /* nobody forwarded it */
	ND_OPTION_TARGET_MAC = 2,
	ND_ROUTER_SOLICITED_OVERRIDE = 0xe0, /* without "router" the pod would take its default route away */
};

struct nd_message {
	__u8 type;
	__u8 code;
	__be16 checksum;
	__u8 flags;
	__u8 reserved[3];
	struct ipv6_addr target;
	/* of the advertisement only */
	__u8 option_type;
	__u8 option_length; /* in units of 8 bytes */
	struct mac_addr option_mac;
};

enum nd_bytes {
	ND_SOLICITATION_BYTES = 24,
	ND_ADVERTISEMENT_BYTES = 32,
};

struct nd_frame {
	__u16 pad; /* puts the IP header at a multiple of four */
	struct ethhdr ethernet;
	struct ipv6hdr ip;
	struct nd_message message;
} __attribute__((packed, aligned(4)));

static __always_inline __be16 nd_checksum(const struct nd_frame *frame)
{
	const __u32 pseudo_header = be32(ND_ADVERTISEMENT_BYTES + IPPROTO_ICMPV6);
	__u32 length = 2 * sizeof(struct ipv6_addr) + ND_ADVERTISEMENT_BYTES;
	__u32 sum = bpf_csum_diff(0, 0, (void *)frame + offsetof(struct nd_frame, ip.saddr), length, pseudo_header);

	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* `our_mac` and the frame's sender become source and destination. */
static __always_inline void nd_write_advertisement(struct nd_frame *frame, const struct flow *flow,
						   const struct nd_message *solicitation,
						   const struct mac_addr *our_mac)
{
	frame->ethernet.h_proto = be16(ETH_P_IPV6);
	__builtin_memcpy(frame->ethernet.h_source, our_mac, ETH_ALEN);
	frame->ip.version = 6;
	frame->ip.payload_len = be16(ND_ADVERTISEMENT_BYTES);
	frame->ip.nexthdr = IPPROTO_ICMPV6;
	frame->ip.hop_limit = ND_HOP_LIMIT;
	__builtin_memcpy(&frame->ip.saddr, &solicitation->target, sizeof(frame->ip.saddr));
	__builtin_memcpy(&frame->ip.daddr, &flow->tuple.source, sizeof(frame->ip.daddr));
	frame->message.type = ICMP6_NEIGHBOUR_ADVERTISEMENT;
	frame->message.flags = ND_ROUTER_SOLICITED_OVERRIDE;
	frame->message.target = solicitation->target;
	frame->message.option_type = ND_OPTION_TARGET_MAC;
	frame->message.option_length = 1;
	frame->message.option_mac = *our_mac;
	frame->message.checksum = nd_checksum(frame);
}

static __noinline int nd_send_advertisement(struct __sk_buff *skb, const struct flow *flow,
					    const struct nd_message *solicitation, const struct mac_addr *our_mac)
{
	struct nd_frame frame = {};
	const __u32 bytes = sizeof(frame) - sizeof(frame.pad);

	if (bpf_skb_load_bytes(skb, ETH_ALEN, frame.ethernet.h_dest, ETH_ALEN))
		return DROP_INVALID_PACKET;
	nd_write_advertisement(&frame, flow, solicitation, our_mac);
	if (bpf_skb_change_tail(skb, bytes, 0) || bpf_skb_store_bytes(skb, 0, &frame.ethernet, bytes, 0))
		return DROP_WRITE_ERROR;
	return STEP_ANSWERED;
}

/* An address of the link alone belongs to no endpoint. The kernel of a pod uses it when it asks whether a neighbour
 * that it knows is still there: the MAC that it asked is confirmed.
 */
static __always_inline int nd_answer_link_local(struct __sk_buff *skb, const struct flow *flow,
						const struct nd_message *solicitation)
{
	struct mac_addr asked;

	if (bpf_skb_load_bytes(skb, 0, &asked, sizeof(asked)))
		return DROP_INVALID_PACKET;
	if (asked.bytes[0] & 1) /* multicast */
		asked = mac_of_host();
	return nd_send_advertisement(skb, flow, solicitation, &asked);
}

static __always_inline int nd_answer_solicitation(struct __sk_buff *skb, const struct flow *flow,
						  const struct nd_message *solicitation)
{
	const struct ethhdr *ethernet = packet_bytes(skb, 0, ETH_HLEN);
	const struct endpoint_entry *endpoint;

	if (address_is_unroutable(&flow->tuple.source, FAMILY_IPV6)) /* duplicate address detection (RFC 4862) */
		return DROP_MULTICAST_HANDLED;
	if (address_is_multicast(&solicitation->target, FAMILY_IPV6) || !ethernet)
		return DROP_INVALID_PACKET;
	if (address_is_link_local(&flow->tuple.source))
		return nd_answer_link_local(skb, flow, solicitation);
	endpoint = endpoint_lookup(&flow->tuple.source, FAMILY_IPV6);
	if (!endpoint || endpoint->ifindex != skb->ifindex)
		return DROP_INVALID_SOURCE_IP;
	if (!mac_equal(ethernet->h_source, &endpoint->mac))
		return DROP_INVALID_SOURCE_MAC;
	if (address_equal(&solicitation->target, &flow->tuple.source))
		return DROP_MULTICAST_HANDLED;
	return nd_send_advertisement(skb, flow, solicitation, &endpoint->host_mac);
}

static __always_inline bool nd_is_message(struct __sk_buff *skb, const struct flow *flow)
{
	__u8 type;

	if (flow->tuple.protocol != IPPROTO_ICMPV6 || flow->fragment)
		return false;
	if (bpf_skb_load_bytes(skb, flow->l4_offset, &type, sizeof(type)))
		return false;
	return type >= ICMP6_ROUTER_SOLICITATION && type <= ICMP6_REDIRECT;
}

/* STEP_ANSWERED, or the reason to drop it. */
static __noinline int nd_handle(struct __sk_buff *skb, struct flow *flow)
{
	struct nd_message message = {};

	if (bpf_skb_load_bytes(skb, flow->l4_offset, &message, ICMP_HEADER_BYTES))
		return DROP_INVALID_PACKET;
	flow->icmp_type = message.type;
	flow->icmp_code = message.code;
	if (message.type == ICMP6_ROUTER_ADVERTISEMENT || message.type == ICMP6_REDIRECT)
		return DROP_FORBIDDEN_ICMPV6;
	if (message.type != ICMP6_NEIGHBOUR_SOLICITATION)
		return DROP_MULTICAST_HANDLED;
	if (flow->hop_limit != ND_HOP_LIMIT ||
	    bpf_skb_load_bytes(skb, flow->l4_offset, &message, ND_SOLICITATION_BYTES))
		return DROP_INVALID_PACKET;
	return nd_answer_solicitation(skb, flow, &message);
}
