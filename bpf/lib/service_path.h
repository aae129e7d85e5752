/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* How programs translate for services (service_packet.h): the packet in hand goes into the draft, and what became of it
 * comes back.
 *
 *   forth (service_forth.h): before conntrack, which knows the backend's address alone
 *   back: after it, since its entry says that there is something to turn
 */
#pragma once

#include "service_packet.h"

CONFIG(__u32, config_services);

static __always_inline void service_draft_flow(struct service_draft *draft, const struct flow *flow)
{
	draft->packet.source = flow->tuple.source;
	draft->packet.destination = flow->tuple.destination;
	draft->packet.source_port = flow->tuple.source_port;
	draft->packet.destination_port = flow->tuple.destination_port;
	draft->packet.protocol = flow->tuple.protocol;
	draft->now_s = clock_now_s();
	draft->l4_offset = flow->l4_offset;
	draft->family = flow->family;
	draft->fragment = flow->fragment;
	draft->tracking = flow->tracking;
	draft->tcp_flags = flow->tcp_flags;
	draft->hop_limit = flow->hop_limit;
}

static __always_inline void service_take(struct flow *flow, const struct service_draft *draft)
{
	flow->tuple.source = draft->to.source;
	flow->tuple.destination = draft->to.destination;
	flow->tuple.source_port = draft->to.source_port;
	flow->tuple.destination_port = draft->to.destination_port;
	flow->translated = true;
}

/* Does the packet belong to a connection that was translated, and has not been so itself? */
static __always_inline bool service_is_due(const struct flow *flow)
{
	return flow->entry && unlikely(flow->entry->flags & CT_TRANSLATED) && !flow->for_service;
}

/* Of a packet for which that is so. It may have been sent to the backend itself: then there is nothing to turn. */
static __noinline int service_back(struct __sk_buff *skb, struct flow *flow)
{
	struct service_draft *draft = service_draft_here();
	int step;

	if (!draft)
		return STEP_DONE;
	service_draft_flow(draft, flow);
	draft->where = 0;
	step = service_turn(skb);
	if (step == STEP_IGNORE || (step == DROP_NAT_NO_MAPPING && flow->is_reply != IS_REPLY_YES))
		return STEP_DONE;
	flow->for_service = true;
	if (step)
		return step;
	service_take(flow, draft);
	if (draft->to.flags & SERVICE_FLOW_SNAT)
		end_resolve(&flow->destination, &flow->tuple.destination, flow->family);
	return STEP_DONE;
}

/* The device by which an answer leaves the node, as its question came; 0: it goes by its destination. */
static __always_inline __u32 service_device(const struct flow *flow)
{
	const struct service_draft *draft = unlikely(flow->for_service) ? service_draft_here() : 0;

	return draft && draft->to.flags & SERVICE_FLOW_REPLY ? draft->to.ifindex : 0;
}
