// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* What comes from outside: attached to the ingress of the node's devices. Packets for local pods are judged and
 * delivered here, as a router would; all others are none of our business and go on untouched.
 *
 *   network ──> device [from_netdev] ──> a pod of this node     (redirect_peer)
 *                                    ├─> another node           (for a service whose backend is there)
 *                                    ├─> network                (the answer of such a backend)
 *                                    ├─> back                   (who asks for an address that this node announces)
 *                                    └─> the node's own stack
 *
 * Beside kube-proxy the stack gets what pods get from the world too, and from_host delivers it.
 */
#include "../lib/connection.h"
#include "../lib/dsr.h"
#include "../lib/dsr_in.h"
#include "../lib/endpoint.h"
#include "../lib/ethernet.h"
#include "../lib/events.h"
#include "../lib/family.h"
#include "../lib/forward.h"
#include "../lib/fragment.h"
#include "../lib/hop.h"
#include "../lib/l2_announcement.h"
#include "../lib/nat_in.h"
#include "../lib/node.h"
#include "../lib/parse.h"
#include "../lib/path_mtu.h"
#include "../lib/refuse.h"
#include "../lib/service_forth.h"
#include "../lib/service_return.h"

/* Nobody outside has an address of this node or of its pods. Nor of a node that is reached through the overlay, or of a
 * pod there: their packets come through it, and an identity that is told by the address alone would be anybody's.
 */
static __always_inline int netdev_check_source(struct flow *flow, __u8 family)
{
	if (endpoint_lookup(&flow->tuple.source, family))
		return DROP_INVALID_SOURCE_IP;
	end_set_remote(&flow->source, &flow->tuple.source, family);
	if (flow->source.sec_identity == IDENTITY_HOST ||
	    (flow->source.node_id && node_is_behind_tunnel(flow->source.node_id)))
		return DROP_INVALID_SOURCE_IP;
	return STEP_DONE;
}

/* What of it is for a service? Beside kube-proxy only what a pod of another node sends to a HostPort: natively, as it comes
 * by the overlay else.
 */
static __always_inline int netdev_forth_where(struct flow *flow, __u8 family)
{
	if (!config_beside_kube_proxy)
		return SERVICE_FROM_NETWORK;
	end_set_remote(&flow->source, &flow->tuple.source, family);
	return flow->source.node_id && flow->source.sec_identity != IDENTITY_REMOTE_NODE
		   ? SERVICE_FROM_NETWORK | SERVICE_TO_OWN_NODE | SERVICE_FROM_OVERLAY
		   : 0;
}

/* For no pod: what came back to masqueraded flows and to services, and what is for a service. STEP_DONE: it is for a pod
 * now; else as nat_in() and service_forth().
 */
static __always_inline int netdev_translate(struct __sk_buff *skb, struct flow *flow, __u8 family)
{
	int step = nat_in(skb, flow, family), where;

	if (unlikely(step == STEP_SERVICE))
		service_draft_fill(flow, SERVICE_FROM_NETWORK);
	if (step != STEP_IGNORE || !config_services || nat_is_overlay(&flow->tuple))
		return step;
	where = netdev_forth_where(flow, family);
	return where ? service_forth(skb, where) : step;
}

/* The answer of a backend to a pod of this node. */
static __always_inline int netdev_answer(struct __sk_buff *skb)
{
	int step = service_back(skb);

	return step == STEP_IGNORE ? STEP_DONE : step;
}

/* May an option say what a client has called? Behind the overlay, or with outer headers, nodes send it in no other way. */
static __always_inline bool netdev_from_node(const struct flow *flow)
{
	return flow->wrapped || !(config_dsr_outer_family == flow->family || config_overlay_ifindex);
}

/* kube-proxy's rules drop what the stack's conntrack cannot follow, so both directions of a connection pass the stack or none
 * does. What a pod sends past it goes to nodes alone, natively.
 */
static __always_inline bool netdev_owes_stack(const struct flow *flow, __u8 family)
{
	const struct node_entry *node;

	if (!config_beside_kube_proxy)
		return false;
	node = flow->source.node_id ? node_lookup(flow->source.node_id) : 0;
	return !node || forward_way(node, family) == TRACE_TO_STACK;
}

