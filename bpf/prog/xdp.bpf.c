// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* What comes from outside, before the node's stack has made anything of it: attached to the node's devices where the
 * configuration says so. Packets to services whose backend is on another node are sent on to there, and what those
 * answer to the client; all else goes on to from_netdev and from_overlay, which do the same of what is not plain.
 *
 *   network ──> device [xdp_netdev] ──> another node     (by its link, or in the overlay's VXLAN)
 *                                   ├─> network          (the answer of such a backend)
 *                                   └─> from_netdev      (everything else, as it came)
 *
 * Whatever is decided is decided by the functions that from_netdev calls, and kept in the same maps: which of the two
 * sees a packet makes no difference to it. What is to be dropped is left to from_netdev, which says why.
 */
#define PACKET_CONTEXT struct xdp_md
#include "../lib/dsr.h"
#include "../lib/vni.h"
#include "../lib/xdp_connection.h"

enum xdp_kind {
	XDP_KIND_OTHER = 0,
	XDP_KIND_FORTH = 1,  /* to a service */
	XDP_KIND_ANSWER = 2, /* of a backend */
};

/* What netdev_admit() would take it for. */
__noinline int xdp_kind(void)
{
	struct service_draft *draft = service_draft_here();
	const struct nat_entry *entry;
	struct nat6_key key = {.direction = NAT_IN};
	struct ipv6_addr address;

	if (!draft)
		return XDP_KIND_OTHER;
	address = draft->packet.destination;
	if (endpoint_lookup(&address, draft->family))
		return XDP_KIND_OTHER;
	key.local = draft->packet.destination;
	key.remote = draft->packet.source;
	key.local_port = draft->packet.destination_port;
	key.remote_port = draft->packet.source_port;
	key.protocol = draft->packet.protocol;
	entry = nat_find(&key, draft->family);
	if (entry)
		return entry->flags & NAT_SERVICE ? XDP_KIND_ANSWER : XDP_KIND_OTHER;
	return service_find() && !(draft->service.flags & SERVICE_NO_XDP) ? XDP_KIND_FORTH : XDP_KIND_OTHER;
}

/* Is nothing to be added to what the backend gets? The flow must have begun. */
static __always_inline bool xdp_is_whole(const struct service_draft *draft)
{
	return draft->to.flags & SERVICE_FLOW_SNAT || (!dsr_tells(draft) && !dsr_wraps(draft));
}

/* What becomes of a packet to a service; 0: it is not for here, or not to be sent on. */
__noinline int xdp_decide(struct xdp_md *xdp)
{
	const struct service_draft *draft = service_draft_here();
	struct flow *flow = flow_here();
	int step = service_settle(xdp);

	if (step || !draft || !flow || !(draft->to.flags & (SERVICE_FLOW_SNAT | SERVICE_FLOW_DSR)))
		return 0;
	xdp_begin(flow, draft);
	return flow->destination.node_id != NODE_ID_NONE && xdp_is_whole(draft);
}

static __always_inline int xdp_forth(struct xdp_md *xdp)
{
	const struct xdp_draft *way = xdp_draft_here();

	if (!way || !xdp_decide(xdp) || !xdp_way_forth(xdp) || !xdp_open())
		return XDP_PASS;
	dsr_establish();
	xdp_trace(xdp);
	if (xdp_rewrite(xdp, way->hops) || (way->outer_family && xdp_wrap(xdp)))
		return XDP_DROP;
	return xdp_send(xdp);
}

/* Is the draft's packet the answer of a backend on another node to a client outside? */
__noinline int xdp_recall(void)
{
	const struct service_draft *draft = service_draft_here();
	struct flow *flow = flow_here();

	if (!draft || !flow || !service_recall())
		return 0;
	if ((draft->to.flags & (SERVICE_FLOW_REPLY | SERVICE_FLOW_SNAT)) != (SERVICE_FLOW_REPLY | SERVICE_FLOW_SNAT))
		return 0;
	xdp_begin(flow, draft);
	return draft->to.ifindex != 0;
}

/* The same with all that it takes to send it to the client. */
static __always_inline bool xdp_may_answer(struct xdp_md *xdp)
{
	return xdp_recall() && xdp_way_back(xdp) && xdp_hear();
}

static __always_inline int xdp_answer(struct xdp_md *xdp)
{
	struct xdp_draft *way = xdp_draft_here();

	if (!way || service_check_client())
		return XDP_PASS;
	way->outer_family = FAMILY_NONE;
	if (!xdp_may_answer(xdp))
		return XDP_PASS;
	xdp_trace(xdp);
	return xdp_rewrite(xdp, way->hops) ? XDP_DROP : xdp_send(xdp);
}

/* Is it a packet of the overlay for this node? Its identity goes into the draft; the bytes before the inner frame, or 0. */
__noinline int xdp_unwrap(struct xdp_md *xdp)
{
	struct service_draft *draft = service_draft_here();
	struct xdp_draft *way = xdp_draft_here();
	const struct ipcache_entry *entry;
	const struct vxlan_header *vxlan;
	struct ipv6_addr address;
	__u8 family;
	__u32 vni;

	if (!draft || !way || draft->packet.protocol != IPPROTO_UDP ||
	    draft->packet.destination_port != be16(config_tunnel_port))
		return 0;
	family = draft->family;
	address = draft->packet.destination;
	entry = ipcache_lookup(&address, family);
	if (!entry || entry->sec_identity != IDENTITY_HOST || (xdp_traffic_class(xdp, family) & ECN_BITS) == ECN_CE)
		return 0;
	vxlan = family == FAMILY_IPV4 ? xdp_bytes(xdp, sizeof(struct vxlan_ipv4) - sizeof(*vxlan), sizeof(*vxlan))
				      : xdp_bytes(xdp, sizeof(struct vxlan_ipv6) - sizeof(*vxlan), sizeof(*vxlan));
	if (!vxlan || vxlan->flags != VXLAN_HAS_VNI)
		return 0;
	vni = be32(vxlan->vni) >> 8;
	if (!vni_is_identity(vni))
		return 0;
	way->outer_family = family;
	way->outer_source = draft->packet.source;
	draft->client_identity = vni == IDENTITY_HOST ? IDENTITY_REMOTE_NODE : vni;
	return family == FAMILY_IPV4 ? sizeof(struct vxlan_ipv4) : sizeof(struct vxlan_ipv6);
}

/* From the overlay only answers of backends are taken. */
static __always_inline int xdp_overlay(struct xdp_md *xdp)
{
	struct xdp_draft *way = xdp_draft_here();
	int base = xdp_unwrap(xdp);

	if (!base || !way || !xdp_read(xdp, base) || !xdp_may_answer(xdp))
		return XDP_PASS;
	way->bytes -= base;
	if (base == sizeof(struct vxlan_ipv4) ? bpf_xdp_adjust_head(xdp, sizeof(struct vxlan_ipv4))
					      : bpf_xdp_adjust_head(xdp, sizeof(struct vxlan_ipv6)))
		return XDP_PASS;
	xdp_trace(xdp);
	return xdp_rewrite(xdp, way->hops) ? XDP_DROP : xdp_send(xdp);
}

static __always_inline bool xdp_is_overlay(const struct service_draft *draft)
{
	return config_overlay_ifindex && draft->packet.protocol == IPPROTO_UDP &&
	       draft->packet.destination_port == be16(config_tunnel_port);
}

SEC("xdp")
int xdp_netdev(struct xdp_md *xdp)
{
	const struct service_draft *draft = service_draft_here();
	struct xdp_draft *way = xdp_draft_here();
	int kind;

	if (!config_services || !draft || !way || !xdp_read(xdp, 0))
		return XDP_PASS;
	way->bytes = xdp_frame_bytes(xdp);
	if (unlikely(xdp_is_overlay(draft)))
		return xdp_overlay(xdp);
	kind = xdp_kind();
	if (likely(kind == XDP_KIND_OTHER))
		return XDP_PASS;
	return kind == XDP_KIND_FORTH ? xdp_forth(xdp) : xdp_answer(xdp);
}

const char LICENSE[] SEC("license") = "Dual BSD/GPL";
