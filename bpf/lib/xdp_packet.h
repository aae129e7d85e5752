/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Packets before the stack: read into this CPU's service_draft, and rewritten by hand, for XDP has none of the helpers
 * that others have.
 *
 * Only plain packets are read: IPv4 without options and IPv6 without extensions, whole, TCP or UDP. Of such, headers lie
 * at fixed places, and every checksum is in the packet.
 */
#pragma once

#include "checksum.h"
#include "service_path.h"

enum xdp_packet_limits {
	XDP_BASE_MAX = 127, /* where a packet in another may begin */
};

static __always_inline void *xdp_start(const struct xdp_md *xdp)
{
	void *start;

	__asm__ volatile("%0 = *(u32 *)(%1 + %2)" : "=r"(start) : "r"(xdp), "i"(offsetof(struct xdp_md, data)));
	return start;
}

static __always_inline void *xdp_end(const struct xdp_md *xdp)
{
	void *end;

	__asm__ volatile("%0 = *(u32 *)(%1 + %2)" : "=r"(end) : "r"(xdp), "i"(offsetof(struct xdp_md, data_end)));
	return end;
}

/* The difference of pointers in 64 bits, which is all that the verifier allows; clang would take the lower 32. */
static __always_inline __u32 xdp_frame_bytes(const struct xdp_md *xdp)
{
	__u64 bytes = xdp_end(xdp) - xdp_start(xdp);

	__asm__ volatile("" : "+r"(bytes));
	return bytes;
}

static __always_inline void *xdp_bytes(const struct xdp_md *xdp, __u32 offset, __u32 length)
{
	void *at = xdp_start(xdp) + offset;

	__asm__ volatile("" : "+r"(at)); /* what is compared must be what is given back, not a sum of its own */
	return at + length <= xdp_end(xdp) ? at : 0;
}

static __always_inline __u32 xdp_l4_offset(__u8 family)
{
	return ETH_HLEN + (family == FAMILY_IPV4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr));
}

static __always_inline bool xdp_read_ipv4(struct xdp_md *xdp, __u32 base, struct service_draft *draft)
{
	const struct iphdr *ip = xdp_bytes(xdp, base + ETH_HLEN, sizeof(*ip));
	__u32 real = xdp_frame_bytes(xdp) - base - ETH_HLEN;

	if (!ip || ip->version != 4 || ip->ihl != sizeof(*ip) / 4 ||
	    ip->frag_off & be16(IPV4_FRAGMENT_OFFSET | IPV4_MORE_FRAGMENTS) || be16(ip->tot_len) < sizeof(*ip) ||
	    be16(ip->tot_len) > real)
		return false;
	ipv4_mapped(&draft->packet.source, ip->saddr);
	ipv4_mapped(&draft->packet.destination, ip->daddr);
	draft->packet.protocol = ip->protocol;
	draft->hop_limit = ip->ttl;
	draft->family = FAMILY_IPV4;
	return true;
}

static __always_inline bool xdp_read_ipv6(struct xdp_md *xdp, __u32 base, struct service_draft *draft)
{
	const struct ipv6hdr *ip = xdp_bytes(xdp, base + ETH_HLEN, sizeof(*ip));
	__u32 real = xdp_frame_bytes(xdp) - base - ETH_HLEN;

	if (!ip || ip->version != 6 || be16(ip->payload_len) + sizeof(*ip) > real)
		return false;
	__builtin_memcpy(&draft->packet.source, &ip->saddr, sizeof(draft->packet.source));
	__builtin_memcpy(&draft->packet.destination, &ip->daddr, sizeof(draft->packet.destination));
	draft->packet.protocol = ip->nexthdr;
	draft->hop_limit = ip->hop_limit;
	draft->family = FAMILY_IPV6;
	return true;
}

