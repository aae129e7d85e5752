/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Ethernet and IP headers.
 *
 * packet_bytes() gives a pointer that is good until the next helper that may move the packet; 0 means that the packet
 * is shorter. Parsers fill struct flow and return 0 or a drop reason. They check what they read, no more:
 * checksums are the receiver's business.
 */
#pragma once

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>

#include "flow.h"

/* Where the IP header is: behind Ethernet's, but for programs on cgroups, which see no more than it. Those cannot ask for
 * more of a packet than lies in one piece, which headers do once the stack has read them.
 */
#ifndef PACKET_IP_OFFSET
#define PACKET_IP_OFFSET         ETH_HLEN
#define packet_pull(skb, length) bpf_skb_pull_data(skb, length)
#endif

enum parse_limits {
	IPV6_MAX_EXTENSIONS = 6,
	IPV6_EXTENSION_UNIT = 8, /* their length counts these, bytes */
	IPV4_FRAGMENT_OFFSET = 0x1fff,
	IPV4_MORE_FRAGMENTS = 0x2000,
	IPV4_DONT_FRAGMENT = 0x4000,
	IPV6_FRAGMENT_OFFSET = 0xfff8,
	IPV6_MORE_FRAGMENTS = 0x0001,
	IP_LENGTH_MAX = 65535,
};

/* Fields that several headers of IPv6 begin with. */
struct ipv6_extension {
	__u8 next_header;
	__u8 length;
	__be16 fragment_offset; /* of the fragment header, as is the next */
	__be32 identification;
};

/* Loads of packet pointers, spelled out: clang takes the fields for the 32-bit numbers that they look like and moves
 * them as such, which the verifier refuses (seen with clang 20, Linux 6.18).
 */
static __always_inline void *packet_start(const struct __sk_buff *skb)
{
	void *start;

	__asm__ volatile("%0 = *(u32 *)(%1 + %2)" : "=r"(start) : "r"(skb), "i"(offsetof(struct __sk_buff, data)));
	return start;
}

static __always_inline void *packet_end(const struct __sk_buff *skb)
{
	void *end;

	__asm__ volatile("%0 = *(u32 *)(%1 + %2)" : "=r"(end) : "r"(skb), "i"(offsetof(struct __sk_buff, data_end)));
	return end;
}

static __always_inline void *packet_bytes(struct __sk_buff *skb, __u32 offset, __u32 length)
{
	void *start = packet_start(skb);

	if (likely(start + offset + length <= packet_end(skb)))
		return start + offset;
	if (packet_pull(skb, offset + length))
		return 0;
	start = packet_start(skb);
	return start + offset + length <= packet_end(skb) ? start + offset : 0;
}

static __always_inline void ipv4_mapped(struct ipv6_addr *to, __be32 address)
{
	to->words[0] = 0;
	to->words[1] = 0;
	to->words[2] = be32(0xffff);
	to->words[3] = address;
}

/* Of a packet of more than 64 KiB, which the kernel will segment later, IPv4 says 0 (BIG TCP). */
static __always_inline bool ipv4_length_is_true(__u32 stated, __u32 header_bytes, __u32 real)
{
	return likely(stated >= header_bytes && stated <= real) || (!stated && real > IP_LENGTH_MAX);
}

static __always_inline int parse_ipv4(struct __sk_buff *skb, struct flow *flow)
{
	const struct iphdr *ip = packet_bytes(skb, PACKET_IP_OFFSET, sizeof(*ip));
	__u32 header_bytes, fragment;

	if (!ip)
		return DROP_INVALID_PACKET;
	header_bytes = ip->ihl * 4;
	if (ip->version != 4 || header_bytes < sizeof(*ip) ||
	    !ipv4_length_is_true(be16(ip->tot_len), header_bytes, flow->bytes - PACKET_IP_OFFSET))
		return DROP_INVALID_PACKET;

	ipv4_mapped(&flow->tuple.source, ip->saddr);
	ipv4_mapped(&flow->tuple.destination, ip->daddr);
	flow->tuple.protocol = ip->protocol;
	flow->hop_limit = ip->ttl;
	flow->l4_offset = PACKET_IP_OFFSET + header_bytes;

	fragment = be16(ip->frag_off) & (IPV4_FRAGMENT_OFFSET | IPV4_MORE_FRAGMENTS);
	if (unlikely(fragment)) {
		flow->fragment = fragment & IPV4_FRAGMENT_OFFSET ? FRAGMENT_LATER : FRAGMENT_FIRST;
		flow->identification = ip->id;
	}
	return 0;
}

static __always_inline bool ipv6_is_extension(__u8 protocol)
{
	return protocol == IPPROTO_HOPOPTS || protocol == IPPROTO_ROUTING || protocol == IPPROTO_FRAGMENT ||
	       protocol == IPPROTO_DSTOPTS || protocol == IPPROTO_AH;
}

