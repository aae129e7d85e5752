/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Services (abi/service.h): is there a frontend, who may use it, and which of its backends does a client get?
 *
 *   service = service_lookup(&address, port, protocol, family);         nothing: not for a service
 *   service_admits(service, &client, family)                            of clients outside only
 *   backend = service_choose(service, &client, protocol, outside, &backend_id);   nothing: there is no backend
 *
 * Needs no packet and no socket, so that programs of every kind can ask. All that it takes must lie on the stack.
 * Whoever keeps a backend's id asks backend_lookup() each time: nothing there means that it must choose again.
 */
#pragma once

#include "../maps/service.h"
#include "clock.h"
#include "flow.h"

enum service_limits {
	SERVICE_PROBES = 4, /* slots looked at, should what a slot names be gone */
};

enum service_words {
	SERVICE_CLIENT_SOCKET = 0xffffffff, /* first word of a client that is a network namespace: no such address */
	SERVICE_HASH_SEED = 0x5e7c1ce5,
};

/* Whom a backend is chosen for. */
struct service_client {
	struct ipv6_addr address; /* IPv4 in mapped form; or what service_client_of_netns() says */
	__be16 port;              /* 0: it has none yet, so that a hash would say nothing */
};

/* A socket has no address before it is connected; what tells clients apart is their network namespace. */
static __always_inline void service_client_of_netns(struct service_client *client, __u64 netns_cookie)
{
	client->address.words[0] = SERVICE_CLIENT_SOCKET;
	client->address.words[1] = 0;
	client->address.words[2] = netns_cookie >> 32;
	client->address.words[3] = netns_cookie;
	client->port = 0;
}

static __always_inline const struct service_entry *service_lookup(const struct ipv6_addr *address, __be16 port,
								  __u8 protocol, __u8 family)
{
	if (family == FAMILY_IPV4) {
		struct service4_key key = {.address = address->words[3], .port = port, .protocol = protocol};

		return bpf_map_lookup_elem(&services4, &key);
	} else {
		struct service6_key key = {.address = *address, .port = port, .protocol = protocol};

		return bpf_map_lookup_elem(&services6, &key);
	}
}

/* Flags of an address that frontends have; 0: none has it. */
static __always_inline const __u32 *service_address_lookup(const struct ipv6_addr *address, __u8 family)
{
	if (family == FAMILY_IPV4) {
		struct service_address4_key key = {.address = address->words[3]};

		return bpf_map_lookup_elem(&service_ips4, &key);
	} else {
		struct service_address6_key key = {.address = *address};

		return bpf_map_lookup_elem(&service_ips6, &key);
	}
}

/* What has this port on every node: for an address that the caller knows to be a node's. With SERVICE_OWN_NODE it is
 * none on other nodes.
 */
static __always_inline const struct service_entry *service_lookup_node(__be16 port, __u8 protocol, __u8 family)
{
	struct ipv6_addr any = {};

	return service_lookup(&any, port, protocol, family);
}

/* May a client outside of the cluster use it? */
static __always_inline bool service_admits(const struct service_entry *service, const struct ipv6_addr *client,
					   __u8 family)
{
	const __u32 *within;

	if (!(service->flags & SERVICE_EXTERNAL))
		return false;
	if (likely(!(service->flags & (SERVICE_SOURCE_ALLOW | SERVICE_SOURCE_DENY))))
		return true;
	if (family == FAMILY_IPV4) {
		struct source_range4_key key = {
		    .prefix_len = 64, .service_id = service->service_id, .address = client->words[3]};

		within = bpf_map_lookup_elem(&source_ranges4, &key);
	} else {
		struct source_range6_key key = {
		    .prefix_len = 160, .service_id = service->service_id, .address = *client};

		within = bpf_map_lookup_elem(&source_ranges6, &key);
	}
	return service->flags & SERVICE_SOURCE_ALLOW ? within != 0 : within == 0;
}

/* Active or terminating; 0: nothing has this id any more. */
static __always_inline const struct backend_entry *backend_lookup(__u32 backend_id)
{
	const struct backend_entry *backend = bpf_map_lookup_elem(&backends, &backend_id);

	return backend && backend->state != BACKEND_NONE ? backend : 0;
}