static __always_inline int netdev_admit(struct __sk_buff *skb, struct flow *flow, __u8 family)
{
	const struct endpoint_entry *endpoint;
	int reason;

	if (parse_ip(skb, flow, family))
		return STEP_IGNORE;
	if (unlikely(flow->tuple.protocol == icmp_protocol(family)))
		path_mtu_learn(skb, flow->l4_offset, family);
	if (!family_is_on(family))
		return STEP_IGNORE;
	endpoint = endpoint_lookup(&flow->tuple.destination, family);
	if (!endpoint) {
		reason = netdev_translate(skb, flow, family);
		if (likely(reason))
			return reason;
		endpoint = endpoint_lookup(&flow->tuple.destination, family);
		if (!endpoint)
			return STEP_IGNORE;
	}
	end_set_receiver(&flow->destination, endpoint);
	reason = parse_l4(skb, flow, family);
	if (reason)
		return reason;
	reason = netdev_check_source(flow, family);
	if (reason)
		return reason;
	if (netdev_owes_stack(flow, family))
		return STEP_IGNORE; /* from_host judges it */
	if (flow->hop_limit <= 1)
		return DROP_TTL_EXCEEDED;
	reason = fragment_track(flow);
	if (!reason && dsr_may_be(flow, family))
		reason = dsr_take(skb, netdev_from_node(flow));
	if (reason)
		return reason;
	reason = connection_admit(skb, flow, family);
	return !reason && service_is_due(flow) ? netdev_answer(skb) : reason;
}

static __always_inline int netdev_to_endpoint(struct __sk_buff *skb, struct flow *flow, __u8 family)
{
	const struct end *to = &flow->destination;

	trace(skb, flow, TRACE_TO_ENDPOINT);
	if (hop_count_down(skb, flow->hop_limit, family) || ethernet_to_endpoint(skb, &to->mac, &to->host_mac))
		return drop(skb, DROP_WRITE_ERROR, DIRECTION_INGRESS);
	metrics_count(DIRECTION_INGRESS, 0, flow->bytes);
	return bpf_redirect_peer(to->ifindex, 0);
}

/* The stack cannot forward it either when its hops are used up, but tells the sender; what it would quote must be what
 * that one has sent. In numbers, for a branch makes the verifier look at all of the above twice.
 */
__noinline int netdev_refuse(struct __sk_buff *skb, __u32 reason, __u32 mtu_bytes)
{
	const struct flow *flow = flow_here();

	if (!flow)
		return TC_ACT_SHOT;
	drop(skb, reason, DIRECTION_INGRESS);
	if (reason == DROP_TTL_EXCEEDED)
		return flow->translated * TC_ACT_SHOT;
	return refuse(skb, reason, mtu_bytes, flow->for_service) == STEP_ANSWERED ? bpf_redirect(skb->ifindex, 0)
										  : TC_ACT_SHOT;
}

/* TC_ACT_SHOT if the packet could not be written. */
static __always_inline int netdev_send(struct __sk_buff *skb, const struct flow *flow, enum trace_point way)
{
	__u32 world = flow->family == FAMILY_IPV4 ? IDENTITY_WORLD_IPV4 : IDENTITY_WORLD_IPV6;

	metrics_count(DIRECTION_EGRESS, 0, flow->bytes);
	if (way == TRACE_TO_OVERLAY)
		return forward_by_overlay(skb, flow->destination.node_id,
					  tunnel_identity(flow->source.sec_identity, world));
	if (way == TRACE_TO_NETWORK)
		return forward_to_neighbour(skb, flow->destination.node_id, flow->hop_limit);
	return forward_by_route(skb, flow->hop_limit);
}

