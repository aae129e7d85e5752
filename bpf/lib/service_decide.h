/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What a packet to a service becomes: what its connection's have become, or the address of a backend that is chosen, and
 * the source that this is to see.
 */
#pragma once

#include "family.h"
#include "nat_port.h"
#include "service_frontend.h"

/* Does what is known of the packet's connection still hold? What is in the middle of a connection goes where it went
 * as long as nothing else is known. Another backend may have the number by now.
 */
static __always_inline bool service_flow_holds(const struct service_draft *draft,
					       const struct service_flow_entry *known)
{
	const struct backend_entry *backend = backend_lookup(known->backend_id);
	bool opens = service_opens(draft);

	if (unlikely(!backend || backend->port != known->destination_port ||
		     !address_equal(&backend->address, &known->destination)))
		return !opens;
	if (l4_has_connections(draft->packet.protocol))
		return !opens || backend->state == BACKEND_ACTIVE;
	return draft->now_s - known->used_s < CT_LIFETIME_OTHER_S;
}

static __always_inline void service_gateway(struct ipv6_addr *address, __u8 family)
{
	if (family == FAMILY_IPV4) {
		ipv4_mapped(address, config_gateway_ipv4);
		return;
	}
	for (int i = 0; i < 4; i++)
		address->words[i] = config_gateway_ipv6.words[i];
}

/* The address of the node under which a backend outside of the cluster sees its packets. */
static __always_inline bool service_uplink(struct ipv6_addr *address, const struct service_draft *draft)
{
	__u32 ifindex = draft->ifindex;
	const struct masquerade_entry *entry = bpf_map_lookup_elem(&masquerade, &ifindex);

	if (!entry)
		return false;
	*address = draft->family == FAMILY_IPV4 ? entry->ipv4 : entry->ipv6;
	return !address_is_any(address);
}

static __always_inline int service_draft_port(const struct service_draft *draft, const struct ipv6_addr *outside)
{
	struct nat_draft *port = nat_draft_here();

	if (!port)
		return DROP_NAT_NO_MAPPING;
	port->inside = draft->packet.source;
	port->outside = *outside;
	port->remote = draft->to.destination;
	port->inside_port = draft->packet.source_port;
	port->remote_port = draft->to.destination_port;
	port->protocol = draft->packet.protocol;
	port->family = draft->family;
	port->now_s = draft->now_s;
	port->flags = NAT_SERVICE;
	return STEP_NEEDS_PORT;
}

/* May a backend on another node answer the client by itself? A pod may: what it says passes programs there. */
static __always_inline bool service_is_direct(const struct service_draft *draft, __u32 backend_identity)
{
	return draft->service.flags & SERVICE_DSR && draft->where & SERVICE_FROM_OUTSIDE &&
	       backend_identity != IDENTITY_REMOTE_NODE;
}

/* Which source the backend is to see; the destination is known. */
static __always_inline int service_draft_source(struct service_draft *draft)
{
	const struct ipcache_entry *entry;
	struct ipv6_addr address = draft->to.destination;

	if (draft->where & SERVICE_FROM_NETWORK) {
		if (endpoint_lookup(&address, draft->family))
			return STEP_NEW;
		entry = ipcache_lookup(&address, draft->family);
		if (entry && entry->sec_identity == IDENTITY_HOST) {
			draft->to.flags = SERVICE_FLOW_HOST;
			return STEP_NEW;
		}
		if (entry && entry->node_id && service_is_direct(draft, entry->sec_identity)) {
			draft->to.flags = SERVICE_FLOW_DSR;
			return STEP_NEW;
		}
		if (entry && entry->node_id)
			service_gateway(&address, draft->family);
		else if (!service_uplink(&address, draft))
			return DROP_NAT_NO_MAPPING;
	} else {
		if (likely(!address_equal(&address, &draft->packet.source)))
			return STEP_NEW;
		service_gateway(&address, draft->family);
	}
	draft->to.flags = SERVICE_FLOW_SNAT;
	draft->to.source = address;
	return service_draft_port(draft, &address);
}

static __always_inline int service_choose_for(struct service_draft *draft)
{
	const struct service_entry *service = &draft->service;
	struct service_client client = {.address = draft->packet.source, .port = draft->packet.source_port};
	const struct backend_entry *backend;
	__u32 backend_id = 0;

	backend =
	    service_choose(service, &client, draft->packet.protocol, draft->where & SERVICE_FROM_OUTSIDE, &backend_id);
	if (!backend) {
		if (service->flags & SERVICE_KEEP_SOURCE && draft->where & SERVICE_FROM_OUTSIDE &&
		    service->inside.slots)
			draft->where |= SERVICE_QUIET; /* other nodes have some: whoever balances over nodes will see */
		return DROP_SERVICE_NO_BACKEND;
	}
	draft->to.source = draft->packet.source;
	draft->to.source_port = draft->packet.source_port;
	draft->to.destination = backend->address;
	draft->to.destination_port = backend->port;
	draft->to.backend_id = backend_id;
	draft->to.flags = 0;
	return service_draft_source(draft);
}

/* What does it become? STEP_DONE: as before; enum service_step; or a drop reason. */
__noinline int service_decide(void)
{
	struct service_draft *draft = service_draft_here();
	struct service_flow_entry *known;

	if (!draft)
		return DROP_SERVICE_NO_BACKEND;
	known = service_flow_find(&draft->packet, draft->family);
	if (known && service_flow_holds(draft, known)) {
		draft->to = *known;
		if (likely(known->used_s == draft->now_s))
			return STEP_DONE;
		known->used_s = draft->now_s;
		return STEP_NEW;
	}
	if (draft->fragment == FRAGMENT_LATER)
		return DROP_FRAGMENT_NOT_FOUND;
	return service_choose_for(draft);
}

/* The port of a draft that needs one. */
__noinline int service_take_port(PACKET_CONTEXT *context)
{
	struct service_draft *draft = service_draft_here();
	const struct nat_draft *port = nat_draft_here();
	int reason = nat_find_port(context);

	if (reason || !draft || !port)
		return DROP_NAT_NO_MAPPING;
	draft->to.source_port = port->outside_port;
	return STEP_NEW;
}

/* The client's own address with another port, for a connection that from its own port has the ends of another one: of two
 * frontends of a backend, or of one and the backend itself. What a backend in the node's own network answers, and what
 * answers directly, has no way back to another port.
 */
__noinline int service_draft_other_port(void)
{
	struct service_draft *draft = service_draft_here();
	struct ipv6_addr address;

	if (!draft || !service_opens(draft) || draft->to.flags)
		return DROP_NAT_NO_MAPPING;
	address = draft->packet.source;
	draft->to.source = address;
	draft->to.flags = SERVICE_FLOW_SNAT;
	return service_draft_port(draft, &address);
}
