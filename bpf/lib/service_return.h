/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What comes back from a backend to the gateway's port by a device of the node, not by the overlay: conntrack hears of it,
 * and it is turned. All of it is for no endpoint, so no policy is asked.
 */
#pragma once

#include "events.h"
#include "service_path.h"

/* STEP_IGNORE unless it is of a connection that both conntrack and service_flows4/6 know; or as service_turn(). */
__noinline int service_hear(void)
{
	const struct service_draft *draft = service_draft_here();
	struct flow *flow = flow_here();
	struct ct_entry *entry;
	bool is_reply = false;

	if (!draft || !flow)
		return STEP_IGNORE;
	if (draft->hop_limit <= 1)
		return DROP_TTL_EXCEEDED;
	flow->now_s = draft->now_s;
	flow->is_reply = IS_REPLY_YES;
	flow->reason = TRACE_REASON_REPLY;
	if (draft->tracking == TRACKING_RELATED)
		return STEP_DONE;
	entry = service_connection(draft, &is_reply);
	if (entry && is_reply) {
		ct_refresh(entry, flow, true);
		flow->no_news = aggregation_covers(entry, flow, true);
		flow->is_last = ct_is_last(entry, flow);
	}
	return STEP_DONE;
}

/* STEP_BACK; STEP_IGNORE: the stack shall say what it thinks of it; or a drop reason. The packet is in the draft. */
__noinline int service_return(struct __sk_buff *skb)
{
	int step = service_check_client();

	if (!step)
		step = service_hear();
	if (!step)
		step = service_turn(skb);
	return step ? step : STEP_BACK;
}

/* The same, and the flow is of what the packet has become. */
__noinline int service_returned(struct __sk_buff *skb)
{
	const struct service_draft *draft = service_draft_here();
	struct flow *flow = flow_here();
	int step = service_return(skb);

	if (!draft || !flow)
		return STEP_IGNORE;
	flow->for_service = true;
	if (step == STEP_BACK) {
		service_take(flow, draft);
		service_end(flow);
	}
	flow->source.sec_identity = draft->client_identity;
	end_set_remote(&flow->destination, &flow->tuple.destination, draft->family);
	if (step == STEP_BACK)
		trace(skb, flow, TRACE_TO_NETWORK);
	return step;
}
