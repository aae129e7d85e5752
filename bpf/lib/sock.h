/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Sockets and services: what a socket is for, and what its process named as against where its packets go.
 *
 * Programs on sockets run for processes: one of a packet may interrupt them. So they draft nothing in per-CPU maps.
 */
#pragma once

#include <linux/in.h>

#include "endpoint.h"
#include "event_ring.h"
#include "parse.h"
#include "service.h"

CONFIG(__u64, config_host_netns_cookie);
CONFIG(__u32, config_socket_host_only);

enum sock_protocol {
	SOCK_MPTCP = 262, /* IPPROTO_MPTCP: TCP to everybody else */
};

enum sock_family {
	SOCK_INET4 = 2, /* AF_INET */
};

/* The address that a program was called with, of either family. */
struct sock_name {
	struct ipv6_addr address; /* IPv4 in mapped form */
	__be16 port;
	__u8 family; /* of the packets: an IPv6 socket may name an IPv4 address */
	__u8 protocol;
};

static __always_inline __u8 sock_protocol(__u32 protocol)
{
	return protocol == SOCK_MPTCP ? IPPROTO_TCP : protocol;
}

/* A namespace's cookie says the same everywhere, but before Linux 5.14 nobody can tell the agent its own. */
static __always_inline bool netns_is_host(__u64 netns_cookie)
{
	return netns_cookie == (config_host_netns_cookie ? config_host_netns_cookie : bpf_get_netns_cookie(0));
}

/* The frontend that stands for the addresses of nodes, if this is one. What the node's own addresses have besides has
 * frontends of its own.
 */
static __always_inline const struct service_entry *sock_service_of_node(const struct sock_name *name)
{
	const struct service_entry *service = service_lookup_node(name->port, name->protocol, name->family);
	const struct ipcache_entry *entry;

	if (likely(!service))
		return 0;
	entry = ipcache_lookup(&name->address, name->family);
	if (!entry)
		return 0;
	if (entry->sec_identity == IDENTITY_HOST)
		return service;
	if (service->flags & SERVICE_OWN_NODE)
		return 0;
	if (entry->sec_identity == IDENTITY_REMOTE_NODE)
		return service;
	return entry->sec_identity == IDENTITY_KUBE_APISERVER && entry->node_id ? service : 0;
}

/* What the socket is for; 0: nothing of ours. A pod's loopback is its own, the node's has the node's ports. */
static __always_inline const struct service_entry *sock_service(const struct sock_name *name, __u64 netns_cookie)
{
	const struct service_entry *service;
	bool unroutable = address_is_unroutable(&name->address, name->family);

	if ((config_socket_host_only || unlikely(unroutable)) && !netns_is_host(netns_cookie))
		return 0;
	service = service_lookup(&name->address, name->port, name->protocol, name->family);
	if (service)
		return service;
	return unlikely(unroutable) ? service_lookup_node(name->port, name->protocol, name->family)
				    : sock_service_of_node(name);
}

static __always_inline void socket_flow_key_of(struct socket_flow_key *key, __u64 socket_cookie,
					       const struct ipv6_addr *address, __be16 port, __u16 direction)
{
	key->socket_cookie = socket_cookie;
	key->address = *address;
	key->port = port;
	key->direction = direction;
	key->pad = 0;
}

/* The process is to see the frontend where packets come from the backend. */
static __always_inline void socket_flow_set_reverse(__u64 socket_cookie, const struct sock_name *frontend,
						    const struct socket_flow_entry *forward)
{
	struct socket_flow_entry entry = {
	    .address = frontend->address,
	    .port = frontend->port,
	    .service_id = forward->service_id,
	    .backend_id = forward->backend_id,
	};
	struct socket_flow_key key;

	socket_flow_key_of(&key, socket_cookie, &forward->address, forward->port, SOCKET_FLOW_REVERSE);
	bpf_map_update_elem(&socket_flows, &key, &entry, BPF_ANY);
}

static __always_inline bool socket_flow_has_reverse(__u64 socket_cookie, const struct socket_flow_entry *forward)
{
	struct socket_flow_key key;

	socket_flow_key_of(&key, socket_cookie, &forward->address, forward->port, SOCKET_FLOW_REVERSE);
	return bpf_map_lookup_elem(&socket_flows, &key) != 0;
}

/* Does the backend still stand, and behind the same service? Numbers are given out again. */
static __always_inline bool socket_flow_stands(const struct socket_flow_entry *forward,
					       const struct service_entry *service)
{
	const struct backend_entry *backend = backend_lookup(forward->backend_id);

	return backend && forward->service_id == service->service_id && backend->port == forward->port &&
	       address_equal(&backend->address, &forward->address);
}

/* Is the event due of what has been reported before? Moves the time. */
static __always_inline bool socket_flow_is_news(struct socket_flow_entry *entry)
{
	__u32 now_s = clock_now_s();

	if (config_aggregation <= AGGREGATION_LOW)
		return true;
	if (config_aggregation == AGGREGATION_MAXIMUM ||
	    (entry->reported_s && now_s - entry->reported_s < config_report_interval_s))
		return false;
	entry->reported_s = now_s;
	return true;
}

static __always_inline __u32 sock_identity(const struct ipv6_addr *address, __u8 family)
{
	const struct ipcache_entry *entry = ipcache_lookup(address, family);

	if (entry)
		return entry->sec_identity;
	return family == FAMILY_IPV4 ? IDENTITY_WORLD_IPV4 : IDENTITY_WORLD_IPV6;
}

static __always_inline void sock_report_ends(struct socket_event *event, __u8 family)
{
	struct ipv6_addr address = event->backend;
	const struct endpoint_entry *endpoint = endpoint_lookup(&address, family);

	event->backend_identity = endpoint ? endpoint->sec_identity : sock_identity(&address, family);
	event->backend_endpoint = endpoint ? endpoint->endpoint_id : 0;
	address = event->frontend;
	event->frontend_identity = sock_identity(&address, family);
}

/* Tells that `name` became `other`, or would have: both are rows of the flow. */
static __noinline int sock_report(struct bpf_sock_addr *context, const struct sock_name *name,
				  const struct socket_flow_entry *other, __u8 point)
{
	struct socket_event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	bool forward = point == TRANSLATION_FORWARD;

	if (!event) {
		events_count_lost();
		return 0;
	}
	__builtin_memset(event, 0, sizeof(*event));
	event->time_ns = bpf_ktime_get_ns();
	event->frontend = forward ? name->address : other->address;
	event->backend = forward ? other->address : name->address;
	event->frontend_port = forward ? name->port : other->port;
	event->backend_port = forward ? other->port : name->port;
	sock_report_ends(event, name->family);
	event->service_id = other->service_id;
	event->backend_id = other->backend_id;
	event->type = EVENT_TRACE_SOCK;
	event->subtype = point;
	event->family = name->family;
	event->protocol = name->protocol;
	event->socket_cookie = bpf_get_socket_cookie(context);
	event->cgroup_id = bpf_get_current_cgroup_id();
	event->netns_cookie = bpf_get_netns_cookie(context);
	event->cpu = bpf_get_smp_processor_id();
	event->is_reply = IS_REPLY_UNKNOWN;
	bpf_ringbuf_submit(event, events_wakeup(event->time_ns));
	return 0;
}
