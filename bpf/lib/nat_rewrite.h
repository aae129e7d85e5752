/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* One end of a packet gets another address and port, in its headers, in every checksum that covers them and in its flow.
 *
 * The helpers know of checksums that the device is still to fill in, and of those that it has already verified: for the
 * latter the sum over the whole packet is kept true. IPv6 has no header checksum to make up for another address, so that
 * one is written with BPF_F_RECOMPUTE_CSUM. A later fragment has no ports and no checksum, only addresses.
 */
#pragma once

#include "flow.h"
#include "icmp.h"
#include "l4.h"
#include "nat.h"
#include "parse.h"
#include "sctp.h"

enum nat_offsets {
	NAT_CSUM_TCP = 16,
	NAT_CSUM_UDP = 6,
	NAT_CSUM_ICMP = 2,
	NAT_ICMP_IDENTIFIER = 4,
};

/* Which of the two ends. */
enum nat_end {
	NAT_SOURCE,
	NAT_DESTINATION,
};

/* Within the IP header. */
static __always_inline __u32 nat_address_offset(__u8 family, enum nat_end end)
{
	if (family == FAMILY_IPV4)
		return end == NAT_SOURCE ? offsetof(struct iphdr, saddr) : offsetof(struct iphdr, daddr);
	return end == NAT_SOURCE ? offsetof(struct ipv6hdr, saddr) : offsetof(struct ipv6hdr, daddr);
}

/* Within the transport header. */
static __always_inline __u32 nat_port_offset(__u8 protocol, enum nat_end end)
{
	if (!nat_has_ports(protocol))
		return NAT_ICMP_IDENTIFIER;
	return end == NAT_SOURCE ? 0 : sizeof(__be16);
}

/* Of the transport header's checksum; 0: it has none that covers addresses or ports by plain sums. */
static __always_inline __u32 nat_checksum_offset(__u8 protocol, __u8 family)
{
	if (protocol == IPPROTO_TCP)
		return NAT_CSUM_TCP;
	if (protocol == IPPROTO_UDP)
		return NAT_CSUM_UDP;
	return protocol == icmp_protocol(family) ? NAT_CSUM_ICMP : 0;
}

/* What matters of a packet here. */
struct nat_packet {
	__u16 l4_offset;
	__u8 protocol;
	__u8 family;
	__u8 fragment;
};

static __always_inline long nat_rewrite_transport(struct __sk_buff *skb, struct nat_packet packet, enum nat_end end,
						  const struct ipv6_addr *old, __be16 old_port,
						  const struct ipv6_addr *address, __be16 port)
{
	__u32 checksum = nat_checksum_offset(packet.protocol, packet.family);
	__u64 mangled = packet.protocol == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;
	long failed = 0;

	if (checksum) {
		checksum += packet.l4_offset;
		if (packet.family == FAMILY_IPV6)
			failed = bpf_l4_csum_replace(
			    skb, checksum, 0,
			    bpf_csum_diff(old->words, sizeof(*old), address->words, sizeof(*address), 0),
			    BPF_F_PSEUDO_HDR | mangled);
		else if (packet.protocol != IPPROTO_ICMP)
			failed = bpf_l4_csum_replace(skb, checksum, old->words[3], address->words[3],
						     BPF_F_PSEUDO_HDR | mangled | sizeof(__be32));
		if (port != old_port)
			failed |= bpf_l4_csum_replace(skb, checksum, old_port, port, mangled | sizeof(port));
	}
	if (port == old_port)
		return failed;
	if (unlikely(packet.protocol == IPPROTO_SCTP))
		return sctp_rewrite_port(
		    skb, packet.l4_offset,
		    (end == NAT_SOURCE ? SCTP_SOURCE : 0) | (packet.fragment ? SCTP_FIRST_FRAGMENT : 0), port);
	return failed | bpf_skb_store_bytes(skb, packet.l4_offset + nat_port_offset(packet.protocol, end), &port,
					    sizeof(port), 0);
}

/* Of the IP header at `offset`. */
static __always_inline long nat_rewrite_address4(struct __sk_buff *skb, __u32 offset, enum nat_end end, __be32 old,
						 __be32 address)
{
	long failed = bpf_l3_csum_replace(skb, offset + offsetof(struct iphdr, check), old, address, sizeof(address));

	return failed |
	       bpf_skb_store_bytes(skb, offset + nat_address_offset(FAMILY_IPV4, end), &address, sizeof(address), 0);
}

