/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* ICMP of both families: what a type means to conntrack, and the packet that an error quotes. */
#pragma once

#include "flow.h"
#include "parse.h"

enum icmp_type4 {
	ICMP4_ECHO_REPLY = 0,
	ICMP4_UNREACHABLE = 3,
	ICMP4_ECHO_REQUEST = 8,
	ICMP4_TIME_EXCEEDED = 11,
	ICMP4_PARAMETER_PROBLEM = 12,
};

enum icmp_code4 {
	ICMP4_PORT_UNREACHABLE = 3, /* of ICMP4_UNREACHABLE, as is the next */
	ICMP4_FRAGMENTATION_NEEDED = 4,
};

enum icmp_code6 {
	ICMP6_PORT_UNREACHABLE = 4, /* of ICMP6_UNREACHABLE */
};

enum icmp_type6 {
	ICMP6_UNREACHABLE = 1,
	ICMP6_PACKET_TOO_BIG = 2,
	ICMP6_PARAMETER_PROBLEM = 4,
	ICMP6_ECHO_REQUEST = 128,
	ICMP6_ECHO_REPLY = 129,
	ICMP6_ROUTER_SOLICITATION = 133,
	ICMP6_ROUTER_ADVERTISEMENT = 134,
	ICMP6_NEIGHBOUR_SOLICITATION = 135,
	ICMP6_NEIGHBOUR_ADVERTISEMENT = 136,
	ICMP6_REDIRECT = 137,
};

enum icmp_bytes {
	ICMP_HEADER_BYTES = 8, /* the packet that an error quotes follows */
	ICMP_QUOTED_L4 = 8,    /* what is quoted at least behind its IP header (RFC 792) */
};

static __always_inline __u8 icmp_protocol(__u8 family)
{
	return family == FAMILY_IPV4 ? IPPROTO_ICMP : IPPROTO_ICMPV6;
}

static __always_inline bool icmp_is_error(__u8 family, __u8 type)
{
	if (family == FAMILY_IPV4)
		return type == ICMP4_UNREACHABLE || type == ICMP4_TIME_EXCEEDED || type == ICMP4_PARAMETER_PROBLEM;
	return type >= ICMP6_UNREACHABLE && type <= ICMP6_PARAMETER_PROBLEM;
}

static __always_inline __u8 icmp_echo_request(__u8 family)
{
	return family == FAMILY_IPV4 ? ICMP4_ECHO_REQUEST : ICMP6_ECHO_REQUEST;
}

static __always_inline __u8 icmp_echo_reply(__u8 family)
{
	return family == FAMILY_IPV4 ? ICMP4_ECHO_REPLY : ICMP6_ECHO_REPLY;
}

static __always_inline enum tracking icmp_tracking(__u8 family, __u8 type)
{
	if (type == icmp_echo_request(family))
		return TRACKING_REQUEST;
	if (type == icmp_echo_reply(family))
		return TRACKING_REPLY;
	return icmp_is_error(family, type) ? TRACKING_RELATED : TRACKING_NONE;
}

static __always_inline void icmp_ports(struct tuple *tuple, enum tracking tracking, __be16 identifier)
{
	tuple->source_port = tracking == TRACKING_REQUEST ? identifier : 0;
	tuple->destination_port = tracking == TRACKING_REPLY ? identifier : 0;
}

static __always_inline int icmp_quoted_ipv4(struct __sk_buff *skb, __u32 offset, struct tuple *quoted)
{
	struct iphdr ip;

	if (bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5)
		return -1;
	if (ip.frag_off & be16(IPV4_FRAGMENT_OFFSET))
		return -1;
	ipv4_mapped(&quoted->source, ip.saddr);
	ipv4_mapped(&quoted->destination, ip.daddr);
	quoted->protocol = ip.protocol;
	return offset + ip.ihl * 4;
}

/* Only a plain header or one fragment header is read: errors quote what hosts send, and those seldom send more. */
static __always_inline int icmp_quoted_ipv6(struct __sk_buff *skb, __u32 offset, struct tuple *quoted)
{
	struct ipv6_extension extension;
	struct ipv6hdr ip;

	if (bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)) || ip.version != 6)
		return -1;
	__builtin_memcpy(&quoted->source, &ip.saddr, sizeof(quoted->source));
	__builtin_memcpy(&quoted->destination, &ip.daddr, sizeof(quoted->destination));
	quoted->protocol = ip.nexthdr;
	offset += sizeof(ip);
	if (ip.nexthdr != IPPROTO_FRAGMENT)
		return offset;
	if (bpf_skb_load_bytes(skb, offset, &extension, sizeof(extension)) ||
	    extension.fragment_offset & be16(IPV6_FRAGMENT_OFFSET))
		return -1;
	quoted->protocol = extension.next_header;
	return offset + IPV6_EXTENSION_UNIT;
}

/* The tuple of the packet that the error at `l4_offset` quotes, and where that packet's transport header is; 0 if it
 * cannot be told.
 */
static __always_inline int icmp_quoted(struct __sk_buff *skb, __u32 l4_offset, __u8 family, struct tuple *quoted)
{
	__u32 offset = l4_offset + ICMP_HEADER_BYTES;
	struct {
		__be16 first;  /* source port; ICMP type and code */
		__be16 second; /* destination port */
		__be16 third;  /* ICMP identifier */
		__be16 fourth;
	} head;
	int inner_offset;

	inner_offset =
	    family == FAMILY_IPV4 ? icmp_quoted_ipv4(skb, offset, quoted) : icmp_quoted_ipv6(skb, offset, quoted);
	if (inner_offset < 0 || bpf_skb_load_bytes(skb, inner_offset, &head, ICMP_QUOTED_L4))
		return 0;
	if (quoted->protocol == icmp_protocol(family)) {
		icmp_ports(quoted, icmp_tracking(family, *(__u8 *)&head.first), head.third);
		return inner_offset;
	}
	if (quoted->protocol == IPPROTO_TCP || quoted->protocol == IPPROTO_UDP || quoted->protocol == IPPROTO_SCTP) {
		quoted->source_port = head.first;
		quoted->destination_port = head.second;
	} else {
		quoted->source_port = quoted->destination_port = 0;
	}
	return inner_offset;
}