static __always_inline __u32 ipv6_extension_bytes(__u8 protocol, const struct ipv6_extension *header)
{
	if (protocol == IPPROTO_FRAGMENT)
		return IPV6_EXTENSION_UNIT;
	if (protocol == IPPROTO_AH)
		return (header->length + 2) * 4;
	return (header->length + 1) * IPV6_EXTENSION_UNIT;
}

static __always_inline void ipv6_note_fragment(struct flow *flow, const struct ipv6_extension *header)
{
	__u16 fragment = be16(header->fragment_offset);

	flow->identification = header->identification;
	if (fragment & IPV6_FRAGMENT_OFFSET)
		flow->fragment = FRAGMENT_LATER;
	else if (fragment & IPV6_MORE_FRAGMENTS)
		flow->fragment = FRAGMENT_FIRST;
}

/* Walks to the payload's header; behind the fragment header of a later fragment there is none to walk to. */
__noinline int parse_ipv6_extensions(struct __sk_buff *skb)
{
	struct flow *flow = flow_here();
	struct ipv6_extension header;
	__u32 offset;
	__u8 protocol;

	if (!flow)
		return DROP_INVALID_PACKET;
	protocol = flow->tuple.protocol;
	offset = flow->l4_offset;
	for (int i = 0; i < IPV6_MAX_EXTENSIONS; i++) {
		if (!ipv6_is_extension(protocol) || flow->fragment == FRAGMENT_LATER)
			break;
		if (bpf_skb_load_bytes(skb, offset, &header, sizeof(header)))
			return DROP_INVALID_IPV6_EXTENSION;
		if (protocol == IPPROTO_FRAGMENT)
			ipv6_note_fragment(flow, &header);
		offset += ipv6_extension_bytes(protocol, &header);
		protocol = header.next_header;
	}
	if (ipv6_is_extension(protocol) && flow->fragment != FRAGMENT_LATER)
		return DROP_INVALID_IPV6_EXTENSION;
	flow->tuple.protocol = protocol;
	flow->l4_offset = offset;
	return 0;
}

static __always_inline int parse_ipv6(struct __sk_buff *skb, struct flow *flow)
{
	const struct ipv6hdr *ip = packet_bytes(skb, PACKET_IP_OFFSET, sizeof(*ip));

	if (!ip || ip->version != 6 || be16(ip->payload_len) > flow->bytes - PACKET_IP_OFFSET - sizeof(*ip))
		return DROP_INVALID_PACKET;

	__builtin_memcpy(&flow->tuple.source, &ip->saddr, sizeof(flow->tuple.source));
	__builtin_memcpy(&flow->tuple.destination, &ip->daddr, sizeof(flow->tuple.destination));
	flow->tuple.protocol = ip->nexthdr;
	flow->hop_limit = ip->hop_limit;
	flow->l4_offset = PACKET_IP_OFFSET + sizeof(*ip);
	return unlikely(ipv6_is_extension(ip->nexthdr)) ? parse_ipv6_extensions(skb) : 0;
}

static __always_inline int parse_ip(struct __sk_buff *skb, struct flow *flow, __u8 family)
{
	flow->family = family;
	return family == FAMILY_IPV4 ? parse_ipv4(skb, flow) : parse_ipv6(skb, flow);
}

static __always_inline bool address_is_multicast(const struct ipv6_addr *address, __u8 family)
{
	__be32 word = address->words[3];

	if (family == FAMILY_IPV6)
		return *(const __u8 *)address == 0xff;
	return (word & be32(0xf0000000)) == be32(0xe0000000) || word == 0xffffffff;
}

static __always_inline bool address_equal(const struct ipv6_addr *a, const struct ipv6_addr *b)
{
	return a->words[0] == b->words[0] && a->words[1] == b->words[1] && a->words[2] == b->words[2] &&
	       a->words[3] == b->words[3];
}

static __always_inline bool address_is_mapped(const struct ipv6_addr *address)
{
	return !(address->words[0] | address->words[1]) && address->words[2] == be32(0xffff);
}

static __always_inline bool address_is_any(const struct ipv6_addr *address)
{
	return !(address->words[0] | address->words[1] | address->words[2] | address->words[3]);
}

static __always_inline bool address_is_link_local(const struct ipv6_addr *address)
{
	return (address->words[0] & be32(0xffc00000)) == be32(0xfe800000);
}

/* Loopback and unspecified: addresses that no packet on a wire is for. */
static __always_inline bool address_is_unroutable(const struct ipv6_addr *address, __u8 family)
{
	const __be32 *words = address->words;

	if (family == FAMILY_IPV4)
		return (words[3] & be32(0xff000000)) == be32(127u << 24) || !(words[3] & be32(0xff000000));
	return !(words[0] | words[1] | words[2]) && (words[3] & be32(0xfffffffe)) == 0;
}
