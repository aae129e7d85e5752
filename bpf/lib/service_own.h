/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What the node itself sends to services although no socket was translated: to one without backends, or to a port that
 * no frontend has. It would go where the node's routes lead; instead its sender is told at once.
 */
#pragma once

#include "service_path.h"

/* The packet is in the draft. STEP_IGNORE, or a drop reason. */
__noinline int service_own(void)
{
	struct service_draft *draft = service_draft_here();
	const struct service_entry *service;
	struct ipv6_addr address;

	if (!draft)
		return STEP_IGNORE;
	address = draft->packet.destination;
	service = service_lookup(&address, draft->packet.destination_port, draft->packet.protocol, draft->family);
	if (!service)
		return service_miss();
	draft->to.service_id = service->service_id;
	return service->inside.slots ? STEP_IGNORE : DROP_SERVICE_NO_BACKEND;
}

/* The same of any packet of the node; STEP_DONE if it may go. */
static __always_inline int service_check_own(struct __sk_buff *skb, struct flow *flow, __u8 family)
{
	struct ipv6_addr address = flow->tuple.destination;
	int reason;

	if (!config_services || config_beside_kube_proxy || !skb->sk ||
	    likely(!service_address_lookup(&address, family)))
		return STEP_DONE;
	service_draft_fill(flow, 0);
	reason = service_own();
	if (reason <= 0)
		return STEP_DONE;
	flow->for_service = true;
	return reason;
}
