/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What the sender of a packet is told that cannot go on: the packet becomes the answer, and goes back. That it was too
 * big, by ICMP (icmp_error.h), or that nobody is there, by TCP's reset (reset.h) or by ICMP: connecting to a service
 * without backends fails at once.
 */
#pragma once

#include "icmp_error.h"
#include "reset.h"
#include "service_packet.h"

/* An error about a packet that was translated tells its sender of the one that it has sent. */
static __always_inline void refuse_turn(struct __sk_buff *skb, __u8 family)
{
	struct service_draft *draft = service_draft_here();

	if (!draft)
		return;
	draft->packet.source = draft->to.destination;
	draft->packet.destination = draft->to.source;
	draft->packet.source_port = draft->packet.destination_port = 0;
	draft->packet.protocol = icmp_protocol(family);
	draft->where = 0;
	draft->fragment = FRAGMENT_NONE;
	draft->l4_offset = ETH_HLEN + (family == FAMILY_IPV4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr));
	service_turn_error(skb);
}

static __always_inline int refuse_too_big(struct __sk_buff *skb, __u32 mtu_bytes, __u8 family, __u32 for_service)
{
	int answer = icmp_error_too_big(skb, mtu_bytes, family);

	if (for_service && answer == STEP_ANSWERED)
		refuse_turn(skb, family);
	return answer;
}

static __always_inline bool refuse_quietly(void)
{
	const struct service_draft *draft = service_draft_here();

	return draft && draft->where & SERVICE_QUIET;
}

/* The packet is in the draft as it was sent. */
static __always_inline int refuse_service(struct __sk_buff *skb, __u8 family)
{
	const struct service_draft *draft = service_draft_here();

	if (draft && draft->packet.protocol == IPPROTO_TCP)
		return family == FAMILY_IPV4 ? reset_answer_ipv4(skb) : reset_answer_ipv6(skb);
	return icmp_error_unreachable(skb, family);
}

/* STEP_ANSWERED if the packet has become the answer. Not static, so that it is verified once, as event_send(). */
__noinline int refuse(struct __sk_buff *skb, __u32 reason, __u32 mtu_bytes, __u32 for_service)
{
	__u8 family = skb->protocol == be16(ETH_P_IP) ? FAMILY_IPV4 : FAMILY_IPV6;

	if (reason == DROP_FRAGMENTATION_NEEDED)
		return refuse_too_big(skb, mtu_bytes, family, for_service);
	if (reason != DROP_SERVICE_NO_BACKEND || refuse_quietly())
		return STEP_DONE;
	return refuse_service(skb, family);
}