/* To a backend on another node, or outside of the cluster. */
static __always_inline int netdev_to_backend(struct __sk_buff *skb, struct flow *flow)
{
	union forward_answer forward = {.way = TRACE_TO_STACK};
	int action;

	if (flow->destination.node_id)
		forward.word = dsr_make_room(skb, forward_of(skb, flow, flow->family).word);
	if (forward.reason)
		return netdev_refuse(skb, forward.reason, forward.mtu_bytes);
	trace(skb, flow, forward.way);
	action = dsr_tell(skb) ? TC_ACT_SHOT : netdev_send(skb, flow, forward.way);
	return likely(action != TC_ACT_SHOT) ? action : drop(skb, DROP_WRITE_ERROR, DIRECTION_INGRESS);
}

/* What is for a service, wherever its backend is. */
static __always_inline int netdev_forth(struct __sk_buff *skb, struct flow *flow, __u8 family)
{
	int reason = service_begin(skb);

	if (!reason)
		reason = connection_admit(skb, flow, family);
	flow->source.sec_identity = service_client_identity();
	if (reason)
		return netdev_refuse(skb, reason, 0);
	service_end(flow);
	if (end_is_local(&flow->destination))
		return netdev_to_endpoint(skb, flow, family);
	dsr_establish();
	if (flow->destination.sec_identity != IDENTITY_HOST)
		return netdev_to_backend(skb, flow);
	trace(skb, flow, TRACE_TO_HOST);
	metrics_count(DIRECTION_INGRESS, 0, flow->bytes);
	return TC_ACT_OK;
}

/* The answer of a backend on another node to a client outside. */
static __always_inline int netdev_back(struct __sk_buff *skb)
{
	int step = service_returned(skb), action;

	if (step == STEP_IGNORE)
		return TC_ACT_OK;
	if (step != STEP_BACK)
		return netdev_refuse(skb, step, 0);
	action = service_deliver(skb);
	return likely(action != TC_ACT_SHOT) ? action : drop(skb, DROP_WRITE_ERROR, DIRECTION_INGRESS);
}

/* STEP_DONE and the action; or STEP_FORTH or STEP_SERVICE: it goes on with netdev_forth() or netdev_back(). */
static __always_inline int netdev_ip(struct __sk_buff *skb, struct flow *flow, __u8 family, int *action)
{
	int reason = netdev_admit(skb, flow, family);

	if (unlikely(reason == STEP_FORTH || reason == STEP_SERVICE))
		return reason;
	if (likely(reason == STEP_IGNORE))
		*action = TC_ACT_OK;
	else if (reason)
		*action = netdev_refuse(skb, reason, 0);
	else
		*action = netdev_to_endpoint(skb, flow, family);
	return STEP_DONE;
}

SEC("tc")
int from_netdev(struct __sk_buff *skb)
{
	struct flow *flow = flow_here();
	int action, step;

	if (!flow || skb->vlan_present)
		return TC_ACT_OK;
	flow_begin(flow, skb);
	step = config_beside_kube_proxy ? STEP_IGNORE : l2_answer(skb, flow);
	if (unlikely(step != STEP_IGNORE))
		return step == STEP_ANSWERED ? bpf_redirect(skb->ifindex, 0) : TC_ACT_SHOT;
	if (skb->pkt_type != PACKET_HOST)
		return TC_ACT_OK;
	step = config_dsr_outer_family ? dsr_unwrap(skb) : STEP_IGNORE;
	if (unlikely(step > 0))
		return drop(skb, step, DIRECTION_INGRESS);
	if (unlikely(step == STEP_DONE)) {
		flow_begin(flow, skb);
		flow->wrapped = true;
	}
	if (skb->protocol == be16(ETH_P_IP))
		step = netdev_ip(skb, flow, FAMILY_IPV4, &action);
	else if (skb->protocol == be16(ETH_P_IPV6))
		step = netdev_ip(skb, flow, FAMILY_IPV6, &action);
	else
		return TC_ACT_OK;
	if (likely(!step))
		return action;
	if (step == STEP_SERVICE)
		return netdev_back(skb);
	return skb->protocol == be16(ETH_P_IP) ? netdev_forth(skb, flow, FAMILY_IPV4)
					       : netdev_forth(skb, flow, FAMILY_IPV6);
}

const char LICENSE[] SEC("license") = "Dual BSD/GPL";
