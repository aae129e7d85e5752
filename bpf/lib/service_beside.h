/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* A pod's connection to a backend itself, from the very port of a translated one of it to the same backend. Conntrack and
 * the backend would take the two for one, so this one gets another port, as if it were for a service that has the
 * backend's own address:
 *
 *   pod, its port ──> service      becomes      pod, its port ──> backend        the one that was there
 *   pod, its port ──> backend      becomes      pod, another port ──> backend    beside it
 *
 * It keeps that port when the other is over.
 */
#pragma once

#include "connection.h"
#include "fragment.h"
#include "service_path.h"

/* Datagrams from another port all of a sudden may not be known to the backend: while they flow, the entry stays by which they
 * are told. What is in the middle of a connection is told without.
 */
__noinline int service_beside_stays(void)
{
	const struct service_draft *draft = service_draft_here();
	struct ct_entry *entry;
	bool is_reply;

	if (!draft || l4_has_connections(draft->packet.protocol))
		return 0;
	entry = service_connection(draft, &is_reply);
	if (entry && entry->expires_s < draft->now_s + CT_LIFETIME_OTHER_S)
		entry->expires_s = draft->now_s + CT_LIFETIME_OTHER_S;
	return 0;
}

/* What does it become? As service_decide(); STEP_IGNORE: it is of a connection that stands alone, or the answer of a backend
 * that has spoken first, as far as conntrack remembers.
 */
__noinline int service_decide_beside(void)
{
	struct service_draft *draft = service_draft_here();
	struct service_flow_entry *known;

	if (!draft)
		return DROP_NAT_NO_MAPPING;
	known = service_flow_find(&draft->packet, draft->family);
	if (known && known->flags & SERVICE_FLOW_REPLY)
		return STEP_IGNORE;
	if (known) {
		draft->to = *known;
		if (likely(known->used_s == draft->now_s))
			return STEP_DONE;
		known->used_s = draft->now_s;
		return STEP_NEW;
	}
	if (!service_opens(draft))
		return STEP_IGNORE;
	if (draft->fragment == FRAGMENT_LATER)
		return DROP_FRAGMENT_NOT_FOUND;
	draft->to.destination = draft->packet.destination;
	draft->to.destination_port = draft->packet.destination_port;
	draft->to.backend_id = draft->to.service_id = draft->to.flags = draft->to.ifindex = 0;
	return service_draft_other_port();
}

/* After STEP_BESIDE: STEP_FORTH, and it goes on with service_begin(); STEP_IGNORE: it is beside none; or a drop reason. */
__noinline int service_beside(struct __sk_buff *skb)
{
	struct service_draft *draft = service_draft_here();
	struct flow *flow = flow_here();
	int step;

	if (!draft || !flow)
		return DROP_NAT_NO_MAPPING;
	service_draft_flow(draft, flow);
	draft->where = draft->ifindex = 0;
	step = service_decide_beside();
	if (step == STEP_NEEDS_PORT)
		step = service_take_port(skb);
	if (step == STEP_NEW) {
		service_beside_stays();
		step = service_keep();
	}
	if (!step)
		step = service_rewrite(skb);
	if (step)
		return step == STEP_TAKEN ? DROP_NAT_NO_MAPPING : step;
	return STEP_FORTH;
}

/* After STEP_IGNORE: connection_admit(). */
__noinline int service_beside_none(struct __sk_buff *skb)
{
	struct flow *flow = flow_here();

	return flow ? connection_admit(skb, flow, flow->family) : DROP_CT_INSERT_FAILED;
}

/* What service_back() has turned: is it a client's own, to a backend? */
static __always_inline bool service_goes_forth(void)
{
	const struct service_draft *draft = service_draft_here();

	return draft && !(draft->to.flags & SERVICE_FLOW_REPLY);
}
