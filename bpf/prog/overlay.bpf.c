// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* What other nodes send through the overlay: attached to the ingress of the node's VXLAN device.
 *
 *   another node ──> VXLAN device [from_overlay] ──> a pod of this node      (redirect_peer)
 *                                                ├─> the node's own stack    (through the gateway device)
 *                                                └─> a client outside        (the answer of a backend)
 *
 * The source's identity is the VNI. Nothing else is forwarded: what is for nobody here is dropped, so that two nodes that
 * disagree on where a pod is make no loop, and the hop limit stays as it is.
 */
#include "../lib/announced.h"
#include "../lib/connection.h"
#include "../lib/dsr_in.h"
#include "../lib/endpoint.h"
#include "../lib/ethernet.h"
#include "../lib/events.h"
#include "../lib/family.h"
#include "../lib/forward.h"
#include "../lib/fragment.h"
#include "../lib/node.h"
#include "../lib/parse.h"
#include "../lib/service_forth.h"
#include "../lib/vni.h"

CONFIG(__u32, config_host_ifindex);

/* The VNI of the packet; 0 if it came through no tunnel. Only the outer family's flag fits, which nothing tells. */
static __noinline __u32 overlay_vni(struct __sk_buff *skb)
{
	struct bpf_tunnel_key key = {};

	if (bpf_skb_get_tunnel_key(skb, &key, TUNNEL_KEY_BYTES, 0) &&
	    bpf_skb_get_tunnel_key(skb, &key, TUNNEL_KEY_BYTES, BPF_F_TUNINFO_IPV6))
		return 0;
	return key.tunnel_id;
}

/* Is the sender of the outer packet a node of the cluster? */
__noinline int overlay_from_node(struct __sk_buff *skb)
{
	struct bpf_tunnel_key key = {};
	struct ipv6_addr sender;

	if (!bpf_skb_get_tunnel_key(skb, &key, TUNNEL_KEY_BYTES, 0)) {
		ipv4_mapped(&sender, be32(key.remote_ipv4));
		return node_has_address(&sender, FAMILY_IPV4);
	}
	if (bpf_skb_get_tunnel_key(skb, &key, TUNNEL_KEY_BYTES, BPF_F_TUNINFO_IPV6))
		return 0;
	__builtin_memcpy(&sender, key.remote_ipv6, sizeof(sender));
	return node_has_address(&sender, FAMILY_IPV6);
}

/* The address is looked at by connection_judge(), when it matters. */
static __always_inline int overlay_check_source(struct __sk_buff *skb, struct flow *flow, __u8 family)
{
	__u32 vni = overlay_vni(skb);

	if (!vni_is_identity(vni))
		return DROP_INVALID_VNI;
	if (endpoint_lookup(&flow->tuple.source, family))
		return DROP_INVALID_SOURCE_IP;
	end_set_announced(&flow->source, vni == IDENTITY_HOST ? IDENTITY_REMOTE_NODE : vni);
	return STEP_DONE;
}

/* What is for the node goes past no policy, so that its source is looked at now. */
static __always_inline int overlay_resolve_destination(struct flow *flow, __u8 family)
{
	end_resolve(&flow->destination, &flow->tuple.destination, family);
	if (likely(end_is_local(&flow->destination)))
		return STEP_DONE;
	if (flow->destination.sec_identity != IDENTITY_HOST)
		return DROP_UNKNOWN_L3_TARGET;
	return end_complete_source();
}

/* The answer of a backend. */
static __always_inline int overlay_answer(struct __sk_buff *skb)
{
	int step = service_back(skb);

	return step == STEP_IGNORE ? STEP_DONE : step;
}

static __always_inline int overlay_admit(struct __sk_buff *skb, struct flow *flow, __u8 family)
{
	int reason = parse_ip(skb, flow, family);

	if (reason)
		return reason;
	reason = parse_l4(skb, flow, family);
	if (reason)
		return reason;
	reason = overlay_check_source(skb, flow, family);
	if (reason)
		return reason;
	reason = overlay_resolve_destination(flow, family);
	if (reason)
		return reason;
	reason = fragment_track(flow);
	if (!reason && end_is_local(&flow->destination) && dsr_may_be(flow, family))
		reason = dsr_take(skb, overlay_from_node(skb));
	if (reason)
		return reason;
	if (config_services && unlikely(!end_is_local(&flow->destination)) && flow->tracking != TRACKING_RELATED) {
		reason = service_forth(skb, SERVICE_TO_OWN_NODE | SERVICE_FROM_OVERLAY);
		if (reason != STEP_IGNORE)
			return reason;
	}
	reason = connection_admit(skb, flow, family);
	return !reason && service_is_due(flow) ? overlay_answer(skb) : reason;
}

