/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The overlay's outer packet, as the stack does not write it before there is a stack: VXLAN over IPv4 or IPv6. */
#pragma once

#include "../maps/xdp.h"
#include "checksum.h"
#include "forward.h"
#include "xdp_packet.h"

CONFIG(__u32, config_tunnel_port);

enum vxlan_values {
	VXLAN_HAS_VNI = 0x08,
	VXLAN_FIRST_PORT = 49152, /* outer source ports: of the range that is nobody's (RFC 6335), by flow */
	VXLAN_PORTS = 16384,
	ECN_BITS = 3,
	ECN_CE = 3,
	ECN_ECT0 = 2,
};

struct vxlan_header {
	__u8 flags;
	__u8 reserved[3];
	__be32 vni; /* upper 24 bits */
} __attribute__((packed));

struct udp_header {
	__be16 source;
	__be16 destination;
	__be16 bytes;
	__be16 check;
} __attribute__((packed));

struct vxlan_ipv4 {
	struct ethhdr ethernet;
	struct iphdr ip;
	struct udp_header udp;
	struct vxlan_header vxlan;
} __attribute__((packed));

struct vxlan_ipv6 {
	struct ethhdr ethernet;
	struct ipv6hdr ip;
	struct udp_header udp;
	struct vxlan_header vxlan;
} __attribute__((packed));

static __always_inline struct xdp_draft *xdp_draft_here(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&xdp_draft, &zero);
}

static __always_inline void xdp_write_udp(struct udp_header *udp, struct vxlan_header *vxlan,
					  const struct xdp_draft *way, const struct service_draft *draft, __u32 bytes)
{
	struct ipv6_addr client = draft->packet.source;

	udp->source = be16(VXLAN_FIRST_PORT +
			   service_hash(&client, draft->packet.source_port, draft->packet.protocol) % VXLAN_PORTS);
	udp->destination = be16(config_tunnel_port);
	udp->bytes = be16(bytes);
	udp->check = 0; /* as forward_by_overlay() */
	vxlan->flags = VXLAN_HAS_VNI;
	vxlan->vni = be32(way->vni << 8);
}

/* What routers on the way say by ECN must reach the inner packet (RFC 6040). */
static __always_inline __u8 xdp_outer_ecn(__u8 traffic_class)
{
	__u8 ecn = traffic_class & ECN_BITS;

	return ecn == ECN_CE ? ECN_ECT0 : ecn;
}

static __always_inline __u8 xdp_traffic_class(const struct xdp_md *xdp, __u8 family)
{
	const __u8 *ip = xdp_bytes(xdp, ETH_HLEN, 2);

	if (!ip)
		return 0;
	return family == FAMILY_IPV4 ? ip[1] : ip[0] << 4 | ip[1] >> 4;
}

/* In front of the frame; where that begins now, or 0. */
static __always_inline void *xdp_prepend(struct xdp_md *xdp, const void *head, int bytes)
{
	void *start;

	if (bpf_xdp_adjust_head(xdp, -bytes))
		return 0;
	start = xdp_bytes(xdp, 0, bytes);
	if (start)
		__builtin_memcpy(start, head, bytes);
	return start;
}

static __always_inline int xdp_wrap4(struct xdp_md *xdp, const struct service_draft *draft, const struct xdp_draft *way,
				     __u8 ecn)
{
	__u32 bytes = xdp_frame_bytes(xdp);
	struct vxlan_ipv4 *outer;
	struct vxlan_ipv4 head = {
	    .ethernet.h_proto = be16(ETH_P_IP),
	    .ip = {.version = 4,
		   .ihl = 5,
		   .tos = ecn,
		   .frag_off = be16(IPV4_DONT_FRAGMENT),
		   .ttl = TUNNEL_TTL,
		   .protocol = IPPROTO_UDP},
	};

	head.ip.tot_len = be16(bytes + sizeof(head) - ETH_HLEN);
	head.ip.saddr = way->outer_source.words[3];
	head.ip.daddr = way->outer_destination.words[3];
	xdp_write_udp(&head.udp, &head.vxlan, way, draft, bytes + sizeof(head.udp) + sizeof(head.vxlan));
	outer = xdp_prepend(xdp, &head, sizeof(head));
	if (!outer)
		return DROP_WRITE_ERROR;
	outer->ip.check = checksum_folded(bpf_csum_diff(0, 0, (void *)&outer->ip, sizeof(outer->ip), 0));
	return STEP_DONE;
}

static __always_inline int xdp_wrap6(struct xdp_md *xdp, const struct service_draft *draft, const struct xdp_draft *way,
				     __u8 ecn)
{
	__u32 bytes = xdp_frame_bytes(xdp);
	struct vxlan_ipv6 head = {
	    .ethernet.h_proto = be16(ETH_P_IPV6),
	    .ip = {.version = 6, .flow_lbl = {ecn << 4}, .nexthdr = IPPROTO_UDP, .hop_limit = TUNNEL_TTL},
	};

	head.ip.payload_len = be16(bytes + sizeof(head.udp) + sizeof(head.vxlan));
	__builtin_memcpy(&head.ip.saddr, &way->outer_source, sizeof(head.ip.saddr));
	__builtin_memcpy(&head.ip.daddr, &way->outer_destination, sizeof(head.ip.daddr));
	xdp_write_udp(&head.udp, &head.vxlan, way, draft, bytes + sizeof(head.udp) + sizeof(head.vxlan));
	return xdp_prepend(xdp, &head, sizeof(head)) ? STEP_DONE : DROP_WRITE_ERROR;
}

/* Puts the frame into the overlay's packet; 0 or a drop reason. */
__noinline int xdp_wrap(struct xdp_md *xdp)
{
	const struct service_draft *draft = service_draft_here();
	const struct xdp_draft *way = xdp_draft_here();
	__u8 ecn;

	if (!draft || !way)
		return DROP_WRITE_ERROR;
	ecn = xdp_outer_ecn(xdp_traffic_class(xdp, draft->family));
	return way->outer_family == FAMILY_IPV4 ? xdp_wrap4(xdp, draft, way, ecn) : xdp_wrap6(xdp, draft, way, ecn);
}
