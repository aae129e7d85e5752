/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What comes back from a backend to the gateway's port by a device of the node, not by the overlay: conntrack hears of it,
 * and it is turned. All of it is for no endpoint, so no policy is asked.
 */
#pragma once

#include "events.h"
#include "service_path.h"

/* Is the packet's event due, as trace() would say? */
static __always_inline bool service_is_news(struct service_draft *draft, struct ct_entry *entry)
{
	struct flow flow = {.entry = entry, .is_reply = IS_REPLY_YES, .reason = TRACE_REASON_REPLY};

	flow.tuple.protocol = draft->packet.protocol;
	flow.tcp_flags = draft->tcp_flags;
	flow.now_s = draft->now_s;
	ct_refresh(entry, &flow, true);
	return trace_is_due(&flow);
}

/* STEP_IGNORE unless it is of a connection that both conntrack and service_flows4/6 know; or as service_turn(). */
__noinline int service_hear(void)
{
	struct service_draft *draft = service_draft_here();
	struct ct_entry *entry;
	bool is_reply = false;

	if (!draft)
		return STEP_IGNORE;
	if (draft->hop_limit <= 1)
		return DROP_TTL_EXCEEDED;
	draft->is_news = true;
	if (draft->tracking == TRACKING_RELATED)
		return STEP_DONE;
	entry = service_connection(draft, &is_reply);
	if (entry && is_reply)
		draft->is_news = service_is_news(draft, entry);
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

/* The flow begins anew, as with service_begin(). */
static __always_inline int service_returned(struct __sk_buff *skb, struct flow *flow)
{
	struct service_draft *draft = service_draft_here();
	int step = service_return(skb);

	*flow = flow_of(skb);
	if (!draft)
		return STEP_IGNORE;
	flow->is_reply = IS_REPLY_YES;
	flow->reason = TRACE_REASON_REPLY;
	flow->for_service = true;
	flow->tuple.protocol = draft->packet.protocol;
	flow->family = draft->family;
	flow->tcp_flags = draft->tcp_flags;
	flow->icmp_type = draft->icmp_type;
	flow->icmp_code = draft->icmp_code;
	if (step == STEP_BACK)
		service_take(flow, draft);
	flow->source.sec_identity = draft->client_identity;
	end_set_remote(&flow->destination, &flow->tuple.destination, draft->family);
	if (step == STEP_BACK && draft->is_news)
		event_send(skb, flow, EVENT_TRACE, TRACE_TO_NETWORK);
	return step;
}
