/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Which connections give way to others, so that what is full of half-open or ended ones takes new ones, and no flood of
 * them ends one that stands.
 *
 * A connection is *assured* once its opener has heard from the other end: TCP by the handshake's third packet, all else
 * by an exchange of some seconds. Such a one gives way to nobody before it is over. All others stand in ct_transients, in
 * the order in which they came, and so does an assured one again when it has ended: each new connection takes the place of
 * the oldest there, which goes with all that belongs to it. So there are never more of them than places; and where a map
 * finds no room nevertheless, some go before their turn.
 *
 * Each CPU has every n-th place, so that none waits for another. The kernel's own way, a hash table that lets go of what was used
 * longest ago, knows nothing of a connection's state.
 */
#pragma once

#include <linux/errno.h>

#include "../abi/config.h"
#include "../maps/conntrack.h"
#include "clock.h"
#include "ct_key.h"
#include "nat.h"
#include "service_flow.h"

CONFIG(__u32, config_cpus);

enum ct_transient_limits {
	CT_ASSURED_AFTER_S = 2, /* but TCP, which has a handshake */
	CT_EARLY_TURNS = 8,     /* how many go at most for one that finds no room */
};

/* The next place of this CPU; from the first one on again after the last. */
static __always_inline __u32 ct_transient_turn(void)
{
	__u32 zero = 0, at;
	__u32 *turn = bpf_map_lookup_elem(&ct_turn, &zero);

	if (!turn)
		return 0;
	at = *turn * config_cpus + bpf_get_smp_processor_id();
	*turn += 1;
	if (bpf_map_lookup_elem(&ct_transients, &at))
		return at;
	*turn = 1;
	return bpf_get_smp_processor_id();
}

static __always_inline struct ct_transient *ct_transient_at(__u32 at)
{
	return bpf_map_lookup_elem(&ct_transients, &at);
}

/* How the other end's packets were turned. */
static __always_inline struct service_flow6_key ct_transient_back(const struct ct_transient *place)
{
	return (struct service_flow6_key){
	    .source = place->destination,
	    .destination = place->source,
	    .source_port = place->destination_port,
	    .destination_port = place->source_port,
	    .protocol = place->protocol,
	};
}

/* The gateway's port that it had for a service, or what a backend on this node answers as. */
__noinline int ct_forget_port(__u32 at)
{
	const struct ct_transient *place = ct_transient_at(at);
	const struct service_flow_entry *found;
	struct service_flow6_key back;
	struct nat6_key port = {};

	if (!place)
		return 0;
	back = ct_transient_back(place);
	found = service_flow_find(&back, place->family);
	if (!found || !(found->flags & (SERVICE_FLOW_SNAT | SERVICE_FLOW_HOST)))
		return 0;
	port.direction = found->flags & SERVICE_FLOW_SNAT ? NAT_IN : NAT_OUT;
	port.protocol = place->protocol;
	port.local = port.direction == NAT_IN ? place->source : place->destination;
	port.local_port = port.direction == NAT_IN ? place->source_port : place->destination_port;
	port.remote = port.direction == NAT_IN ? place->destination : place->source;
	port.remote_port = port.direction == NAT_IN ? place->destination_port : place->source_port;
	nat_remove(&port, place->family);
	return 0;
}

/* How it was translated for a service. */
__noinline int ct_forget_flows(__u32 at)
{
	const struct ct_transient *place = ct_transient_at(at);
	const struct service_flow_entry *found;
	struct service_flow6_key back, forth = {};

	if (!place)
		return 0;
	back = ct_transient_back(place);
	found = service_flow_find(&back, place->family);
	if (!found)
		return 0;
	forth.source = found->destination;
	forth.destination = found->source;
	forth.source_port = found->destination_port;
	forth.destination_port = found->source_port;
	forth.protocol = place->protocol;
	service_flow_remove(&forth, place->family);
	service_flow_remove(&back, place->family);
	return 0;
}

