/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The packet becomes what the draft says, and so does the one that an ICMP error quotes. */
#pragma once

#include "nat_rewrite.h"
#include "service_flow.h"

static __always_inline struct nat_packet service_packet_of(const struct service_draft *draft)
{
	return (struct nat_packet){draft->l4_offset, draft->packet.protocol, draft->family, draft->fragment};
}

/* The packet becomes what the draft says, as far as that differs. */
__noinline int service_rewrite(struct __sk_buff *skb)
{
	const struct service_draft *draft = service_draft_here();
	const struct service_flow6_key *from;
	const struct service_flow_entry *to;
	struct nat_packet packet;
	int reason = STEP_DONE;

	if (!draft)
		return DROP_WRITE_ERROR;
	from = &draft->packet;
	to = &draft->to;
	packet = service_packet_of(draft);
	if (to->destination_port != from->destination_port || !address_equal(&to->destination, &from->destination))
		reason = nat_rewrite_end(skb, packet, NAT_DESTINATION, &from->destination, from->destination_port,
					 &to->destination, to->destination_port);
	if (!reason && (to->source_port != from->source_port || !address_equal(&to->source, &from->source)))
		reason = nat_rewrite_end(skb, packet, NAT_SOURCE, &from->source, from->source_port, &to->source,
					 to->source_port);
	return reason;
}

/* In the packet that an error quotes; `back` is its tuple turned round. */
__noinline int service_rewrite_quoted(struct __sk_buff *skb, __u32 quoted_l4_offset)
{
	const struct service_draft *draft = service_draft_here();
	const struct service_flow6_key *back;
	const struct service_flow_entry *to;
	struct nat_packet packet;
	int failed;

	if (!draft)
		return DROP_WRITE_ERROR;
	back = &draft->back;
	to = &draft->to;
	packet = service_packet_of(draft);
	failed = nat_rewrite_quoted_end(skb, packet, back->protocol, quoted_l4_offset, NAT_SOURCE, &back->destination,
					back->destination_port, &to->destination, to->destination_port);
	failed |= nat_rewrite_quoted_end(skb, packet, back->protocol, quoted_l4_offset, NAT_DESTINATION, &back->source,
					 back->source_port, &to->source, to->source_port);
	return failed ? DROP_WRITE_ERROR : STEP_DONE;
}
