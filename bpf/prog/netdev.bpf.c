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
#include "../lib/nat_in.h"
#include "../lib/parse.h"

/* Nobody outside has an address of this node or of its pods. */
static __always_inline int netdev_check_source(struct flow *flow, __u8 family)
{
	if (endpoint_lookup(&flow->tuple.source, family))
		return DROP_INVALID_SOURCE_IP;
	end_set_remote(&flow->source, &flow->tuple.source, family);
	return flow->source.sec_identity == IDENTITY_HOST ? DROP_INVALID_SOURCE_IP : STEP_DONE;
}

static __always_inline int netdev_admit(struct __sk_buff *skb, struct flow *flow, __u8 family)
{
	const struct endpoint_entry *endpoint;
	int reason;

	if (parse_ip(skb, flow, family))
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

static __always_inline int netdev_count_down(struct __sk_buff *skb, const struct flow *flow, __u8 family)
{
	struct iphdr *ip;
	__u8 hop_limit = flow->hop_limit - 1;
	__u32 check;

	if (family == FAMILY_IPV6) /* the header has no checksum of its own: that of the whole packet must follow */
		return bpf_skb_store_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, hop_limit), &hop_limit,
					   sizeof(hop_limit), BPF_F_RECOMPUTE_CSUM);
	ip = packet_bytes(skb, ETH_HLEN, sizeof(*ip));
	if (!ip)
		return DROP_WRITE_ERROR;
	check = ip->check + be16(0x0100); /* RFC 1141 */
	ip->check = check + (check >= 0xffff);
	ip->ttl = hop_limit;
	return 0;
}

static __always_inline int netdev_to_endpoint(struct __sk_buff *skb, struct flow *flow, __u8 family)
{
	const struct endpoint_entry *endpoint = flow->destination.endpoint;

	trace(skb, flow, TRACE_TO_ENDPOINT);
	if (!endpoint || netdev_count_down(skb, flow, family) || ethernet_to_endpoint(skb, endpoint))
		return drop(skb, flow, DROP_WRITE_ERROR, DIRECTION_INGRESS);
	metrics_count(DIRECTION_INGRESS, 0, flow->bytes);
	return bpf_redirect_peer(endpoint->ifindex, 0);
}

static __always_inline int netdev_ip(struct __sk_buff *skb, struct flow *flow, __u8 family)
{
	int reason = family_is_on(family) ? netdev_admit(skb, flow, family) : STEP_IGNORE;

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
