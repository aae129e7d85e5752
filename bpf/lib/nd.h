/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Neighbour discovery of a pod (RFC 4861), answered as arp.h answers ARP. What else a pod may say of its link is
 * consumed in silence: there is nobody on it. What would steer others (advertisements of routers, redirects) is
 * forbidden.
 */
#pragma once

#include "nd_advertisement.h"

/* An address of the link alone belongs to no endpoint. The kernel of a pod uses it when it asks whether a neighbour
 * that it knows is still there: the MAC that it asked is confirmed.
 */
static __always_inline int nd_answer_link_local(struct __sk_buff *skb, const struct flow *flow,
						const struct nd_message *solicitation)
{
	struct mac_addr asked;

	if (bpf_skb_load_bytes(skb, 0, &asked, sizeof(asked)))
		return DROP_INVALID_PACKET;
	if (asked.bytes[0] & 1) /* multicast */
		asked = mac_of_host();
	return nd_send_advertisement(skb, flow, solicitation, &asked, ND_ROUTER_SOLICITED_OVERRIDE);
}

static __always_inline int nd_answer_solicitation(struct __sk_buff *skb, const struct flow *flow,
						  const struct nd_message *solicitation)
{
	const struct ethhdr *ethernet = packet_bytes(skb, 0, ETH_HLEN);
	const struct endpoint_entry *endpoint;

	if (address_is_unroutable(&flow->tuple.source, FAMILY_IPV6)) /* duplicate address detection (RFC 4862) */
		return DROP_MULTICAST_HANDLED;
	if (address_is_multicast(&solicitation->target, FAMILY_IPV6) || !ethernet)
		return DROP_INVALID_PACKET;
	if (address_is_link_local(&flow->tuple.source))
		return nd_answer_link_local(skb, flow, solicitation);
	endpoint = endpoint_lookup(&flow->tuple.source, FAMILY_IPV6);
	if (!endpoint || endpoint->ifindex != skb->ifindex)
		return DROP_INVALID_SOURCE_IP;
	if (!mac_equal(ethernet->h_source, &endpoint->mac))
		return DROP_INVALID_SOURCE_MAC;
	if (address_equal(&solicitation->target, &flow->tuple.source))
		return DROP_MULTICAST_HANDLED;
	return nd_send_advertisement(skb, flow, solicitation, &endpoint->host_mac, ND_ROUTER_SOLICITED_OVERRIDE);
}

static __always_inline bool nd_is_message(struct __sk_buff *skb, const struct flow *flow)
{
	__u8 type;

	if (flow->tuple.protocol != IPPROTO_ICMPV6 || flow->fragment)
		return false;
	if (bpf_skb_load_bytes(skb, flow->l4_offset, &type, sizeof(type)))
		return false;
	return type >= ICMP6_ROUTER_SOLICITATION && type <= ICMP6_REDIRECT;
}

/* STEP_ANSWERED, or the reason to drop it. */
__noinline int nd_handle(struct __sk_buff *skb)
{
	struct flow *flow = flow_here();
	struct nd_message message = {};

	if (!flow || bpf_skb_load_bytes(skb, flow->l4_offset, &message, ICMP_HEADER_BYTES))
		return DROP_INVALID_PACKET;
	flow->icmp_type = message.type;
	flow->icmp_code = message.code;
	if (message.type == ICMP6_ROUTER_ADVERTISEMENT || message.type == ICMP6_REDIRECT)
		return DROP_FORBIDDEN_ICMPV6;
	if (message.type != ICMP6_NEIGHBOUR_SOLICITATION)
		return DROP_MULTICAST_HANDLED;
	if (flow->hop_limit != ND_HOP_LIMIT ||
	    bpf_skb_load_bytes(skb, flow->l4_offset, &message, ND_SOLICITATION_BYTES))
		return DROP_INVALID_PACKET;
	return nd_answer_solicitation(skb, flow, &message);
}
