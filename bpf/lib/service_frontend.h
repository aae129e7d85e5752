/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Is the packet in the draft for a service, and may its client use that? */
#pragma once

#include "conntrack.h"
#include "endpoint.h"
#include "nat_rewrite.h"
#include "node.h"
#include "service.h"
#include "service_flow.h"

/* Where a packet comes from, and who may be a backend there. */
enum service_where {
	SERVICE_FROM_POD = 0,
	SERVICE_TO_NODE = 1,      /* a pod's, to the address of another node */
	SERVICE_FROM_NETWORK = 2, /* it came in on a device of the node */
	SERVICE_FROM_OUTSIDE = 4, /* its sender is not of the cluster */
	SERVICE_QUIET = 8,        /* its sender is not told that there is no backend */
	SERVICE_TO_OWN_NODE = 16,
	SERVICE_FROM_OVERLAY =
	    32, /* from another node, to the address of this one: for a HostPort, which it alone knows */
};

enum service_step {
	STEP_NEW = -4,        /* the draft says what the connection's packets become, but no map does yet */
	STEP_NEEDS_PORT = -5, /* the same, but for the port of the gateway, which nat_draft is for */
	STEP_NO_ROOM = -9,    /* a map is full */
	STEP_TAKEN = -10,     /* another connection of its client would get the answers */
};

static __always_inline const struct service_entry *service_of(const struct service_draft *draft)
{
	struct ipv6_addr address = draft->packet.destination;
	const struct service_entry *service =
	    service_lookup(&address, draft->packet.destination_port, draft->packet.protocol, draft->family);

	if (unlikely(service && address_is_unroutable(&address, draft->family)))
		return 0; /* a HostPort at loopback is for the node's sockets */
	if (service && draft->where & SERVICE_FROM_OVERLAY && !(service->flags & SERVICE_OWN_NODE))
		return 0;
	if (service || !(draft->where & SERVICE_TO_NODE))
		return service;
	service = service_lookup_node(draft->packet.destination_port, draft->packet.protocol, draft->family);
	return service && !(service->flags & SERVICE_OWN_NODE) ? service : 0;
}

static __always_inline bool identity_is_outside(__u32 sec_identity)
{
	return identity_is_local(sec_identity) || sec_identity == IDENTITY_WORLD ||
	       sec_identity == IDENTITY_WORLD_IPV4 || sec_identity == IDENTITY_WORLD_IPV6;
}

/* Who sent it from the network? As netdev_check_source(), but for nodes: one whose pods are behind the overlay comes
 * outside of it with what its own processes send, if it does not translate that itself.
 */
__noinline int service_check_client(void)
{
	struct service_draft *draft = service_draft_here();
	struct ipv6_addr address;
	struct end client;

	if (!draft)
		return DROP_INVALID_SOURCE_IP;
	address = draft->packet.source;
	if (endpoint_lookup(&address, draft->family))
		return DROP_INVALID_SOURCE_IP;
	end_set_remote(&client, &address, draft->family);
	if (client.sec_identity == IDENTITY_HOST)
		return DROP_INVALID_SOURCE_IP;
	if (client.node_id && client.sec_identity != IDENTITY_REMOTE_NODE && node_is_behind_tunnel(client.node_id))
		return DROP_INVALID_SOURCE_IP;
	draft->client_identity = client.sec_identity;
	return STEP_DONE;
}

/* May that client use the service? */
__noinline int service_check_access(void)
{
	struct service_draft *draft = service_draft_here();
	struct ipv6_addr address;

	if (!draft)
		return DROP_INVALID_SOURCE_IP;
	if (draft->hop_limit <= 1)
		return DROP_TTL_EXCEEDED;
	if (!identity_is_outside(draft->client_identity))
		return STEP_DONE;
	draft->where |= SERVICE_FROM_OUTSIDE;
	if (!(draft->service.flags & SERVICE_EXTERNAL))
		return DROP_IS_CLUSTER_IP;
	address = draft->packet.source;
	return service_admits(&draft->service, &address, draft->family) ? STEP_DONE : DROP_SERVICE_SOURCE_RANGE;
}

static __always_inline struct ct_entry *service_connection(const struct service_draft *draft, bool *is_reply)
{
	struct tuple tuple = {.protocol = draft->packet.protocol};

	tuple.source = draft->packet.source;
	tuple.destination = draft->packet.destination;
	tuple.source_port = draft->packet.source_port;
	tuple.destination_port = draft->packet.destination_port;
	return ct_lookup(&tuple, draft->family, draft->now_s, is_reply);
}

static __always_inline bool service_opens(const struct service_draft *draft)
{
	return !l4_has_connections(draft->packet.protocol) || (draft->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

/* A port of a node may be that of a client too, on its gateway: answers to that one are for no service. */
static __always_inline bool service_is_answer(const struct service_draft *draft)
{
	bool is_reply = false;

	if (!(draft->where & (SERVICE_TO_NODE | SERVICE_TO_OWN_NODE)) ||
	    (l4_has_connections(draft->packet.protocol) && service_opens(draft)))
		return false;
	return service_connection(draft, &is_reply) && is_reply;
}

/* Is the packet in the middle of a connection from outside whose frontend is gone? It goes on for as long as its backend
 * answers. What opens another one from its port is for whoever has the address now.
 */
static __always_inline bool service_outlives(struct service_draft *draft)
{
	const struct service_flow_entry *known;

	if (!(draft->where & SERVICE_FROM_NETWORK) || !l4_has_connections(draft->packet.protocol))
		return false;
	known = service_flow_find(&draft->packet, draft->family);
	if (likely(!known) || known->flags & SERVICE_FLOW_REPLY)
		return false;
	if (!service_opens(draft))
		return true;
	service_flow_remove(&draft->packet, draft->family);
	return false;
}

/* Is the packet for a service? It goes into the draft. */
__noinline int service_find(void)
{
	struct service_draft *draft = service_draft_here();
	const struct service_entry *service;

	if (!draft || !nat_has_ports(draft->packet.protocol))
		return 0;
	service = service_of(draft);
	draft->to.ifindex = draft->ifindex;
	if (!service) {
		if (likely(!service_outlives(draft)))
			return 0;
		draft->service = (struct service_entry){.flags = SERVICE_EXTERNAL};
		return 1;
	}
	if (service_is_answer(draft))
		return 0;
	draft->service = *service;
	draft->to.service_id = service->service_id;
	return 1;
}

/* Would what no frontend takes be for nobody? Routes would lead it out of the cluster, and mostly back here. A node may
 * have the address of a load balancer itself.
 */
static __always_inline bool service_is_alone(const struct service_draft *draft)
{
	struct ipv6_addr address = draft->packet.destination;
	const __u32 *flags = service_address_lookup(&address, draft->family);
	const struct ipcache_entry *entry;

	if (likely(!flags || !(*flags & SERVICE_ADDRESS_ALONE)))
		return false;
	entry = ipcache_lookup(&address, draft->family);
	return !entry || (entry->sec_identity != IDENTITY_HOST && !entry->node_id);
}

/* No frontend takes the packet: STEP_IGNORE, or a drop reason if nobody else will either. */
__noinline int service_miss(void)
{
	struct service_draft *draft = service_draft_here();

	if (!draft || draft->where & (SERVICE_TO_NODE | SERVICE_TO_OWN_NODE) || !service_is_alone(draft))
		return STEP_IGNORE;
	draft->to.service_id = 0;
	return draft->fragment == FRAGMENT_LATER ? DROP_FRAGMENT_NOT_FOUND : DROP_SERVICE_NO_BACKEND;
}
