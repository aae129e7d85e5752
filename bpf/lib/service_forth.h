/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* A packet that may be for a service, on its way to the backend. */
#pragma once

#include "fragment.h"
#include "service_path.h"

/* STEP_FORTH; STEP_IGNORE: it is for none; or a drop reason. */
__noinline int service_forth(struct __sk_buff *skb, __u32 where)
{
	struct service_draft *draft = service_draft_here();
	struct flow *flow = flow_here();
	int step;

	if (!draft || !flow)
		return STEP_IGNORE;
	service_draft_flow(draft, flow);
	draft->where = where;
	draft->ifindex = where & (SERVICE_FROM_NETWORK | SERVICE_FROM_OVERLAY) ? skb->ifindex : 0;
	step = unlikely(flow->tracking == TRACKING_RELATED) ? service_turn_error(skb) : service_translate(skb);
	if (step == STEP_IGNORE)
		return step;
	flow->for_service = true;
	if (step)
		return step;
	if (where & SERVICE_FROM_NETWORK && flow->fragment == FRAGMENT_FIRST)
		fragment_remember();
	return STEP_FORTH;
}

/* The flow begins anew with what the packet has become: 0 or a drop reason. */
__noinline int service_begin(struct __sk_buff *skb)
{
	const struct service_draft *draft = service_draft_here();
	struct flow *flow = flow_here();

	if (!draft || !flow)
		return DROP_WRITE_ERROR;
	flow_begin(flow, skb);
	flow->for_service = true;
	flow->tuple.protocol = draft->packet.protocol;
	flow->l4_offset = draft->l4_offset;
	flow->family = draft->family;
	flow->fragment = draft->fragment;
	flow->tracking = draft->tracking;
	service_take_tcp(flow, draft);
	flow->icmp_type = draft->icmp_type;
	flow->icmp_code = draft->icmp_code;
	flow->hop_limit = draft->hop_limit;
	service_take(flow, draft);
	end_resolve(&flow->source, &flow->tuple.source, draft->family);
	end_resolve(&flow->destination, &flow->tuple.destination, draft->family);
	return STEP_DONE;
}

/* Whoever sent it, also if the backend sees the gateway. */
static __always_inline __u32 service_client_identity(void)
{
	const struct service_draft *draft = service_draft_here();

	return draft ? draft->client_identity : IDENTITY_UNKNOWN;
}
