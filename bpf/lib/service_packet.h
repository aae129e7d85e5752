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

#include "clock.h"
#include "conntrack.h"
#include "endpoint.h"
#include "family.h"
#include "nat.h"
#include "nat_port.h"
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

static __always_inline bool service_opens(const struct service_draft *draft)
{
	return draft->packet.protocol != IPPROTO_TCP || (draft->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

/* Does what is known of the packet's connection still hold? What is in the middle of a TCP connection goes where it went
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
	if (draft->packet.protocol == IPPROTO_TCP)
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
	if (draft->packet.protocol == IPPROTO_SCTP && backend->port != draft->packet.destination_port)
		return DROP_NAT_UNSUPPORTED; /* its checksum covers all of the packet */
	draft->to.source = draft->packet.source;
	draft->to.source_port = draft->packet.source_port;
	draft->to.destination = backend->address;
	draft->to.destination_port = backend->port;
	draft->to.backend_id = backend_id;
	draft->to.flags = 0;
	return service_draft_source(draft);
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

/* A port of a node may be that of a client too, on its gateway: answers to that one are for no service. */
static __always_inline bool service_is_answer(const struct service_draft *draft)
{
	bool is_reply = false;

	if (!(draft->where & (SERVICE_TO_NODE | SERVICE_TO_OWN_NODE)) ||
	    (draft->packet.protocol == IPPROTO_TCP && (draft->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN))
		return false;
	return service_connection(draft, &is_reply) && is_reply;
}

/* Is the packet for a service? It goes into the draft. */
__noinline int service_find(void)
{
	struct service_draft *draft = service_draft_here();
	const struct service_entry *service;

	if (!draft || !nat_has_ports(draft->packet.protocol))
		return 0;
	service = service_of(draft);
	if (!service || service_is_answer(draft))
		return 0;
	draft->service = *service;
	draft->to.service_id = service->service_id;
	draft->to.ifindex = draft->ifindex;
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

/* The connection whose answers become `back` begins anew with its next packet. */
static __always_inline void service_displace(const struct service_draft *draft, const struct service_flow_entry *back)
{
	struct service_flow6_key forth = {.protocol = draft->packet.protocol};

	forth.source = back->destination;
	forth.destination = back->source;
	forth.source_port = back->destination_port;
	forth.destination_port = back->source_port;
	service_flow_remove(&forth, draft->family);
}

/* Has another connection what this one's packets would become? It would get the answers. Datagrams have no end that could
 * be seen: of the flows of one client, that of the newest frontend gets them.
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
	if (draft->packet.protocol != IPPROTO_UDP)
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
	int failed = 0;

	if (!draft)
		return DROP_WRITE_ERROR;
	from = &draft->packet;
	to = &draft->to;
	packet = service_packet_of(draft);
	if (to->destination_port != from->destination_port || !address_equal(&to->destination, &from->destination))
		failed = nat_rewrite_end(skb, packet, NAT_DESTINATION, &from->destination, from->destination_port,
					 &to->destination, to->destination_port);
	if (to->source_port != from->source_port || !address_equal(&to->source, &from->source))
		failed |= nat_rewrite_end(skb, packet, NAT_SOURCE, &from->source, from->source_port, &to->source,
					  to->source_port);
	return failed ? DROP_WRITE_ERROR : STEP_DONE;
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
 * frontends of a backend. What a backend in the node's own network answers, and what answers directly, has no way back to
 * another port.
 */
__noinline int service_draft_other_port(void)
{
	struct service_draft *draft = service_draft_here();
	struct ipv6_addr address;

	if (!draft || draft->packet.protocol != IPPROTO_TCP || !service_opens(draft) || draft->to.flags)
		return DROP_NAT_NO_MAPPING;
	address = draft->packet.source;
	draft->to.flags = SERVICE_FLOW_SNAT;
	return service_draft_port(draft, &address);
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