/* TC_ACT_SHOT if the packet could not be written. */
static __always_inline int overlay_to_endpoint(struct __sk_buff *skb, const struct end *to)
{
	if (ethernet_to_endpoint(skb, &to->mac, &to->host_mac))
		return TC_ACT_SHOT;
	packet_take(skb);
	return bpf_redirect_peer(to->ifindex, 0);
}

static __always_inline int overlay_to_host(struct __sk_buff *skb)
{
	if (ethernet_to_host(skb))
		return TC_ACT_SHOT;
	return bpf_redirect(config_host_ifindex, BPF_F_INGRESS);
}

/* An answer to a client that came to this node from outside. */
__noinline int overlay_to_client(struct __sk_buff *skb)
{
	const struct flow *flow = flow_here();
	int action;

	if (!flow || flow->hop_limit <= 1)
		return drop(skb, DROP_TTL_EXCEEDED, DIRECTION_INGRESS);
	trace(skb, flow, TRACE_TO_NETWORK);
	action = service_deliver(skb);
	return likely(action != TC_ACT_SHOT) ? action : drop(skb, DROP_WRITE_ERROR, DIRECTION_INGRESS);
}

/* To the pod of this node behind a HostPort; the source is who the other node says. */
static __always_inline int overlay_forth(struct __sk_buff *skb, struct flow *flow, __u8 family)
{
	__u32 sec_identity = flow->source.sec_identity;
	int action, reason = service_begin(skb);

	flow->source.sec_identity = sec_identity;
	if (!reason)
		reason =
		    end_is_local(&flow->destination) ? connection_admit(skb, flow, family) : DROP_UNKNOWN_L3_TARGET;
	if (reason)
		return drop(skb, reason, DIRECTION_INGRESS);
	service_end(flow);
	trace(skb, flow, TRACE_TO_ENDPOINT);
	metrics_count(DIRECTION_INGRESS, 0, flow->bytes);
	action = overlay_to_endpoint(skb, &flow->destination);
	return likely(action != TC_ACT_SHOT) ? action : drop(skb, DROP_WRITE_ERROR, DIRECTION_INGRESS);
}

static __always_inline int overlay_deliver(struct __sk_buff *skb, const struct flow *flow)
{
	bool is_local = end_is_local(&flow->destination);
	int action;

	trace(skb, flow, is_local ? TRACE_TO_ENDPOINT : TRACE_TO_HOST);
	metrics_count(DIRECTION_INGRESS, 0, flow->bytes);
	action = is_local ? overlay_to_endpoint(skb, &flow->destination) : overlay_to_host(skb);
	return likely(action != TC_ACT_SHOT) ? action : drop(skb, DROP_WRITE_ERROR, DIRECTION_INGRESS);
}

/* STEP_DONE and the action; or STEP_FORTH: it goes on with overlay_forth(). */
static __always_inline int overlay_ip(struct __sk_buff *skb, struct flow *flow, __u8 family, int *action)
{
	int reason = family_is_on(family) ? overlay_admit(skb, flow, family) : DROP_UNSUPPORTED_L3;

	if (unlikely(reason == STEP_FORTH))
		return reason;
	if (unlikely(reason))
		*action = drop(skb, reason, DIRECTION_INGRESS);
	else if (unlikely(service_has_left(flow)))
		*action = overlay_to_client(skb);
	else
		*action = overlay_deliver(skb, flow);
	return STEP_DONE;
}

SEC("tc")
int from_overlay(struct __sk_buff *skb)
{
	struct flow *flow = flow_here();
	int action, step;

	if (!flow)
		return TC_ACT_SHOT;
	flow_begin(flow, skb);
	if (unlikely(skb->vlan_present))
		return drop(skb, DROP_VLAN_FILTERED, DIRECTION_INGRESS);
	if (skb->protocol == be16(ETH_P_IP))
		step = overlay_ip(skb, flow, FAMILY_IPV4, &action);
	else if (skb->protocol == be16(ETH_P_IPV6))
		step = overlay_ip(skb, flow, FAMILY_IPV6, &action);
	else
		return drop(skb, DROP_UNSUPPORTED_L3, DIRECTION_INGRESS);
	if (likely(!step))
		return action;
	return skb->protocol == be16(ETH_P_IP) ? overlay_forth(skb, flow, FAMILY_IPV4)
					       : overlay_forth(skb, flow, FAMILY_IPV6);
}

const char LICENSE[] SEC("license") = "Dual BSD/GPL";