/* `old` and `address` must lie where helpers can read them; 0 or a drop reason. */
static __always_inline int nat_rewrite_end(struct __sk_buff *skb, struct nat_packet packet, enum nat_end end,
					   const struct ipv6_addr *old, __be16 old_port,
					   const struct ipv6_addr *address, __be16 port)
{
	long failed = 0;

	if (packet.fragment != FRAGMENT_LATER)
		failed = nat_rewrite_transport(skb, packet, end, old, old_port, address, port);
	if (packet.family == FAMILY_IPV4)
		failed |= nat_rewrite_address4(skb, ETH_HLEN, end, old->words[3], address->words[3]);
	else
		failed |= bpf_skb_store_bytes(skb, ETH_HLEN + nat_address_offset(FAMILY_IPV6, end), address,
					      sizeof(*address), BPF_F_RECOMPUTE_CSUM);
	return failed ? DROP_WRITE_ERROR : STEP_DONE;
}

/* The same of the packet in hand, whose flow follows. */
static __always_inline int nat_rewrite(struct __sk_buff *skb, struct flow *flow, enum nat_end end,
				       const struct ipv6_addr *to, __be16 port)
{
	struct ipv6_addr *old = end == NAT_SOURCE ? &flow->tuple.source : &flow->tuple.destination;
	__be16 *old_port = end == NAT_SOURCE ? &flow->tuple.source_port : &flow->tuple.destination_port;
	struct nat_packet packet = {flow->l4_offset, flow->tuple.protocol, flow->family, flow->fragment};
	struct ipv6_addr address = *to;
	int reason = nat_rewrite_end(skb, packet, end, old, *old_port, &address, port);

	if (reason)
		return reason;
	*old = address;
	*old_port = port;
	flow->translated = true;
	return STEP_DONE;
}

/* In the packet that the ICMP error `packet` quotes, with that protocol and its transport header at `l4_offset`. The
 * error's checksum follows; of the quoted packet only the IP header's own does, for the rest of it is seldom all there,
 * and nobody looks.
 */
static __always_inline int nat_rewrite_quoted_end(struct __sk_buff *skb, struct nat_packet packet, __u8 protocol,
						  __u32 l4_offset, enum nat_end end, const struct ipv6_addr *old,
						  __be16 old_port, const struct ipv6_addr *address, __be16 port)
{
	__u32 checksum = packet.l4_offset + NAT_CSUM_ICMP, ip = packet.l4_offset + ICMP_HEADER_BYTES;
	long failed;

	if (packet.family == FAMILY_IPV4) {
		failed = nat_rewrite_address4(skb, ip, end, old->words[3], address->words[3]);
	} else {
		failed = bpf_l4_csum_replace(
		    skb, checksum, 0, bpf_csum_diff(old->words, sizeof(*old), address->words, sizeof(*address), 0), 0);
		failed |=
		    bpf_skb_store_bytes(skb, ip + nat_address_offset(FAMILY_IPV6, end), address, sizeof(*address), 0);
	}
	if (port != old_port) {
		failed |= bpf_l4_csum_replace(skb, checksum, old_port, port, sizeof(port));
		failed |= bpf_skb_store_bytes(skb, l4_offset + nat_port_offset(protocol, end), &port, sizeof(port), 0);
	}
	return failed ? DROP_WRITE_ERROR : STEP_DONE;
}

static __always_inline int nat_rewrite_quoted(struct __sk_buff *skb, const struct flow *flow, enum nat_end end,
					      const struct tuple *quoted, __u32 l4_offset,
					      const struct nat_entry *entry)
{
	const struct ipv6_addr *old = end == NAT_SOURCE ? &quoted->source : &quoted->destination;
	__be16 old_port = end == NAT_SOURCE ? quoted->source_port : quoted->destination_port;
	struct nat_packet packet = {flow->l4_offset, flow->tuple.protocol, flow->family, flow->fragment};
	struct ipv6_addr address = entry->address;

	return nat_rewrite_quoted_end(skb, packet, quoted->protocol, l4_offset, end, old, old_port, &address,
				      entry->port);
}
