/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Is a packet larger than the way to another node takes? Its sender is told by ICMP (icmp_error.h). */
#pragma once

#include "ethernet.h"
#include "l4.h"
#include "parse.h"

enum gso_values {
	GSO_BY_FRAGS = 0xffff, /* gso_size: SCTP's segments are what its sender has made, each of a size of its own */
};

/* IP header and payload of the largest packet that the wire will see: of a segment, if the kernel segments it later. Of SCTP
 * nobody tells, and its sender has cut it for the way that it knows: else none of them would pass ever.
 */
static __always_inline __u32 packet_largest(struct __sk_buff *skb, __u32 l4_offset, __u8 protocol)
{
	__u32 header_bytes = l4_offset - ETH_HLEN;
	__u8 data_offset = 0;

	if (!skb->gso_size)
		return skb->len - ETH_HLEN;
	if (skb->gso_size == GSO_BY_FRAGS)
		return 0;
	if (protocol != IPPROTO_TCP)
		return header_bytes + UDP_HEADER_BYTES + skb->gso_size;
	bpf_skb_load_bytes(skb, l4_offset + offsetof(struct l4_header, tcp_data_offset), &data_offset, 1);
	return header_bytes + (data_offset >> 4) * 4 + skb->gso_size;
}

static __always_inline bool packet_is_too_big(struct __sk_buff *skb, __u32 l4_offset, __u8 protocol, __u32 mtu_bytes)
{
	return unlikely(skb->len - ETH_HLEN > mtu_bytes) && packet_largest(skb, l4_offset, protocol) > mtu_bytes;
}
