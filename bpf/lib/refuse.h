/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What the sender of a packet is told that cannot go on: the packet becomes the answer, and goes back. That it was too
 * big (too_big.h), or that nobody is there, by TCP's reset (reset.h) or by ICMP (RFC 792, RFC 4443): connecting to a
 * service without backends fails at once.
 */
#pragma once

#include "reset.h"
#include "service_packet.h"
#include "too_big.h"

enum refuse_bytes {
	REFUSE_QUOTE_IPV4 = 28, /* header and ports: every packet to a service has them */
	REFUSE_QUOTE_IPV6 = 48,
};

struct refuse_ipv4 {
	__u16 pad; /* puts the IP header at a multiple of four */
	struct ethhdr ethernet;
	struct iphdr ip;
	struct icmp_too_big icmp;
	__u8 quote[REFUSE_QUOTE_IPV4];
} __attribute__((packed, aligned(4)));

struct refuse_ipv6 {
	__u16 pad;
	struct ethhdr ethernet;
	struct ipv6hdr ip;
	struct icmp_too_big icmp;
	__u8 quote[REFUSE_QUOTE_IPV6];
} __attribute__((packed, aligned(4)));

/* STEP_ANSWERED, or the reason why not. */
__noinline int refuse_ipv4(struct __sk_buff *skb)
{
	struct refuse_ipv4 frame = {
	    .ethernet.h_proto = be16(ETH_P_IP),
	    .ip = {.version = 4, .ihl = 5, .ttl = TOO_BIG_HOP_LIMIT, .protocol = IPPROTO_ICMP},
	    .icmp = {.type = ICMP4_UNREACHABLE, .code = ICMP4_PORT_UNREACHABLE},
	};
	const __u32 bytes = sizeof(frame) - sizeof(frame.pad);

	if (too_big_take(skb, &frame.ethernet, frame.quote, sizeof(frame.quote)))
		return DROP_INVALID_PACKET;
	frame.ip.tot_len = be16(bytes - ETH_HLEN);
	__builtin_memcpy(&frame.ip.saddr, frame.quote + offsetof(struct iphdr, daddr), sizeof(frame.ip.saddr));
	__builtin_memcpy(&frame.ip.daddr, frame.quote + offsetof(struct iphdr, saddr), sizeof(frame.ip.daddr));
	frame.ip.check = checksum_folded(
	    bpf_csum_diff(0, 0, (void *)&frame + offsetof(struct refuse_ipv4, ip), sizeof(frame.ip), 0));
	frame.icmp.checksum = checksum_folded(bpf_csum_diff(0, 0, (void *)&frame + offsetof(struct refuse_ipv4, icmp),
							    sizeof(frame.icmp) + sizeof(frame.quote), 0));
	if (bpf_skb_change_tail(skb, bytes, 0) || bpf_skb_store_bytes(skb, 0, &frame.ethernet, bytes, 0))
		return DROP_WRITE_ERROR;
	return STEP_ANSWERED;
}

__noinline int refuse_ipv6(struct __sk_buff *skb)
{
	const __u32 icmp_bytes = sizeof(struct icmp_too_big) + REFUSE_QUOTE_IPV6;
	struct refuse_ipv6 frame = {
	    .ethernet.h_proto = be16(ETH_P_IPV6),
	    .ip = {.version = 6,
		   .payload_len = be16(icmp_bytes),
		   .nexthdr = IPPROTO_ICMPV6,
		   .hop_limit = TOO_BIG_HOP_LIMIT},
	    .icmp = {.type = ICMP6_UNREACHABLE, .code = ICMP6_PORT_UNREACHABLE},
	};
	const __u32 bytes = sizeof(frame) - sizeof(frame.pad);

	if (too_big_take(skb, &frame.ethernet, frame.quote, sizeof(frame.quote)))
		return DROP_INVALID_PACKET;
	__builtin_memcpy(&frame.ip.saddr, frame.quote + offsetof(struct ipv6hdr, daddr), sizeof(frame.ip.saddr));
	__builtin_memcpy(&frame.ip.daddr, frame.quote + offsetof(struct ipv6hdr, saddr), sizeof(frame.ip.daddr));
	frame.icmp.checksum = checksum_folded(
	    bpf_csum_diff(0, 0, (void *)&frame + offsetof(struct refuse_ipv6, ip.saddr),
			  2 * sizeof(struct ipv6_addr) + icmp_bytes, be32(icmp_bytes + IPPROTO_ICMPV6)));
	if (bpf_skb_change_tail(skb, bytes, 0) || bpf_skb_store_bytes(skb, 0, &frame.ethernet, bytes, 0))
		return DROP_WRITE_ERROR;
	return STEP_ANSWERED;
}

/* An error about a packet that was translated tells its sender of the one that it has sent. */
static __always_inline void refuse_turn(struct __sk_buff *skb, __u8 family)
{
	struct service_draft *draft = service_draft_here();

	if (!draft)
		return;
	draft->packet.source = draft->to.destination;
	draft->packet.destination = draft->to.source;
	draft->packet.source_port = draft->packet.destination_port = 0;
	draft->packet.protocol = icmp_protocol(family);
	draft->where = 0;
	draft->fragment = FRAGMENT_NONE;
	draft->l4_offset = ETH_HLEN + (family == FAMILY_IPV4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr));
	service_turn_error(skb);
}

static __always_inline int refuse_too_big(struct __sk_buff *skb, __u32 mtu_bytes, __u8 family, __u32 for_service)
{
	int answer = too_big_answer(skb, mtu_bytes, family);

	if (for_service && answer == STEP_ANSWERED)
		refuse_turn(skb, family);
	return answer;
}

static __always_inline bool refuse_quietly(void)
{
	const struct service_draft *draft = service_draft_here();

	return draft && draft->where & SERVICE_QUIET;
}

/* The packet is in the draft as it was sent. */
static __always_inline int refuse_service(struct __sk_buff *skb, __u8 family)
{
	const struct service_draft *draft = service_draft_here();

	if (draft && draft->packet.protocol == IPPROTO_TCP)
		return family == FAMILY_IPV4 ? reset_answer_ipv4(skb) : reset_answer_ipv6(skb);
	return family == FAMILY_IPV4 ? refuse_ipv4(skb) : refuse_ipv6(skb);
}

/* STEP_ANSWERED if the packet has become the answer. Not static, so that it is verified once, as event_send(). */
__noinline int refuse(struct __sk_buff *skb, __u32 reason, __u32 mtu_bytes, __u32 for_service)
{
	__u8 family = skb->protocol == be16(ETH_P_IP) ? FAMILY_IPV4 : FAMILY_IPV6;

	if (reason == DROP_FRAGMENTATION_NEEDED)
		return refuse_too_big(skb, mtu_bytes, family, for_service);
	if (reason != DROP_SERVICE_NO_BACKEND || refuse_quietly())
		return STEP_DONE;
	return refuse_service(skb, family);
}
