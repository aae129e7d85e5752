/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The ways that lead on from before the stack: to another node, by its link or in the overlay's VXLAN (xdp_vxlan.h), and
 * back to a client outside.
 *
 *   way = xdp_way_forth(xdp) or xdp_way_back(xdp)      asks the node's routes and neighbours; nothing is changed
 *   xdp_send(xdp)                                      writes the frame's addresses, and sends it
 *
 * Where the stack has to be asked for more, as for a neighbour that is not known yet, there is no way.
 */
#pragma once

#include "xdp_vxlan.h"

/* IP header and payload. */
static __always_inline __u32 xdp_packet_bytes(const struct xdp_md *xdp)
{
	return xdp_frame_bytes(xdp) - ETH_HLEN;
}

static __always_inline void xdp_set_destination(struct bpf_fib_lookup *route, const struct ipv6_addr *address,
						__u8 family)
{
	if (family == FAMILY_IPV4) {
		route->family = ADDRESS_FAMILY_IPV4;
		route->ipv4_dst = address->words[3];
	} else {
		route->family = ADDRESS_FAMILY_IPV6;
		__builtin_memcpy(route->ipv6_dst, address, sizeof(*address));
	}
}

static __always_inline void xdp_set_source(struct bpf_fib_lookup *route, const struct ipv6_addr *address, __u8 family)
{
	if (family == FAMILY_IPV4)
		route->ipv4_src = address->words[3];
	else
		__builtin_memcpy(route->ipv6_src, address, sizeof(*address));
}

/* Is the frame for this device? One by which it also leaves says so by its MAC; of another is asked how it would answer
 * the packet's sender, who is behind it.
 */
static __always_inline bool xdp_is_for_us(struct xdp_md *xdp, const struct bpf_fib_lookup *out,
					  const struct ipv6_addr *sender, __u8 family)
{
	struct bpf_fib_lookup route = {.ifindex = xdp->ingress_ifindex};
	const struct ethhdr *ethernet = xdp_bytes(xdp, 0, ETH_HLEN);

	if (!ethernet)
		return false;
	if (out->ifindex == xdp->ingress_ifindex)
		return mac_equal(ethernet->h_dest, out->smac);
	xdp_set_destination(&route, sender, family);
	if (bpf_fib_lookup(xdp, &route, sizeof(route), 0) != BPF_FIB_LKUP_RET_SUCCESS ||
	    route.ifindex != xdp->ingress_ifindex)
		return false;
	ethernet = xdp_bytes(xdp, 0, ETH_HLEN);
	return ethernet && mac_equal(ethernet->h_dest, route.smac);
}

static __always_inline bool xdp_ask(struct xdp_md *xdp, struct xdp_draft *way, struct bpf_fib_lookup *route,
				    const struct ipv6_addr *sender, __u8 family)
{
	route->ifindex = xdp->ingress_ifindex;
	if (bpf_fib_lookup(xdp, route, sizeof(*route), 0) != BPF_FIB_LKUP_RET_SUCCESS ||
	    !xdp_is_for_us(xdp, route, sender, family))
		return false;
	way->ifindex = route->ifindex;
	__builtin_memcpy(&way->source, route->smac, ETH_ALEN);
	__builtin_memcpy(&way->destination, route->dmac, ETH_ALEN);
	return true;
}

/* The overlay's outer packet. The node answers for any address of its own. */
static __always_inline bool xdp_set_outer(struct xdp_draft *way, const struct node_entry *node)
{
	__u32 ifindex = way->ifindex;
	const struct masquerade_entry *entry = bpf_map_lookup_elem(&masquerade, &ifindex);

	if (!entry)
		return false;
	way->outer_source = node->family == FAMILY_IPV4 ? entry->ipv4 : entry->ipv6;
	way->outer_destination = node->address;
	way->outer_family = node->family;
	return !address_is_any(&way->outer_source);
}

static __always_inline bool xdp_way_to_node(struct xdp_md *xdp, const struct service_draft *draft,
					    struct xdp_draft *way, const struct node_entry *node)
{
	struct bpf_fib_lookup route = {};
	struct ipv6_addr sender = draft->packet.source;
	__u32 world = draft->family == FAMILY_IPV4 ? IDENTITY_WORLD_IPV4 : IDENTITY_WORLD_IPV6;

	way->outer_family = FAMILY_NONE;
	way->point = forward_way(node, draft->family);
	if (way->point == TRACE_TO_OVERLAY) {
		if (!config_overlay_ifindex)
			return false;
		way->hops = 0;
		way->vni = tunnel_identity(draft->client_identity, world);
		xdp_set_destination(&route, &node->address, node->family);
		return xdp_ask(xdp, way, &route, &sender, draft->family) && xdp_set_outer(way, node);
	}
	way->hops = 1;
	xdp_set_source(&route, &draft->to.source, draft->family);
	if (way->point == TRACE_TO_STACK) {
		xdp_set_destination(&route, &draft->to.destination, draft->family);
		return xdp_ask(xdp, way, &route, &sender, draft->family);
	}
	if (node->family != draft->family)
		return false;
	xdp_set_destination(&route, &node->address, draft->family);
	return xdp_ask(xdp, way, &route, &sender, draft->family) && way->ifindex == node->ifindex;
}

/* To the backend's node, if the packet fits; 0: there is no way. */
__noinline int xdp_way_forth(struct xdp_md *xdp)
{
	struct service_draft *draft = service_draft_here();
	struct xdp_draft *way = xdp_draft_here();
	const struct flow *flow = flow_here();
	const struct node_entry *node;

	if (!draft || !way || !flow)
		return 0;
	node = node_lookup(flow->destination.node_id);
	if (!node || xdp_packet_bytes(xdp) > node_mtu(node, flow->destination.node_id, draft->now_s, draft->family))
		return 0;
	return xdp_way_to_node(xdp, draft, way, node);
}

/* To the client, by the device by which it came; 0: there is no way. `sender`, in the draft, is who has sent the frame. */
__noinline int xdp_way_back(struct xdp_md *xdp)
{
	struct service_draft *draft = service_draft_here();
	struct xdp_draft *way = xdp_draft_here();
	struct bpf_fib_lookup route = {};
	struct ipv6_addr sender;

	if (!draft || !way || draft->hop_limit <= 1)
		return 0;
	sender = way->outer_family ? way->outer_source : draft->packet.source;
	xdp_set_source(&route, &draft->to.source, draft->family);
	xdp_set_destination(&route, &draft->to.destination, draft->family);
	route.tot_len = 0;
	if (!xdp_ask(xdp, way, &route, &sender, way->outer_family ? way->outer_family : draft->family))
		return 0;
	way->point = TRACE_TO_NETWORK;
	way->hops = 1;
	return way->ifindex == draft->to.ifindex;
}

/* Out by the way that was found. */
static __always_inline int xdp_send(struct xdp_md *xdp)
{
	const struct xdp_draft *way = xdp_draft_here();
	struct ethhdr *ethernet = xdp_bytes(xdp, 0, ETH_HLEN);

	if (!way || !ethernet)
		return XDP_DROP;
	mac_copy(ethernet->h_dest, &way->destination);
	mac_copy(ethernet->h_source, &way->source);
	return way->ifindex == xdp->ingress_ifindex ? XDP_TX : (int)bpf_redirect(way->ifindex, 0);
}
