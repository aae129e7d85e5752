/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Neighbour discovery's messages (RFC 4861), and the advertisement that answers a solicitation. */
#pragma once

#include "ethernet.h"
#include "icmp.h"

enum nd_values {
	ND_HOP_LIMIT = 255, /* nobody forwarded it */
	ND_OPTION_TARGET_MAC = 2,
	ND_ROUTER_SOLICITED_OVERRIDE = 0xe0, /* without "router" the pod would take its default route away */
	ND_SOLICITED_OVERRIDE = 0x60,
	ND_OVERRIDE = 0x20,
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
						   const struct mac_addr *our_mac, __u8 flags)
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
	frame->message.flags = flags;
	frame->message.target = solicitation->target;
	frame->message.option_type = ND_OPTION_TARGET_MAC;
	frame->message.option_length = 1;
	frame->message.option_mac = *our_mac;
	frame->message.checksum = nd_checksum(frame);
}

static __noinline int nd_send_advertisement(struct __sk_buff *skb, const struct flow *flow,
					    const struct nd_message *solicitation, const struct mac_addr *our_mac,
					    __u8 flags)
{
	struct nd_frame frame = {};
	const __u32 bytes = sizeof(frame) - sizeof(frame.pad);

	if (bpf_skb_load_bytes(skb, ETH_ALEN, frame.ethernet.h_dest, ETH_ALEN))
		return DROP_INVALID_PACKET;
	nd_write_advertisement(&frame, flow, solicitation, our_mac, flags);
	if (bpf_skb_change_tail(skb, bytes, 0) || bpf_skb_store_bytes(skb, 0, &frame.ethernet, bytes, 0))
		return DROP_WRITE_ERROR;
	return STEP_ANSWERED;
}
