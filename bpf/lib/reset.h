/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* TCP's way to say that nobody is there (RFC 9293, 3.5.2): the segment becomes a reset, and goes back. An ICMP error would
 * not do: it comes while the sender is still within connect(), where the kernel only takes note of it, until it has sent
 * the segment again a second later. A reset waits until it is read.
 */
#pragma once

#include "answer.h"
#include "checksum.h"
#include "l4.h"
#include "service_packet.h"

struct tcp_header {
	__be16 source;
	__be16 destination;
	__be32 sequence;
	__be32 acknowledged;
	__u8 data_offset; /* upper half: words */
	__u8 flags;
	__be16 window;
	__be16 checksum;
	__be16 urgent;
};

struct reset_ipv4 {
	__u16 pad; /* puts the IP header at a multiple of four */
	struct ethhdr ethernet;
	struct iphdr ip;
	struct tcp_header tcp;
} __attribute__((packed, aligned(4)));

struct reset_ipv6 {
	__u16 pad;
	struct ethhdr ethernet;
	struct ipv6hdr ip;
	struct tcp_header tcp;
} __attribute__((packed, aligned(4)));

/* The reset of what was received; DROP_INVALID_PACKET if none is due: a reset is never answered. */
static __always_inline int reset_take(struct __sk_buff *skb, struct tcp_header *tcp)
{
	const struct service_draft *draft = service_draft_here();
	struct tcp_header got;

	if (!draft || bpf_skb_load_bytes(skb, draft->l4_offset, &got, sizeof(got)) || got.flags & TCP_RST)
		return DROP_INVALID_PACKET;
	tcp->source = got.destination;
	tcp->destination = got.source;
	tcp->data_offset = sizeof(*tcp) / 4 << 4;
	tcp->flags = TCP_RST;
	if (got.flags & TCP_ACK) {
		tcp->sequence = got.acknowledged;
		return STEP_DONE;
	}
	tcp->flags |= TCP_ACK;
	tcp->acknowledged = be32(be32(got.sequence) + !!(got.flags & TCP_SYN));
	return STEP_DONE;
}

/* The segment must be in the draft as it was sent. STEP_ANSWERED, or the reason why not. Not static, so that it is
 * verified once, as event_publish().
 */
__noinline int reset_answer_ipv4(struct __sk_buff *skb)
{
	struct reset_ipv4 frame = {.ethernet.h_proto = be16(ETH_P_IP)};
	const __u32 bytes = sizeof(frame) - sizeof(frame.pad);
	struct iphdr got;

	if (reset_take(skb, &frame.tcp) || answer_take(skb, &frame.ethernet, &got, sizeof(got)))
		return DROP_INVALID_PACKET;
	frame.ip.version = 4;
	frame.ip.ihl = sizeof(frame.ip) / 4;
	frame.ip.tot_len = be16(bytes - ETH_HLEN);
	frame.ip.ttl = ANSWER_HOP_LIMIT;
	frame.ip.protocol = IPPROTO_TCP;
	frame.ip.saddr = got.daddr;
	frame.ip.daddr = got.saddr;
	frame.ip.check =
	    checksum_folded(bpf_csum_diff(0, 0, (void *)&frame + offsetof(struct reset_ipv4, ip), sizeof(frame.ip), 0));
	frame.tcp.checksum = checksum_folded(bpf_csum_diff(0, 0, (void *)&frame + offsetof(struct reset_ipv4, ip.saddr),
							   2 * sizeof(frame.ip.saddr) + sizeof(frame.tcp),
							   be32(sizeof(frame.tcp) + IPPROTO_TCP)));
	return answer_put(skb, &frame.ethernet, bytes);
}

__noinline int reset_answer_ipv6(struct __sk_buff *skb)
{
	struct reset_ipv6 frame = {.ethernet.h_proto = be16(ETH_P_IPV6)};
	const __u32 bytes = sizeof(frame) - sizeof(frame.pad);
	struct ipv6hdr got;

	if (reset_take(skb, &frame.tcp) || answer_take(skb, &frame.ethernet, &got, sizeof(got)))
		return DROP_INVALID_PACKET;
	frame.ip.version = 6;
	frame.ip.payload_len = be16(sizeof(frame.tcp));
	frame.ip.nexthdr = IPPROTO_TCP;
	frame.ip.hop_limit = ANSWER_HOP_LIMIT;
	frame.ip.saddr = got.daddr;
	frame.ip.daddr = got.saddr;
	frame.tcp.checksum = checksum_folded(bpf_csum_diff(0, 0, (void *)&frame + offsetof(struct reset_ipv6, ip.saddr),
							   2 * sizeof(frame.ip.saddr) + sizeof(frame.tcp),
							   be32(sizeof(frame.tcp) + IPPROTO_TCP)));
	return answer_put(skb, &frame.ethernet, bytes);
}
