/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The hop limit: counted down wherever a packet is forwarded as a router does. */
#pragma once

#include "parse.h"

/* The limit must be above 1; 0 or a drop reason. */
static __always_inline int hop_count_down(struct __sk_buff *skb, __u8 hop_limit, __u8 family)
{
	struct iphdr *ip;
	__u32 check;

	hop_limit -= 1;
	if (family == FAMILY_IPV6) /* the header has no checksum of its own: that of the whole packet must follow */
		return bpf_skb_store_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, hop_limit), &hop_limit,
					   sizeof(hop_limit), BPF_F_RECOMPUTE_CSUM);
	ip = packet_bytes(skb, ETH_HLEN, sizeof(*ip));
	if (!ip)
		return DROP_WRITE_ERROR;
	check = ip->check + be16(0x0100); /* RFC 1141 */
	ip->check = check + (check >= 0xffff);
	ip->ttl = hop_limit;
	return 0;
}
