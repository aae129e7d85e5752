// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* Everything that a pod sends: attached to the ingress of the host side of its interface.
 *
 *   pod ──> [from_container] ──> a pod of this node      (redirect_peer: straight into its namespace)
 *                            ├─> another node            (through the overlay, or natively to a neighbour)
 *                            ├─> the node's own stack    (through the gateway device: host, world, other nodes)
 *                            └─> back                    (ARP and neighbour discovery are answered here)
 *
 * Between pods of one node the hop limit stays as it is: delivery is final, so no loop can come of it, and pods of
 * one node look to each other like neighbours. The same holds of the overlay. What goes natively is counted down here,
 * what goes through the stack there.
 */
#include "../lib/arp.h"
#include "../lib/connection.h"
#include "../lib/endpoint.h"
#include "../lib/ethernet.h"
#include "../lib/events.h"
#include "../lib/family.h"
#include "../lib/forward.h"
#include "../lib/fragment.h"
#include "../lib/nd.h"
#include "../lib/parse.h"
#include "../lib/refuse.h"
#include "../lib/service_beside.h"
#include "../lib/service_forth.h"

CONFIG(__u32, config_host_ifindex);

/* The source must be the endpoint behind this very interface. */
static __always_inline int container_check_source(struct __sk_buff *skb, struct flow *flow, __u8 family)
{
	const struct endpoint_entry *endpoint = endpoint_lookup(&flow->tuple.source, family);
	const struct ethhdr *ethernet;

	if (!endpoint || endpoint->ifindex != skb->ifindex)
		return DROP_INVALID_SOURCE_IP;
	end_set_local(&flow->source, endpoint);
	ethernet = packet_bytes(skb, 0, ETH_HLEN);
	return ethernet && mac_equal(ethernet->h_source, &endpoint->mac) ? STEP_DONE : DROP_INVALID_SOURCE_MAC;
}

/* Nobody's pod has an address of a service. What a node has may be its NodePort; of all else frontends are known by their
 * addresses, which most packets are not for.
 */
static __always_inline bool container_may_be_for_service(const struct flow *flow, __u8 family)
{
	const struct end *to = &flow->destination;
	struct ipv6_addr address;

	if (!config_services || end_is_local(to))
		return false;
	if (to->node_id || to->sec_identity == IDENTITY_HOST)
		return !to->node_id || to->sec_identity == IDENTITY_REMOTE_NODE;
	if (unlikely(flow->tracking == TRACKING_RELATED))
		return true;
	address = flow->tuple.destination;
	return unlikely(service_address_lookup(&address, family) != 0);
}

static __always_inline enum service_where container_where(const struct flow *flow)
{
	if (flow->destination.node_id)
		return SERVICE_TO_NODE;
	return flow->destination.sec_identity == IDENTITY_HOST ? SERVICE_TO_OWN_NODE : SERVICE_FROM_POD;
}

/* The answer of a backend, to a client here or to where it came from: it goes on with container_back(). Or a client's error about
 * one, to the backend.
 */
static __always_inline int container_answer(struct __sk_buff *skb, const struct flow *flow)
{
	int step = service_back(skb);

	if (step)
		return step == STEP_IGNORE ? STEP_DONE : step;
	if (unlikely(service_goes_forth()))
		return STEP_FORTH;
	trace(skb, flow, end_is_local(&flow->destination) ? TRACE_TO_ENDPOINT : TRACE_TO_NETWORK);
	return STEP_BACK;
}

/* A packet that may be beside a translated connection. */
static __always_inline int container_beside(struct __sk_buff *skb)
{
	int step = service_beside(skb);

	return step == STEP_IGNORE ? service_beside_none(skb) : step;
}

/* 0 if the packet may go on to its destination. */
static __always_inline int container_admit(struct __sk_buff *skb, struct flow *flow, __u8 family)
{
	int reason = parse_ip(skb, flow, family);

	if (reason)
		return reason;
	if (family == FAMILY_IPV6 && unlikely(nd_is_message(skb, flow)))
		return nd_handle(skb);
	if (unlikely(address_is_multicast(&flow->tuple.destination, family)))
		return DROP_MULTICAST_HANDLED; /* nobody but us is on the link, and multicast is not routed */
	reason = parse_l4(skb, flow, family);
	if (reason)
		return reason;
	reason = container_check_source(skb, flow, family);
	if (reason)
		return reason;
	if (unlikely(address_is_unroutable(&flow->tuple.destination, family)))
		return DROP_STALE_OR_UNROUTABLE_IP;
	reason = fragment_track(flow);
	if (reason)
		return reason;
	end_resolve(&flow->destination, &flow->tuple.destination, family);
	if (container_may_be_for_service(flow, family)) {
		reason = service_forth(skb, container_where(flow));
		if (unlikely(reason != STEP_IGNORE))
			return reason;
	}
	reason = connection_ask(skb, flow, family, true);
	if (unlikely(reason == STEP_BESIDE))
		reason = container_beside(skb);
	return !reason && service_is_due(flow) ? container_answer(skb, flow) : reason;
}

static __always_inline enum trace_point container_way(const struct flow *flow, union forward_answer forward)
{
	if (end_is_local(&flow->destination))
		return TRACE_TO_ENDPOINT;
	if (flow->destination.node_id)
		return forward.way;
	return flow->destination.sec_identity == IDENTITY_HOST || flow->destination.is_process ? TRACE_TO_HOST
											       : TRACE_TO_STACK;
}

static __always_inline int container_to_endpoint(struct __sk_buff *skb, const struct flow *flow)
{
	const struct end *to = &flow->destination;

	if (ethernet_to_endpoint(skb, &to->mac, &to->host_mac))
		return TC_ACT_SHOT;
	packet_take(skb);
	metrics_count(DIRECTION_INGRESS, 0, flow->bytes);
	return bpf_redirect_peer(to->ifindex, 0);
}

