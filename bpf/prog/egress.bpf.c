// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* What leaves the node: attached to the egress of its devices. Pods' packets to the outside get the
 * node's address there; the node's own go on untouched, unless a pod has the same port to the same remote end, they
 * answer for a service, or are for one that has nobody to take them.
 *
 *   node's stack ──> device [to_netdev] ──> network
 *
 * It reports only what it drops: from_container has reported the packet before. What endpoints send that are processes of
 * the node (process.h) is judged and reported here.
 */
#include "../lib/conntrack.h"
#include "../lib/endpoint.h"
#include "../lib/events.h"
#include "../lib/family.h"
#include "../lib/fragment.h"
#include "../lib/masquerade.h"
#include "../lib/nat_in.h"
#include "../lib/parse.h"
#include "../lib/process_out.h"
#include "../lib/refuse.h"
#include "../lib/service_own.h"

__noinline int egress_drop(struct __sk_buff *skb, __u32 reason)
{
	struct flow *flow = flow_here();

	if (!flow)
		return TC_ACT_SHOT;
	end_resolve(&flow->source, &flow->tuple.source, flow->family);
	end_set_remote(&flow->destination, &flow->tuple.destination, flow->family);
	return drop(skb, reason, DIRECTION_EGRESS);
}

/* The node's own packet for a service that cannot take it: its socket is told as if by the network. */
static __noinline int egress_refuse(struct __sk_buff *skb, __u8 family, __u8 reason)
{
	int answer = STEP_DONE;

	egress_drop(skb, reason);
	if (reason == DROP_SERVICE_NO_BACKEND)
		answer = refuse_service(skb, family);
	return answer == STEP_ANSWERED ? bpf_redirect(skb->ifindex, BPF_F_INGRESS) : TC_ACT_SHOT;
}

static __always_inline int egress_own(struct __sk_buff *skb, struct flow *flow, __u8 family)
{
	int reason = service_check_own(skb, flow, family);

	return likely(!reason) ? masquerade_own(skb, flow, family) : reason;
}

static __always_inline int egress_ip(struct __sk_buff *skb, struct flow *flow, __u8 family)
{
	int reason;

	/* Nothing but whole headers comes here from pods: from_container sees to that. */
	if (!family_is_on(family) || parse_ip(skb, flow, family) || parse_l4(skb, flow, family))
		return TC_ACT_OK;
	if (likely(!endpoint_lookup(&flow->tuple.source, family)))
		reason = egress_own(skb, flow, family);
	else if (!config_masquerade)
		return TC_ACT_OK;
	else if (flow->tracking == TRACKING_RELATED)
		reason = masquerade_error(skb, true);
	else
		reason = masquerade_endpoint(skb);
	if (unlikely(reason == STEP_UNMAPPED))
		reason = masquerade_open(skb);
	if (likely(reason <= 0))
		return TC_ACT_OK;
	return flow->for_service ? egress_refuse(skb, family, reason) : egress_drop(skb, reason);
}

SEC("tc")
int to_netdev(struct __sk_buff *skb)
{
	struct flow *flow = flow_here();

	if (process_may_be(skb) && process_out(skb))
		return TC_ACT_SHOT;
	if (!flow || !(config_masquerade || config_services) || skb->vlan_present)
		return TC_ACT_OK;
	flow_begin(flow, skb);
	if (skb->protocol == be16(ETH_P_IP))
		return egress_ip(skb, flow, FAMILY_IPV4);
	if (skb->protocol == be16(ETH_P_IPV6))
		return egress_ip(skb, flow, FAMILY_IPV6);
	return TC_ACT_OK;
}

const char LICENSE[] SEC("license") = "Dual BSD/GPL";