static __always_inline bool xdp_read_l4(struct xdp_md *xdp, __u32 base, struct service_draft *draft)
{
	bool is_tcp = draft->packet.protocol == IPPROTO_TCP;
	const struct l4_header *l4;

	draft->l4_offset = xdp_l4_offset(draft->family);
	if (!is_tcp && draft->packet.protocol != IPPROTO_UDP)
		return false;
	l4 = draft->family == FAMILY_IPV4 ? xdp_bytes(xdp, base + xdp_l4_offset(FAMILY_IPV4), UDP_HEADER_BYTES)
					  : xdp_bytes(xdp, base + xdp_l4_offset(FAMILY_IPV6), UDP_HEADER_BYTES);
	if (!l4)
		return false;
	draft->packet.source_port = l4->source_port;
	draft->packet.destination_port = l4->destination_port;
	draft->tcp_flags = draft->tcp_words = 0;
	draft->tcp_sequence = draft->tcp_acknowledgment = 0;
	if (!is_tcp)
		return true;
	l4 = draft->family == FAMILY_IPV4 ? xdp_bytes(xdp, base + xdp_l4_offset(FAMILY_IPV4), TCP_HEADER_BYTES)
					  : xdp_bytes(xdp, base + xdp_l4_offset(FAMILY_IPV6), TCP_HEADER_BYTES);
	if (!l4)
		return false;
	draft->tcp_flags = l4->tcp_flags;
	draft->tcp_words = l4->tcp_data_offset >> 4;
	draft->tcp_sequence = l4->tcp_sequence;
	draft->tcp_acknowledgment = l4->tcp_acknowledgment;
	return true;
}

/* The packet whose frame begins at `base` goes into the draft; 0 if it is not plain. */
__noinline int xdp_read(struct xdp_md *xdp, __u32 base)
{
	struct service_draft *draft = service_draft_here();
	const struct ethhdr *ethernet;
	bool is_plain = false;

	base &= XDP_BASE_MAX;
	ethernet = xdp_bytes(xdp, base, ETH_HLEN);
	if (!draft || !ethernet)
		return 0;
	if (ethernet->h_proto == be16(ETH_P_IP))
		is_plain = family_is_on(FAMILY_IPV4) && xdp_read_ipv4(xdp, base, draft);
	else if (ethernet->h_proto == be16(ETH_P_IPV6))
		is_plain = family_is_on(FAMILY_IPV6) && xdp_read_ipv6(xdp, base, draft);
	if (!is_plain || !xdp_read_l4(xdp, base, draft))
		return 0;
	draft->now_s = clock_now_s();
	draft->bytes = xdp_frame_bytes(xdp) - base;
	draft->ifindex = xdp->ingress_ifindex;
	draft->where = SERVICE_FROM_NETWORK;
	draft->fragment = FRAGMENT_NONE;
	draft->tracking = TRACKING_CONNECTION;
	draft->icmp_type = draft->icmp_code = 0;
	return 1;
}

/* What matters of a packet to a checksum. */
struct xdp_ends4 {
	__be32 source;
	__be32 destination;
	__be16 source_port;
	__be16 destination_port;
};

struct xdp_ends6 {
	struct ipv6_addr source;
	struct ipv6_addr destination;
	__be16 source_port;
	__be16 destination_port;
};

/* Of UDP 0 means that there is none (RFC 768). */
static __always_inline void xdp_rewrite_l4(struct l4_header *l4, const struct service_draft *draft, bool is_tcp,
					   __u32 difference)
{
	__be16 *check = (void *)l4 + (is_tcp ? NAT_CSUM_TCP : NAT_CSUM_UDP);
	__be16 sum;

	l4->source_port = draft->to.source_port;
	l4->destination_port = draft->to.destination_port;
	if (!is_tcp && !*check)
		return;
	sum = checksum_folded(bpf_csum_diff(0, 0, &difference, sizeof(difference), (__u16) ~*check));
	*check = !is_tcp && !sum ? 0xffff : sum;
}

