/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* A packet that is larger than the way to another node takes becomes the ICMP error that says so (RFC 1191, RFC 4443),
 * and goes back. It comes from the address that the packet was for: that of this node would be refused by its own stack
 * as that of an impostor.
 */
#pragma once

#include "ethernet.h"
#include "icmp.h"
#include "l4.h"
#include "parse.h"

enum too_big_bytes {
	TOO_BIG_QUOTE_IPV4 = 68, /* the longest IPv4 header and 8 bytes */
	TOO_BIG_QUOTE_IPV6 = 88, /* the header, extensions and the ports of most */
	TOO_BIG_HOP_LIMIT = 64,
};

struct icmp_too_big {
	__u8 type;
	__u8 code;
	__be16 checksum;
	__be32 mtu_bytes; /* IPv4: its lower half */
};

struct too_big_ipv4 {
	__u16 pad; /* puts the IP header at a multiple of four */
	struct ethhdr ethernet;
	struct iphdr ip;
	struct icmp_too_big icmp;
	__u8 quote[TOO_BIG_QUOTE_IPV4];
} __attribute__((packed, aligned(4)));

struct too_big_ipv6 {
	__u16 pad;
	struct ethhdr ethernet;
	struct ipv6hdr ip;
	struct icmp_too_big icmp;
	__u8 quote[TOO_BIG_QUOTE_IPV6];
} __attribute__((packed, aligned(4)));

static __always_inline __be16 checksum_folded(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* IP header and payload of the largest packet that the wire will see: of a segment, if the kernel segments it later. */
static __always_inline __u32 packet_largest(struct __sk_buff *skb, __u32 l4_offset, __u8 protocol)
{
	__u32 header_bytes = l4_offset - ETH_HLEN;
	__u8 data_offset = 0;

	if (!skb->gso_size)
		return skb->len - ETH_HLEN;
	if (protocol != IPPROTO_TCP)
		return header_bytes + UDP_HEADER_BYTES + skb->gso_size;
	bpf_skb_load_bytes(skb, l4_offset + offsetof(struct l4_header, tcp_data_offset), &data_offset, 1);
	return header_bytes + (data_offset >> 4) * 4 + skb->gso_size;
}

static __always_inline bool packet_is_too_big(struct __sk_buff *skb, __u32 l4_offset, __u8 protocol, __u32 mtu_bytes)
{
	return unlikely(skb->len - ETH_HLEN > mtu_bytes) && packet_largest(skb, l4_offset, protocol) > mtu_bytes;
}

/* The frame's ends change places; what it carried is quoted. */
static __always_inline int too_big_take(struct __sk_buff *skb, struct ethhdr *ethernet, __u8 *quote, __u32 quote_bytes)
{
	if (bpf_skb_load_bytes(skb, 0, ethernet->h_source, ETH_ALEN) ||
	    bpf_skb_load_bytes(skb, ETH_ALEN, ethernet->h_dest, ETH_ALEN))
		return DROP_INVALID_PACKET;
	return bpf_skb_load_bytes(skb, ETH_HLEN, quote, quote_bytes) ? DROP_INVALID_PACKET : STEP_DONE;
}

/* STEP_ANSWERED, or the reason to drop it. Not static, so that it is verified once, as event_send(). */
__noinline int too_big_answer_ipv4(struct __sk_buff *skb, __u32 mtu_bytes)
{
	struct too_big_ipv4 frame = {
	    .ethernet.h_proto = be16(ETH_P_IP),
	    .ip = {.version = 4, .ihl = 5, .ttl = TOO_BIG_HOP_LIMIT, .protocol = IPPROTO_ICMP},
	    .icmp = {.type = ICMP4_UNREACHABLE, .code = ICMP4_FRAGMENTATION_NEEDED, .mtu_bytes = be32(mtu_bytes)},
	};
	const __u32 bytes = sizeof(frame) - sizeof(frame.pad);

	if (too_big_take(skb, &frame.ethernet, frame.quote, sizeof(frame.quote)))
		return DROP_INVALID_PACKET;
	frame.ip.tot_len = be16(bytes - ETH_HLEN);
	__builtin_memcpy(&frame.ip.saddr, frame.quote + offsetof(struct iphdr, daddr), sizeof(frame.ip.saddr));
	__builtin_memcpy(&frame.ip.daddr, frame.quote + offsetof(struct iphdr, saddr), sizeof(frame.ip.daddr));
	frame.ip.check = checksum_folded(
	    bpf_csum_diff(0, 0, (void *)&frame + offsetof(struct too_big_ipv4, ip), sizeof(frame.ip), 0));
	frame.icmp.checksum = checksum_folded(bpf_csum_diff(0, 0, (void *)&frame + offsetof(struct too_big_ipv4, icmp),
							    sizeof(frame.icmp) + sizeof(frame.quote), 0));
	if (bpf_skb_change_tail(skb, bytes, 0) || bpf_skb_store_bytes(skb, 0, &frame.ethernet, bytes, 0))
		return DROP_WRITE_ERROR;
	return STEP_ANSWERED;
}

__noinline int too_big_answer_ipv6(struct __sk_buff *skb, __u32 mtu_bytes)
{
	const __u32 icmp_bytes = sizeof(struct icmp_too_big) + TOO_BIG_QUOTE_IPV6;
	struct too_big_ipv6 frame = {
	    .ethernet.h_proto = be16(ETH_P_IPV6),
	    .ip = {.version = 6,
		   .payload_len = be16(icmp_bytes),
		   .nexthdr = IPPROTO_ICMPV6,
		   .hop_limit = TOO_BIG_HOP_LIMIT},
	    .icmp = {.type = ICMP6_PACKET_TOO_BIG, .mtu_bytes = be32(mtu_bytes)},
	};
	const __u32 bytes = sizeof(frame) - sizeof(frame.pad);

	if (too_big_take(skb, &frame.ethernet, frame.quote, sizeof(frame.quote)))
		return DROP_INVALID_PACKET;
	__builtin_memcpy(&frame.ip.saddr, frame.quote + offsetof(struct ipv6hdr, daddr), sizeof(frame.ip.saddr));
	__builtin_memcpy(&frame.ip.daddr, frame.quote + offsetof(struct ipv6hdr, saddr), sizeof(frame.ip.daddr));
	frame.icmp.checksum = checksum_folded(
	    bpf_csum_diff(0, 0, (void *)&frame + offsetof(struct too_big_ipv6, ip.saddr),
			  2 * sizeof(struct ipv6_addr) + icmp_bytes, be32(icmp_bytes + IPPROTO_ICMPV6)));
	if (bpf_skb_change_tail(skb, bytes, 0) || bpf_skb_store_bytes(skb, 0, &frame.ethernet, bytes, 0))
		return DROP_WRITE_ERROR;
	return STEP_ANSWERED;
}

static __always_inline int too_big_answer(struct __sk_buff *skb, __u32 mtu_bytes, __u8 family)
{
	return family == FAMILY_IPV4 ? too_big_answer_ipv4(skb, mtu_bytes) : too_big_answer_ipv6(skb, mtu_bytes);
}
