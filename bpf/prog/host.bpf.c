// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* What the node's stack sends to pods, its own packets and those that it forwards: attached to the egress of the
 * gateway device, to which the routes of the pod CIDRs point.
 *
 *   node's stack ──> gateway device [from_host] ──> a pod of this node
 *                                               └─> another node   (through the overlay, or natively to a neighbour)
 *
 * The stack has counted the hops of what it forwards. Of the node's own packets those of an endpoint that is processes
 * (process.h) are judged as that.
 */
#include "../lib/connection.h"
#include "../lib/endpoint.h"
#include "../lib/ethernet.h"
#include "../lib/events.h"
#include "../lib/family.h"
#include "../lib/forward.h"
#include "../lib/fragment.h"
#include "../lib/icmp_error.h"
#include "../lib/parse.h"
#include "../lib/process.h"
#include "../lib/service_path.h"

CONFIG(__u32, config_host_ifindex);

/* What a pod of this node sends to another never passes the stack: with a pod's address it is not from that pod. What
 * comes from behind a tunnel is not forwarded: it would get its identity from its address alone.
 */
static __always_inline int host_check_source(struct flow *flow, __u8 family)
{
	if (endpoint_lookup(&flow->tuple.source, family))
		return DROP_INVALID_SOURCE_IP;
	end_set_remote(&flow->source, &flow->tuple.source, family);
	return (flow->source.node_id && node_is_behind_tunnel(flow->source.node_id)) ? DROP_INVALID_SOURCE_IP
										     : STEP_DONE;
}

/* The connection is the node's own from now on. */
__noinline int host_take_over(void)
{
	const struct flow *flow = flow_here();
	struct ct_entry *entry;
	bool is_reply;

	if (!flow || flow->tracking != TRACKING_CONNECTION || !service_yield())
		return STEP_DONE;
	entry = ct_lookup(&flow->tuple, flow->family, flow->now_s, &is_reply);
	if (entry)
		entry->flags &= ~CT_TRANSLATED;
	return STEP_DONE;
}

/* The answer of a backend; or the node's own packet where a translated connection has the gateway's port. */
static __always_inline int host_answer(struct __sk_buff *skb)
{
	int step = service_back(skb);

	return step == STEP_IGNORE ? host_take_over() : step;
}

static __always_inline int host_admit(struct __sk_buff *skb, struct flow *flow, __u8 family)
{
	int reason = parse_ip(skb, flow, family);

	if (reason)
		return reason;
	if (address_is_multicast(&flow->tuple.destination, family))
		return DROP_MULTICAST_HANDLED;
	reason = parse_l4(skb, flow, family);
	if (reason)
		return reason;
	reason = host_check_source(flow, family);
	if (reason)
		return reason;
	if (flow->source.sec_identity == IDENTITY_HOST && process_may_be(skb))
		process_take(skb, true);
	end_resolve(&flow->destination, &flow->tuple.destination, family);
	if (!end_is_local(&flow->destination) && !flow->destination.node_id)
		return DROP_UNKNOWN_L3_TARGET;
	reason = fragment_track(flow);
	if (reason)
		return reason;
	reason = connection_admit(skb, flow, family);
	return !reason && service_is_due(flow) ? host_answer(skb) : reason;
}

static __always_inline int host_to_endpoint(struct __sk_buff *skb, const struct flow *flow)
{
	const struct end *to = &flow->destination;

	if (ethernet_to_endpoint(skb, &to->mac, &to->host_mac))
		return TC_ACT_SHOT;
	metrics_count(DIRECTION_INGRESS, 0, flow->bytes);
	return bpf_redirect(to->ifindex, 0);
}

/* A source that this node knows by a rule's CIDR is the world to others. Who has connected to a process has connected to the
 * node.
 */
static __always_inline __u32 host_tunnel_identity(const struct flow *flow, __u8 family)
{
	__u32 world = family == FAMILY_IPV4 ? IDENTITY_WORLD_IPV4 : IDENTITY_WORLD_IPV6;

	if (flow->source.is_process && flow->is_reply == IS_REPLY_YES)
		return IDENTITY_HOST;
	return tunnel_identity(flow->source.sec_identity, flow->source.is_process ? IDENTITY_HOST : world);
}

static __always_inline int host_to_node(struct __sk_buff *skb, const struct flow *flow, enum trace_point way,
					__u8 family)
{
	__u32 node_id = flow->destination.node_id;

	metrics_count(DIRECTION_EGRESS, 0, flow->bytes);
	if (way == TRACE_TO_OVERLAY)
		return forward_by_overlay(skb, node_id, host_tunnel_identity(flow, family));
	return forward_to_neighbour(skb, node_id, 0);
}

/* The node itself learns that a packet was too big, as if it had met the small link further on. */
static __always_inline int host_refuse(struct __sk_buff *skb, struct flow *flow, __u8 reason, __u32 mtu_bytes,
				       __u8 family)
{
	drop(skb, reason, flow->destination.node_id ? DIRECTION_EGRESS : DIRECTION_INGRESS);
	if (reason != DROP_FRAGMENTATION_NEEDED || icmp_error_too_big(skb, mtu_bytes, family) != STEP_ANSWERED ||
	    ethernet_to_host(skb))
		return TC_ACT_SHOT;
	return bpf_redirect(config_host_ifindex, BPF_F_INGRESS);
}

static __always_inline int host_ip(struct __sk_buff *skb, struct flow *flow, __u8 family)
{
	int reason = family_is_on(family) ? host_admit(skb, flow, family) : DROP_UNSUPPORTED_L3;
	union forward_answer forward = {};
	enum trace_point way;
	int action;

	if (!reason) {
		forward = forward_of(skb, flow, family);
		reason =
		    forward.way == TRACE_TO_STACK ? DROP_UNKNOWN_L3_TARGET : forward.reason; /* it comes from there */
	}
	if (unlikely(reason))
		return host_refuse(skb, flow, reason, forward.mtu_bytes, family);
	way = end_is_local(&flow->destination) ? TRACE_TO_ENDPOINT : forward.way;
	trace(skb, flow, way);
	action = way == TRACE_TO_ENDPOINT ? host_to_endpoint(skb, flow) : host_to_node(skb, flow, way, family);
	return likely(action != TC_ACT_SHOT) ? action : drop(skb, DROP_WRITE_ERROR, DIRECTION_INGRESS);
}

SEC("tc")
int from_host(struct __sk_buff *skb)
{
	struct flow *flow = flow_here();

	if (!flow)
		return TC_ACT_SHOT;
	flow_begin(flow, skb);
	if (skb->protocol == be16(ETH_P_IP))
		return host_ip(skb, flow, FAMILY_IPV4);
	if (skb->protocol == be16(ETH_P_IPV6))
		return host_ip(skb, flow, FAMILY_IPV6);
	return drop(skb, DROP_UNSUPPORTED_L3, DIRECTION_INGRESS);
}

const char LICENSE[] SEC("license") = "Dual BSD/GPL";
