/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* A packet that may be for a service, on its way to the backend. */
#pragma once

#include "fragment.h"
#include "service_path.h"

/* STEP_FORTH; STEP_IGNORE: it is for none; or a drop reason. */
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
	return STEP_FORTH;
}

static __always_inline void service_note_end(struct service_end *to, const struct ipv6_addr *address, __u8 family)
{
	struct ipv6_addr copy = *address;
	struct end end;

	end.node_id = NODE_ID_NONE;
	end_resolve(&end, &copy, family);
	to->sec_identity = end.sec_identity;
	to->cidr_identity = end.cidr_identity;
	to->revision = end.revision;
	to->node_id = end.node_id;
}

/* The ends of what the packet has become. They go by way of the draft because there they are just numbers to the
 * verifier, which else would look at all that follows for each way to come by them.
 */
__noinline int service_resolve(void)
{
	struct service_draft *draft = service_draft_here();

	if (!draft)
		return 0;
	service_note_end(&draft->source, &draft->to.source, draft->family);
	service_note_end(&draft->destination, &draft->to.destination, draft->family);
	return 0;
}

static __always_inline void service_take_end(struct end *end, const struct service_end *from,
					     const struct ipv6_addr *address, __u8 family)
{
	end->endpoint = endpoint_lookup(address, family);
	end->sec_identity = from->sec_identity;
	end->cidr_identity = from->cidr_identity;
	end->revision = from->revision;
	end->node_id = from->node_id;
}

/* The flow begins anew with what the packet has become. Nothing is left of what it said, so that the verifier looks at
 * what follows once, whatever led to it.
 */
static __always_inline int service_begin(struct __sk_buff *skb, struct flow *flow, __u8 family)
{
	const struct service_draft *draft = service_draft_here();

	service_resolve();
	*flow = flow_of(skb);
	if (!draft)
		return DROP_WRITE_ERROR;
	flow->for_service = true;
	flow->tuple.protocol = draft->packet.protocol;
	flow->l4_offset = draft->l4_offset;
	flow->family = family;
	flow->fragment = draft->fragment;
	flow->tracking = draft->tracking;
	flow->tcp_flags = draft->tcp_flags;
	flow->icmp_type = draft->icmp_type;
	flow->icmp_code = draft->icmp_code;
	flow->hop_limit = draft->hop_limit;
	service_take(flow, draft);
	service_take_end(&flow->source, &draft->source, &flow->tuple.source, family);
	service_take_end(&flow->destination, &draft->destination, &flow->tuple.destination, family);
	return STEP_DONE;
}

/* Whoever sent it, also if the backend sees the gateway. */
static __always_inline __u32 service_client_identity(void)
{
	const struct service_draft *draft = service_draft_here();

	return draft ? draft->client_identity : IDENTITY_UNKNOWN;
}
