// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* What the node's stack sends to pods, its own packets and those that it forwards: attached to the egress of the
 * gateway device, to which the routes of the pod CIDRs point.
 *
 *   node's stack ──> gateway device [from_host] ──> a pod of this node
 */
#include "../lib/connection.h"
#include "../lib/endpoint.h"
#include "../lib/ethernet.h"
#include "../lib/events.h"
#include "../lib/family.h"
#include "../lib/fragment.h"
#include "../lib/parse.h"

/* What a pod of this node sends to another never passes the stack: with a pod's address it is not from that pod. */
static __always_inline int host_check_source(struct flow *flow, __u8 family)
{
	if (endpoint_lookup(&flow->tuple.source, family))
		return DROP_INVALID_SOURCE_IP;
	end_set_remote(&flow->source, &flow->tuple.source, family);
	return STEP_DONE;
}

static __always_inline int host_admit(struct __sk_buff *skb, struct flow *flow, __u8 family)
{
	const struct endpoint_entry *endpoint;
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
	endpoint = endpoint_lookup(&flow->tuple.destination, family);
	if (!endpoint)
		return DROP_UNKNOWN_L3_TARGET;
	end_set_local(&flow->destination, endpoint);
	reason = fragment_track(flow);
	if (reason)
		return reason;
	return connection_admit(skb, flow, family);
}

static __always_inline int host_to_endpoint(struct __sk_buff *skb, struct flow *flow)
{
	const struct endpoint_entry *endpoint = flow->destination.endpoint;

	trace(skb, flow, TRACE_TO_ENDPOINT);
	if (!endpoint || ethernet_to_endpoint(skb, endpoint))
		return drop(skb, flow, DROP_WRITE_ERROR, DIRECTION_INGRESS);
	metrics_count(DIRECTION_INGRESS, 0, flow->bytes);
	return bpf_redirect(endpoint->ifindex, 0);
}

static __always_inline int host_ip(struct __sk_buff *skb, struct flow *flow, __u8 family)
{
	int reason = family_is_on(family) ? host_admit(skb, flow, family) : DROP_UNSUPPORTED_L3;

	if (unlikely(reason))
		return drop(skb, flow, reason, DIRECTION_INGRESS);
	return host_to_endpoint(skb, flow);
}

SEC("tc")
int from_host(struct __sk_buff *skb)
{
	struct flow flow = flow_of(skb);

	if (skb->protocol == be16(ETH_P_IP))
		return host_ip(skb, &flow, FAMILY_IPV4);
	if (skb->protocol == be16(ETH_P_IPV6))
		return host_ip(skb, &flow, FAMILY_IPV6);
	return drop(skb, &flow, DROP_UNSUPPORTED_L3, DIRECTION_INGRESS);
}

const char LICENSE[] SEC("license") = "Dual BSD/GPL";