static __always_inline int xdp_rewrite4(struct xdp_md *xdp, const struct service_draft *draft, __u8 hops)
{
	struct xdp_ends4 from = {draft->packet.source.words[3], draft->packet.destination.words[3],
				 draft->packet.source_port, draft->packet.destination_port};
	struct xdp_ends4 to = {draft->to.source.words[3], draft->to.destination.words[3], draft->to.source_port,
			       draft->to.destination_port};
	const __u32 addresses = offsetof(struct xdp_ends4, source_port);
	const bool is_tcp = draft->packet.protocol == IPPROTO_TCP; /* looked at once, which the verifier needs */
	struct iphdr *ip = xdp_bytes(xdp, ETH_HLEN, sizeof(*ip));
	struct l4_header *l4;
	__be16 life[2];

	if (!ip)
		return DROP_WRITE_ERROR;
	life[0] = ((__be16 *)ip)[offsetof(struct iphdr, ttl) / 2];
	ip->ttl -= hops;
	ip->saddr = to.source;
	ip->daddr = to.destination;
	life[1] = ((__be16 *)ip)[offsetof(struct iphdr, ttl) / 2];
	ip->check = checksum_folded(bpf_csum_diff((void *)&from, addresses, (void *)&to, addresses,
						  (__u32)(__u16)~ip->check + (__u16)~life[0] + life[1]));
	l4 = is_tcp ? xdp_bytes(xdp, xdp_l4_offset(FAMILY_IPV4), TCP_HEADER_BYTES)
		    : xdp_bytes(xdp, xdp_l4_offset(FAMILY_IPV4), UDP_HEADER_BYTES);
	if (!l4)
		return DROP_WRITE_ERROR;
	xdp_rewrite_l4(l4, draft, is_tcp, bpf_csum_diff((void *)&from, sizeof(from), (void *)&to, sizeof(to), 0));
	return STEP_DONE;
}

static __always_inline int xdp_rewrite6(struct xdp_md *xdp, const struct service_draft *draft, __u8 hops)
{
	struct xdp_ends6 from = {draft->packet.source, draft->packet.destination, draft->packet.source_port,
				 draft->packet.destination_port};
	struct xdp_ends6 to = {draft->to.source, draft->to.destination, draft->to.source_port,
			       draft->to.destination_port};
	const bool is_tcp = draft->packet.protocol == IPPROTO_TCP; /* looked at once, which the verifier needs */
	struct ipv6hdr *ip = xdp_bytes(xdp, ETH_HLEN, sizeof(*ip));
	struct l4_header *l4;

	if (!ip)
		return DROP_WRITE_ERROR;
	ip->hop_limit -= hops;
	__builtin_memcpy(&ip->saddr, &to.source, sizeof(ip->saddr));
	__builtin_memcpy(&ip->daddr, &to.destination, sizeof(ip->daddr));
	l4 = is_tcp ? xdp_bytes(xdp, xdp_l4_offset(FAMILY_IPV6), TCP_HEADER_BYTES)
		    : xdp_bytes(xdp, xdp_l4_offset(FAMILY_IPV6), UDP_HEADER_BYTES);
	if (!l4)
		return DROP_WRITE_ERROR;
	xdp_rewrite_l4(l4, draft, is_tcp, bpf_csum_diff((void *)&from, sizeof(from), (void *)&to, sizeof(to), 0));
	return STEP_DONE;
}

/* The packet at the frame's start becomes what the draft says, and its hop limit less; 0 or a drop reason. */
__noinline int xdp_rewrite(struct xdp_md *xdp, __u32 hops)
{
	const struct service_draft *draft = service_draft_here();

	if (!draft)
		return DROP_WRITE_ERROR;
	return draft->family == FAMILY_IPV4 ? xdp_rewrite4(xdp, draft, hops) : xdp_rewrite6(xdp, draft, hops);
}
