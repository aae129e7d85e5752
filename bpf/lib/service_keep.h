/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What a connection's packets become is kept, with all that goes with it: what comes back, a port of the gateway. */
#pragma once

#include "service_frontend.h"

/* What goes the other way than `back` is not translated any more: the connection begins anew with its next packet. */
static __always_inline void service_displace(const struct service_draft *draft, const struct service_flow_entry *back)
{
	struct service_flow6_key forth = {.protocol = draft->packet.protocol};

	forth.source = back->destination;
	forth.destination = back->source;
	forth.source_port = back->destination_port;
	forth.destination_port = back->source_port;
	service_flow_remove(&forth, draft->family);
}

/* Has another connection what this one's packets would become? It would get the answers. Of datagrams that can get no other
 * port (service_draft_other_port()), the newest flow gets them: they have no end that could be seen.
 */
static __always_inline bool service_is_taken(const struct service_draft *draft)
{
	const struct service_flow_entry *found;
	const struct ct_entry *connection;
	struct tuple tuple = {.protocol = draft->packet.protocol};
	bool is_reply;

	tuple.source = draft->to.source;
	tuple.destination = draft->to.destination;
	tuple.source_port = draft->to.source_port;
	tuple.destination_port = draft->to.destination_port;
	connection = ct_lookup(&tuple, draft->family, draft->now_s, &is_reply);
	if (likely(!connection || connection->state >= CT_STATE_CLOSING))
		return false;
	if (!(connection->flags & CT_TRANSLATED))
		return !is_reply;
	found = service_flow_find(&draft->back, draft->family);
	if (!found || service_flow_same(found, &draft->back_to))
		return false;
	if (draft->packet.protocol != IPPROTO_UDP || !draft->to.flags)
		return true;
	service_displace(draft, found);
	return false;
}

/* A backend in the node's own network namespace answers as what the client has asked. */
static __always_inline void service_mark_host(const struct service_draft *draft)
{
	struct nat_entry entry = {.port = draft->packet.destination_port, .flags = NAT_SERVICE};
	struct nat6_key key = {.direction = NAT_OUT, .protocol = draft->packet.protocol};

	entry.address = draft->packet.destination;
	entry.used_s = draft->now_s;
	key.local = draft->to.destination;
	key.local_port = draft->to.destination_port;
	key.remote = draft->packet.source;
	key.remote_port = draft->packet.source_port;
	nat_remove(&key, draft->family);
	nat_add(&key, &entry, draft->family);
}

/* Is the port of the gateway still this connection's? */
static __always_inline bool service_keep_port(const struct service_draft *draft)
{
	struct nat6_key key = {.direction = NAT_IN, .protocol = draft->packet.protocol};
	struct nat_entry entry = {.port = draft->packet.source_port, .used_s = draft->now_s, .flags = NAT_SERVICE};
	struct nat_entry *found;

	key.local = draft->to.source;
	key.local_port = draft->to.source_port;
	key.remote = draft->to.destination;
	key.remote_port = draft->to.destination_port;
	found = nat_find(&key, draft->family);
	if (likely(found && found->flags & NAT_SERVICE)) {
		nat_touch(found, draft->now_s);
		return nat_entry_names(found, &draft->packet.source, draft->packet.source_port);
	}
	entry.address = draft->packet.source;
	return !nat_add(&key, &entry, draft->family);
}

/* The draft's packet is the last one of its connection: with the entry goes all that was kept beside it. What answers
 * directly is known here by one side alone.
 */
__noinline int service_forget(void)
{
	const struct service_draft *draft = service_draft_here();
	struct nat6_key port = {.direction = NAT_IN};
	struct tuple tuple = {};

	if (!draft || draft->to.flags & (SERVICE_FLOW_DSR | SERVICE_FLOW_HOST))
		return 0;
	tuple.protocol = port.protocol = draft->packet.protocol;
	if (draft->to.flags & SERVICE_FLOW_REPLY) {
		port.local = tuple.destination = draft->packet.destination;
		port.remote = tuple.source = draft->packet.source;
		port.local_port = tuple.destination_port = draft->packet.destination_port;
		port.remote_port = tuple.source_port = draft->packet.source_port;
	} else {
		port.local = tuple.source = draft->to.source;
		port.remote = tuple.destination = draft->to.destination;
		port.local_port = tuple.source_port = draft->to.source_port;
		port.remote_port = tuple.destination_port = draft->to.destination_port;
	}
	if (draft->to.flags & SERVICE_FLOW_SNAT)
		nat_remove(&port, draft->family);
	ct_remove(&tuple, draft->family);
	service_displace(draft, &draft->to);
	service_flow_remove(&draft->packet, draft->family);
	return 0;
}

/* Both or none: 1, or 0 if there is no room. */
__noinline int service_keep_flows(void)
{
	struct service_draft *draft = service_draft_here();

	if (!draft || service_flow_put(&draft->back, &draft->back_to, draft->family))
		return 0;
	if (!service_flow_put(&draft->packet, &draft->to, draft->family))
		return 1;
	service_flow_remove(&draft->back, draft->family);
	return 0;
}

/* Keeps what the draft says, and once a second all that goes with it: any entry may have been lost. 0, STEP_NO_ROOM,
 * STEP_TAKEN or a drop reason.
 */
__noinline int service_try_to_keep(void)
{
	struct service_draft *draft = service_draft_here();

	if (!draft)
		return DROP_NAT_NO_MAPPING;
	service_flow_back(draft);
	if (service_is_taken(draft))
		return STEP_TAKEN;
	if (draft->to.flags & SERVICE_FLOW_SNAT && !service_keep_port(draft)) {
		service_flow_remove(&draft->packet, draft->family);
		return DROP_NAT_NO_MAPPING;
	}
	draft->to.used_s = draft->now_s;
	if (!service_keep_flows())
		return STEP_NO_ROOM;
	if (draft->to.flags & SERVICE_FLOW_HOST)
		service_mark_host(draft);
	return STEP_DONE;
}

/* The same, where others may have to give way; 0, STEP_TAKEN or a drop reason. */
__noinline int service_keep(void)
{
	int step = service_try_to_keep();

	if (likely(step != STEP_NO_ROOM))
		return step;
	ct_make_room();
	step = service_try_to_keep();
	return step == STEP_NO_ROOM ? DROP_NAT_NO_MAPPING : step;
}
