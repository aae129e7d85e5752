/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The packet becomes the ICMP error about itself (RFC 792, RFC 1191, RFC 4443), and goes back: too_big.h and refuse.h say
 * when.
 */
#pragma once

#include "answer.h"
#include "checksum.h"
#include "icmp.h"

/* How much of the packet is quoted. */
enum icmp_error_bytes {
	ICMP_ERROR_QUOTE_IPV4 = 68, /* the longest IPv4 header and 8 bytes */
	ICMP_ERROR_QUOTE_IPV6 = 88, /* the header, extensions and the ports of most */
	ICMP_ERROR_SHORT_IPV4 = 28, /* header and ports: a packet that may be as short as that has them */
	ICMP_ERROR_SHORT_IPV6 = 48,
};

struct icmp_error {
	__u8 type;
	__u8 code;
	__be16 checksum;
	__be32 mtu_bytes; /* of the error that says so; IPv4: the lower half */
};

struct icmp_error_ipv4 {
	__u16 pad; /* puts the IP header at a multiple of four */
	struct ethhdr ethernet;
	struct iphdr ip;
	struct icmp_error icmp;
	__u8 quote[ICMP_ERROR_QUOTE_IPV4];
} __attribute__((packed, aligned(4)));

struct icmp_error_ipv6 {
	__u16 pad;
	struct ethhdr ethernet;
	struct ipv6hdr ip;
	struct icmp_error icmp;
	__u8 quote[ICMP_ERROR_QUOTE_IPV6];
} __attribute__((packed, aligned(4)));

/* `code` of ICMP4_UNREACHABLE. STEP_ANSWERED, or the reason to drop the packet. Not static, so that it is verified once, as
 * event_send().
 */
__noinline int icmp_error_ipv4(struct __sk_buff *skb, __u32 code, __u32 mtu_bytes)
{
	struct icmp_error_ipv4 frame = {
	    .ethernet.h_proto = be16(ETH_P_IP),
	    .ip = {.version = 4, .ihl = 5, .ttl = ANSWER_HOP_LIMIT, .protocol = IPPROTO_ICMP},
	    .icmp = {.type = ICMP4_UNREACHABLE, .code = code, .mtu_bytes = be32(mtu_bytes)},
	};
	__u32 quote_bytes = code == ICMP4_FRAGMENTATION_NEEDED ? ICMP_ERROR_QUOTE_IPV4 : ICMP_ERROR_SHORT_IPV4;
	__u32 ip_bytes = sizeof(frame.ip) + sizeof(frame.icmp) + quote_bytes;

	if (answer_take(skb, &frame.ethernet, frame.quote, quote_bytes))
		return DROP_INVALID_PACKET;
	frame.ip.tot_len = be16(ip_bytes);
	__builtin_memcpy(&frame.ip.saddr, frame.quote + offsetof(struct iphdr, daddr), sizeof(frame.ip.saddr));
	__builtin_memcpy(&frame.ip.daddr, frame.quote + offsetof(struct iphdr, saddr), sizeof(frame.ip.daddr));
	frame.ip.check = checksum_folded(
	    bpf_csum_diff(0, 0, (void *)&frame + offsetof(struct icmp_error_ipv4, ip), sizeof(frame.ip), 0));
	frame.icmp.checksum = checksum_folded(bpf_csum_diff(
	    0, 0, (void *)&frame + offsetof(struct icmp_error_ipv4, icmp), sizeof(frame.icmp) + quote_bytes, 0));
	return answer_put(skb, &frame.ethernet, ETH_HLEN + ip_bytes);
}

/* The same, by its type. */
__noinline int icmp_error_ipv6(struct __sk_buff *skb, __u32 type, __u32 mtu_bytes)
{
	struct icmp_error_ipv6 frame = {
	    .ethernet.h_proto = be16(ETH_P_IPV6),
	    .ip = {.version = 6, .nexthdr = IPPROTO_ICMPV6, .hop_limit = ANSWER_HOP_LIMIT},
	    .icmp = {.type = type, .mtu_bytes = be32(mtu_bytes)},
	};
	__u32 quote_bytes = type == ICMP6_PACKET_TOO_BIG ? ICMP_ERROR_QUOTE_IPV6 : ICMP_ERROR_SHORT_IPV6;
	__u32 icmp_bytes = sizeof(frame.icmp) + quote_bytes;

	if (type == ICMP6_UNREACHABLE)
		frame.icmp.code = ICMP6_PORT_UNREACHABLE;
	if (answer_take(skb, &frame.ethernet, frame.quote, quote_bytes))
		return DROP_INVALID_PACKET;
	frame.ip.payload_len = be16(icmp_bytes);
	__builtin_memcpy(&frame.ip.saddr, frame.quote + offsetof(struct ipv6hdr, daddr), sizeof(frame.ip.saddr));
	__builtin_memcpy(&frame.ip.daddr, frame.quote + offsetof(struct ipv6hdr, saddr), sizeof(frame.ip.daddr));
	frame.icmp.checksum = checksum_folded(
	    bpf_csum_diff(0, 0, (void *)&frame + offsetof(struct icmp_error_ipv6, ip.saddr),
			  2 * sizeof(struct ipv6_addr) + icmp_bytes, be32(icmp_bytes + IPPROTO_ICMPV6)));
	return answer_put(skb, &frame.ethernet, ETH_HLEN + sizeof(frame.ip) + icmp_bytes);
}

/* What fits is told. */
static __always_inline int icmp_error_too_big(struct __sk_buff *skb, __u32 mtu_bytes, __u8 family)
{
	return family == FAMILY_IPV4 ? icmp_error_ipv4(skb, ICMP4_FRAGMENTATION_NEEDED, mtu_bytes)
				     : icmp_error_ipv6(skb, ICMP6_PACKET_TOO_BIG, mtu_bytes);
}

/* Nobody is there. */
static __always_inline int icmp_error_unreachable(struct __sk_buff *skb, __u8 family)
{
	return family == FAMILY_IPV4 ? icmp_error_ipv4(skb, ICMP4_PORT_UNREACHABLE, 0)
				     : icmp_error_ipv6(skb, ICMP6_UNREACHABLE, 0);
}