/* The stack sees it as having come in on the gateway device, so that reverse path filters are content. */
static __always_inline int container_to_stack(struct __sk_buff *skb)
{
	if (ethernet_to_host(skb))
		return TC_ACT_SHOT;
	return bpf_redirect(config_host_ifindex, BPF_F_INGRESS);
}

/* Used-up hops are the stack's to tell of. */
static __always_inline int container_to_neighbour(struct __sk_buff *skb, const struct flow *flow)
{
	if (flow->hop_limit <= 1)
		return container_to_stack(skb);
	return forward_to_neighbour(skb, flow->destination.node_id, flow->hop_limit);
}

/* TC_ACT_SHOT if the packet could not be written. */
static __always_inline int container_send(struct __sk_buff *skb, const struct flow *flow, enum trace_point way)
{
	metrics_count(DIRECTION_EGRESS, 0, flow->bytes);
	if (way == TRACE_TO_ENDPOINT)
		return container_to_endpoint(skb, flow);
	if (way == TRACE_TO_OVERLAY)
		return forward_by_overlay(skb, flow->destination.node_id,
					  tunnel_identity(flow->source.sec_identity, IDENTITY_UNMANAGED));
	if (way == TRACE_TO_NETWORK)
		return container_to_neighbour(skb, flow);
	return container_to_stack(skb);
}

static __always_inline int container_refuse(struct __sk_buff *skb, struct flow *flow, __u8 reason, __u32 mtu_bytes)
{
	drop(skb, reason, DIRECTION_EGRESS);
	if (refuse(skb, reason, mtu_bytes, flow->for_service) == STEP_ANSWERED)
		return bpf_redirect(skb->ifindex, 0);
	return TC_ACT_SHOT;
}

/* What follows once a packet may pass, or may not for that reason. */
static __always_inline int container_forward(struct __sk_buff *skb, struct flow *flow, __u8 family, int reason)
{
	union forward_answer forward = {};
	enum trace_point way;
	int action;

	if (!reason) {
		forward = forward_of(skb, flow, family);
		reason = forward.reason;
	}
	if (unlikely(reason))
		return container_refuse(skb, flow, reason, forward.mtu_bytes);
	way = container_way(flow, forward);
	trace(skb, flow, way);
	action = container_send(skb, flow, way);
	return likely(action != TC_ACT_SHOT) ? action : drop(skb, DROP_WRITE_ERROR, DIRECTION_EGRESS);
}

/* STEP_DONE and the action; or STEP_FORTH or STEP_BACK: it goes on with container_forth() or container_back(). */
static __always_inline int container_ip(struct __sk_buff *skb, struct flow *flow, __u8 family, int *action)
{
	int reason = family_is_on(family) ? container_admit(skb, flow, family) : DROP_UNSUPPORTED_L3;

	if (unlikely(reason == STEP_FORTH || reason == STEP_BACK))
		return reason;
	*action = unlikely(reason == STEP_ANSWERED) ? bpf_redirect(skb->ifindex, 0)
						    : container_forward(skb, flow, family, reason);
	return STEP_DONE;
}

/* To the backend of a service. */
static __always_inline int container_forth(struct __sk_buff *skb, struct flow *flow, __u8 family)
{
	int reason = service_begin(skb);

	if (!reason)
		reason = connection_admit(skb, flow, family);
	if (end_is_local(&flow->destination)) /* else the last packet may be lost, and the backend's FIN come again */
		service_end(flow);
	return container_forward(skb, flow, family, reason);
}

static __always_inline int container_back(struct __sk_buff *skb, struct flow *flow)
{
	int action;

	flow_begin(flow, skb);
	action = service_deliver(skb);
	return likely(action != TC_ACT_SHOT) ? action : drop(skb, DROP_WRITE_ERROR, DIRECTION_EGRESS);
}

static __always_inline int container_arp(struct __sk_buff *skb, struct flow *flow)
{
	int reason = family_is_on(FAMILY_IPV4) ? arp_answer(skb, flow) : DROP_UNSUPPORTED_L3;

	if (reason == STEP_ANSWERED)
		return bpf_redirect(skb->ifindex, 0);
	return drop(skb, reason, DIRECTION_EGRESS);
}

static __always_inline int container_other(struct __sk_buff *skb, struct flow *flow)
{
	if (skb->protocol == be16(ETH_P_ARP))
		return container_arp(skb, flow);
	return drop(skb, be16(skb->protocol) < ETH_P_802_3_MIN ? DROP_UNSUPPORTED_L2 : DROP_UNSUPPORTED_L3,
		    DIRECTION_EGRESS);
}

SEC("tc")
int from_container(struct __sk_buff *skb)
{
	struct flow *flow = flow_here();
	int action, step;

	if (!flow)
		return TC_ACT_SHOT;
	flow_begin(flow, skb);
	if (unlikely(skb->vlan_present))
		return drop(skb, DROP_VLAN_FILTERED, DIRECTION_EGRESS);
	if (skb->protocol == be16(ETH_P_IP))
		step = container_ip(skb, flow, FAMILY_IPV4, &action);
	else if (skb->protocol == be16(ETH_P_IPV6))
		step = container_ip(skb, flow, FAMILY_IPV6, &action);
	else
		return container_other(skb, flow);
	if (likely(!step))
		return action;
	if (step == STEP_FORTH && skb->protocol == be16(ETH_P_IP))
		return container_forth(skb, flow, FAMILY_IPV4);
	if (step == STEP_FORTH)
		return container_forth(skb, flow, FAMILY_IPV6);
	return container_back(skb, flow);
}

const char LICENSE[] SEC("license") = "Dual BSD/GPL";
