/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Packets to services get the address of a backend, and those that come back that of the frontend again.
 *
 *   client ──> frontend      becomes      client or gateway ──> backend      service_translate()
 *   backend ──> client or gateway         becomes      frontend ──> client    service_turn()
 *
 * The backend sees the gateway's address (SNAT) where its answer would else not come back here: if the client came from
 * outside and the backend is on another node, or if client and backend are one pod. With DSR it does not come back here:
 * dsr.h tells the backend's node what to answer as.
 *
 * All of it works on this CPU's draft (maps/service_draft.h), in functions that are not static, so that they are
 * verified once and use little of their callers' stack. service_path.h is how programs call them.
 */
#pragma once

#include "service_decide.h"
#include "service_error.h"
#include "service_keep.h"
#include "service_rewrite.h"

/* What a packet of a backend becomes; 0: nothing is known of it. */
__noinline int service_recall(void)
{
	struct service_draft *draft = service_draft_here();
	struct service_flow_entry *found;

	if (!draft)
		return 0;
	found = service_flow_find(&draft->packet, draft->family);
	if (!found)
		return 0;
	if (unlikely(found->used_s != draft->now_s))
		found->used_s = draft->now_s;
	draft->to = *found;
	return 1;
}

/* A packet of a backend; the caller knows that it is one. */
__noinline int service_turn(struct __sk_buff *skb)
{
	struct service_draft *draft = service_draft_here();

	if (!draft)
		return DROP_NAT_NO_MAPPING;
	if (unlikely(draft->tracking == TRACKING_RELATED))
		return service_turn_error(skb);
	return service_recall() ? service_rewrite(skb) : DROP_NAT_NO_MAPPING;
}

/* The packet is for a service: what does it become, and is that kept? STEP_DONE, or a drop reason. */
static __always_inline int service_settle(PACKET_CONTEXT *context)
{
	const struct service_draft *draft = service_draft_here();
	int step = STEP_DONE;

	if (!draft)
		return DROP_SERVICE_NO_BACKEND;
	if (draft->where & SERVICE_FROM_NETWORK) {
		step = service_check_client();
		if (!step)
			step = service_check_access();
	}
	if (step)
		return step;
	step = service_decide();
	if (step == STEP_NEEDS_PORT)
		step = service_take_port(context);
	if (step != STEP_NEW)
		return step;
	step = service_keep();
	if (likely(step != STEP_TAKEN))
		return step;
	step = service_draft_other_port();
	if (step == STEP_NEEDS_PORT)
		step = service_take_port(context);
	if (step == STEP_NEW)
		step = service_keep();
	return step == STEP_TAKEN ? DROP_NAT_NO_MAPPING : step;
}

/* A packet that may be for a service: STEP_DONE, and the draft says what it became; STEP_IGNORE: it is for none; or a
 * drop reason.
 */
__noinline int service_translate(struct __sk_buff *skb)
{
	int step;

	if (!service_find())
		return service_miss();
	step = service_settle((void *)skb); /* where PACKET_CONTEXT is another this is not called */
	return step ? step : service_rewrite(skb);
}
