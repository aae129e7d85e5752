// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* What comes from outside: attached to the ingress of the node's devices. Packets for local pods are judged and
 * delivered here, as a router would; all others are none of our business and go on untouched.
 *
 *   network ──> device [from_netdev] ──> a pod of this node   (redirect_peer)
 *                                    └─> the node's own stack
 */
#include "../lib/connection.h"
#include "../lib/endpoint.h"
#include "../lib/ethernet.h"
#include "../lib/events.h"
#include "../lib/family.h"
#include "../lib/fragment.h"
#include "../lib/hop.h"
#include "../lib/nat_in.h"
#include "../lib/node.h"
#include "../lib/parse.h"
#include "../lib/path_mtu.h"

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

static __always_inline int netdev_admit(struct __sk_buff *skb, struct flow *flow, __u8 family)
{
	const struct endpoint_entry *endpoint;
	int reason;

	if (parse_ip(skb, flow, family))
		return STEP_IGNORE;
	if (unlikely(flow->tuple.protocol == (family == FAMILY_IPV4 ? IPPROTO_ICMP : IPPROTO_ICMPV6)))
		path_mtu_learn(skb, flow->l4_offset, family);
	if (!family_is_on(family))
		return STEP_IGNORE;
	endpoint = endpoint_lookup(&flow->tuple.destination, family);
	if (!endpoint) { /* what comes back to masqueraded flows */
		reason = nat_in(skb, flow, family);
		if (likely(reason))
			return reason;
		endpoint = endpoint_lookup(&flow->tuple.destination, family);
		if (!endpoint)
			return STEP_IGNORE;
	}
	end_set_local(&flow->destination, endpoint);
	reason = parse_l4(skb, flow, family);
	if (reason)
		return reason;
	reason = netdev_check_source(flow, family);
	if (reason)
		return reason;
	if (flow->hop_limit <= 1)
		return DROP_TTL_EXCEEDED;
	reason = fragment_track(flow);
	if (reason)
		return reason;
	return connection_admit(skb, flow, family);
}

static __always_inline int netdev_to_endpoint(struct __sk_buff *skb, struct flow *flow, __u8 family)
{
	const struct endpoint_entry *endpoint = flow->destination.endpoint;

	trace(skb, flow, TRACE_TO_ENDPOINT);
	if (!endpoint || hop_count_down(skb, flow->hop_limit, family) || ethernet_to_endpoint(skb, endpoint))
		return drop(skb, flow, DROP_WRITE_ERROR, DIRECTION_INGRESS);
	metrics_count(DIRECTION_INGRESS, 0, flow->bytes);
	return bpf_redirect_peer(endpoint->ifindex, 0);
}

static __always_inline int netdev_ip(struct __sk_buff *skb, struct flow *flow, __u8 family)
{
	int reason = netdev_admit(skb, flow, family);

	if (likely(reason == STEP_IGNORE))
		return TC_ACT_OK;
	if (!reason)
		return netdev_to_endpoint(skb, flow, family);
	drop(skb, flow, reason, DIRECTION_INGRESS);
	/* The stack cannot forward it either, but tells the sender; what it would quote must be what that one has sent.
	 * In numbers, for a branch makes the verifier look at all of the above twice.
	 */
	return reason == DROP_TTL_EXCEEDED ? flow->translated * TC_ACT_SHOT : TC_ACT_SHOT;
}

SEC("tc")
int from_netdev(struct __sk_buff *skb)
{
	struct flow flow = flow_of(skb);

	if (skb->pkt_type != PACKET_HOST || skb->vlan_present)
		return TC_ACT_OK;
	if (skb->protocol == be16(ETH_P_IP))
		return netdev_ip(skb, &flow, FAMILY_IPV4);
	if (skb->protocol == be16(ETH_P_IPV6))
		return netdev_ip(skb, &flow, FAMILY_IPV6);
	return TC_ACT_OK;
}

const char LICENSE[] SEC("license") = "Dual BSD/GPL";
