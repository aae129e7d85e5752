/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* A packet that may be for a service, on its way to the backend. */
#pragma once

#include "fragment.h"
#include "service_path.h"

/* As service_translate(); the ends are known anew. */
static __noinline int service_forth(struct __sk_buff *skb, struct flow *flow, __u32 where)
{
	struct service_draft *draft = service_draft_here();
	int step;

	if (!draft)
		return STEP_IGNORE;
	service_draft_flow(draft, flow);
	draft->where = where;
	draft->ifindex = where & SERVICE_FROM_NETWORK ? skb->ifindex : 0;
	step = unlikely(flow->tracking == TRACKING_RELATED) ? service_turn_error(skb) : service_translate(skb);
	if (step == STEP_IGNORE)
		return step;
	flow->for_service = true;
	if (step)
		return step;
	if (where & SERVICE_FROM_NETWORK && flow->fragment == FRAGMENT_FIRST)
		fragment_remember(flow);
	service_take(flow, draft);
	end_resolve(&flow->destination, &flow->tuple.destination, flow->family);
	if (draft->to.flags & SERVICE_FLOW_SNAT || where & SERVICE_FROM_NETWORK)
		end_resolve(&flow->source, &flow->tuple.source, flow->family);
	return STEP_DONE;
}

/* Whoever sent it, also if the backend sees the gateway. */
static __always_inline __u32 service_client_identity(void)
{
	const struct service_draft *draft = service_draft_here();

	return draft ? draft->client_identity : IDENTITY_UNKNOWN;
}
