/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* ICMP errors about packets that were translated. */
#pragma once

#include "icmp.h"
#include "service_frontend.h"
#include "service_rewrite.h"

/* The tuple that the error quotes goes into `back`, turned round; where the quoted transport header is, or 0. */
__noinline int service_read_quoted(struct __sk_buff *skb)
{
	struct service_draft *draft = service_draft_here();
	struct tuple quoted = {};
	int quoted_l4_offset;

	if (!draft)
		return 0;
	quoted_l4_offset = icmp_quoted(skb, draft->l4_offset, draft->family, &quoted);
	if (!quoted_l4_offset || !address_equal(&quoted.source, &draft->packet.destination))
		return 0;
	draft->back.source = quoted.destination;
	draft->back.destination = quoted.source;
	draft->back.source_port = quoted.destination_port;
	draft->back.destination_port = quoted.source_port;
	draft->back.protocol = quoted.protocol;
	return quoted_l4_offset;
}

/* What the packets become with which the error goes; 0: it is about no service. */
__noinline int service_find_quoted(void)
{
	struct service_draft *draft = service_draft_here();
	const struct service_flow_entry *found;

	if (!draft || (draft->where & SERVICE_FROM_NETWORK && service_check_client()))
		return 0;
	found = service_flow_find(&draft->back, draft->family);
	if (!found)
		return 0;
	draft->to = *found;
	return 1;
}

/* An ICMP error goes with the packets that come from where the quoted one was going to, and becomes what they become.
 * STEP_DONE, STEP_IGNORE or a drop reason.
 */
__noinline int service_turn_error(struct __sk_buff *skb)
{
	struct service_draft *draft = service_draft_here();
	int quoted_l4_offset = service_read_quoted(skb);

	if (!draft || !quoted_l4_offset || !service_find_quoted())
		return STEP_IGNORE;
	if (service_rewrite_quoted(skb, quoted_l4_offset))
		return DROP_WRITE_ERROR;
	if (!address_equal(&draft->back.source, &draft->packet.source)) /* a router between has said it */
		draft->to.source = draft->packet.source;
	draft->to.source_port = draft->packet.source_port;
	draft->to.destination_port = draft->packet.destination_port;
	return service_rewrite(skb);
}