/* How it was masqueraded. */
__noinline int ct_forget_mapping(__u32 at)
{
	const struct ct_transient *place = ct_transient_at(at);
	const struct nat_entry *found;
	struct nat6_key key = {};

	if (!place)
		return 0;
	key.local = place->source;
	key.remote = place->destination;
	key.local_port = place->source_port;
	key.remote_port = place->destination_port;
	key.protocol = place->protocol;
	key.direction = NAT_OUT;
	found = nat_find(&key, place->family);
	if (!found || found->flags & NAT_SERVICE)
		return 0;
	nat_remove(&key, place->family);
	key.local = found->address;
	key.local_port = found->port;
	key.direction = NAT_IN;
	nat_remove(&key, place->family);
	return 0;
}

/* Must the connection stay that has the tuple? The place may be that of one before it. */
static __always_inline bool ct_must_stay(const struct ct_entry *entry, __u32 created_s, __u32 now_s)
{
	if (entry->created_s != created_s)
		return true;
	return entry->flags & CT_ASSURED && entry->state != CT_STATE_CLOSED && now_s < entry->expires_s;
}

/* 1 once the entry of who has the place is gone, or was before. */
__noinline int ct_evict(__u32 at)
{
	const struct ct_transient *place = ct_transient_at(at);
	struct tuple tuple = {};
	struct ct_entry *entry;

	if (!place)
		return 0;
	tuple.source = place->source;
	tuple.destination = place->destination;
	tuple.source_port = place->source_port;
	tuple.destination_port = place->destination_port;
	tuple.protocol = place->protocol;
	entry = ct_find(&tuple, place->family);
	if (!entry)
		return 1;
	if (ct_must_stay(entry, place->created_s, clock_now_s()))
		return 0;
	ct_remove(&tuple, place->family);
	return 1;
}

/* Who has the place goes, unless it has become assured. */
__noinline int ct_give_way(__u32 at)
{
	struct ct_transient *place = ct_transient_at(at);

	if (!place || !place->family)
		return 0;
	if (ct_evict(at)) {
		ct_forget_port(at);
		ct_forget_flows(at);
		ct_forget_mapping(at);
	}
	place->family = FAMILY_NONE;
	return 0;
}

/* Some go before their turn, those of other CPUs too: whose places are next to this one's. */
__noinline int ct_make_room(void)
{
	__u32 at = ct_transient_turn();

	for (__u32 i = 0; i < CT_EARLY_TURNS; i++)
		ct_give_way(at + i);
	return 0;
}

/* The connection of the packet in hand gets that place, of who came longest ago. */
__noinline int ct_take_place(__u32 at, __u32 is_reply, __u32 created_s)
{
	const struct flow *flow = flow_here();
	struct ct_transient *place;

	ct_give_way(at);
	place = ct_transient_at(at);
	if (!flow || !place)
		return 0;
	place->source = is_reply ? flow->tuple.destination : flow->tuple.source;
	place->destination = is_reply ? flow->tuple.source : flow->tuple.destination;
	place->source_port = is_reply ? flow->tuple.destination_port : flow->tuple.source_port;
	place->destination_port = is_reply ? flow->tuple.source_port : flow->tuple.destination_port;
	place->protocol = flow->tuple.protocol;
	place->created_s = created_s;
	place->family = flow->family;
	return 0;
}

/* The next one. */
__noinline int ct_remember(__u32 is_reply, __u32 created_s)
{
	return ct_take_place(ct_transient_turn(), is_reply, created_s);
}

/* Does the connection of the packet in hand stand there? */
static __always_inline bool ct_has_place(__u32 at, const struct flow *flow, bool is_reply, __u32 created_s)
{
	const struct ct_transient *place = ct_transient_at(at);
	const struct tuple *tuple = &flow->tuple;

	if (!place || place->family != flow->family || place->created_s != created_s ||
	    place->protocol != tuple->protocol)
		return false;
	if (is_reply)
		return place->source_port == tuple->destination_port && place->destination_port == tuple->source_port &&
		       address_equal(&place->source, &tuple->destination) &&
		       address_equal(&place->destination, &tuple->source);
	return place->source_port == tuple->source_port && place->destination_port == tuple->destination_port &&
	       address_equal(&place->source, &tuple->source) && address_equal(&place->destination, &tuple->destination);
}