static __always_inline __u32 service_mix(__u32 hash, __u32 word)
{
	word *= 0xcc9e2d51;
	word = word << 15 | word >> 17;
	hash ^= word * 0x1b873593;
	hash = hash << 13 | hash >> 19;
	return hash * 5 + 0xe6546b64;
}

/* The same on every node, whatever its byte order: MurmurHash3 (32 bits) of the client's address as four words, its
 * port and the protocol. Where the service is reached does not count: one client gets the same backend by all of
 * its addresses, also by the NodePort of another node.
 */
static __always_inline __u32 service_hash(const struct ipv6_addr *client, __be16 client_port, __u8 protocol)
{
	__u32 hash = SERVICE_HASH_SEED;

	for (int i = 0; i < 4; i++)
		hash = service_mix(hash, be32(client->words[i]));
	hash = service_mix(hash, (__u32)be16(client_port) << 16 | protocol);
	hash ^= 20; /* bytes */
	hash = (hash ^ hash >> 16) * 0x85ebca6b;
	hash = (hash ^ hash >> 13) * 0xc2b2ae35;
	return hash ^ hash >> 16;
}

/* With affinity the port does not count, so that other nodes choose the same for the client, too. */
static __always_inline __u32 service_first_slot(const struct service_entry *service,
						const struct service_client *client, __u8 protocol)
{
	if (!(service->flags & SERVICE_MAGLEV) || client->address.words[0] == SERVICE_CLIENT_SOCKET)
		return bpf_get_prandom_u32();
	return service_hash(&client->address, service->flags & SERVICE_AFFINITY ? 0 : client->port, protocol);
}

/* A backend that the set names; the id goes to `backend_id`. */
static __always_inline const struct backend_entry *service_pick(const struct service_set *set, __u32 number,
								__u32 *backend_id)
{
	const struct backend_entry *backend;
	__u32 slot = number % set->slots;
	const __u32 *named;
	__u32 index;

	for (int i = 0; i < SERVICE_PROBES; i++) {
		index = set->first_slot + slot;
		named = bpf_map_lookup_elem(&service_slots, &index);
		if (!named)
			return 0;
		*backend_id = *named;
		backend = backend_lookup(*backend_id);
		if (likely(backend != 0))
			return backend;
		slot = slot + 1 < set->slots ? slot + 1 : 0;
	}
	return 0;
}

/* The backend that the client had, if that still takes connections and the time is not over; it begins anew. The agent
 * removes what clients had of backends that left the service.
 */
static __always_inline const struct backend_entry *affinity_lookup(const struct affinity_key *key, __u32 affinity_s,
								   __u32 *backend_id)
{
	struct affinity_entry *entry = bpf_map_lookup_elem(&affinity, key);
	const struct backend_entry *backend;
	__u32 now_s = clock_now_s();

	if (!entry || now_s - entry->used_s >= affinity_s)
		return 0;
	*backend_id = entry->backend_id;
	backend = backend_lookup(*backend_id);
	if (!backend || backend->state != BACKEND_ACTIVE)
		return 0;
	entry->used_s = now_s;
	return backend;
}

static __always_inline const struct backend_entry *service_pick_affine(const struct service_entry *service,
								       const struct service_set *set,
								       const struct service_client *client,
								       __u8 protocol, __u32 *backend_id)
{
	struct affinity_key key = {.client = client->address, .affinity_id = service->affinity_id};
	const struct backend_entry *backend = affinity_lookup(&key, service->affinity_s, backend_id);
	struct affinity_entry entry = {.used_s = clock_now_s()};

	if (backend)
		return backend;
	backend = service_pick(set, service_first_slot(service, client, protocol), backend_id);
	if (!backend)
		return 0;
	entry.backend_id = *backend_id;
	bpf_map_update_elem(&affinity, &key, &entry, BPF_ANY);
	return backend;
}

/* The backend of a new connection, and its id; 0: there is none. `outside`: the client is not of the cluster. */
static __always_inline const struct backend_entry *service_choose(const struct service_entry *service,
								  const struct service_client *client, __u8 protocol,
								  bool outside, __u32 *backend_id)
{
	const struct service_set *set = outside ? &service->outside : &service->inside;

	if (unlikely(!set->slots))
		return 0;
	if (service->flags & SERVICE_AFFINITY)
		return service_pick_affine(service, set, client, protocol, backend_id);
	return service_pick(set, service_first_slot(service, client, protocol), backend_id);
}
