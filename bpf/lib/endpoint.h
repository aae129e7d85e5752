/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Who the two ends of a packet are: a local endpoint (endpoints4/6), or what the ipcache says of the address. */
#pragma once

#include "../abi/types.h"
#include "../maps/endpoint.h"
#include "../maps/node.h"
#include "../maps/policy.h"
#include "flow.h"
#include "ipcache.h"

enum revision {
	REVISION_NOT_LOCAL = 0,
	REVISION_MISSING = 0xffffffff, /* a local endpoint without a policy: never equal to what conntrack remembers */
};

enum identity_scope {
	IDENTITY_SHARED_BITS = 24, /* numbers that all nodes share fit into a VNI */
};

/* `address` must lie on the stack or in a map. */
static __always_inline const struct endpoint_entry *endpoint_lookup(const struct ipv6_addr *address, __u8 family)
{
	if (family == FAMILY_IPV4)
		return bpf_map_lookup_elem(&endpoints4, &address->words[3]);
	return bpf_map_lookup_elem(&endpoints6, address);
}

static __always_inline bool end_is_local(const struct end *end)
{
	return end->ifindex;
}

static __always_inline void end_set_local(struct end *end, const struct endpoint_entry *endpoint)
{
	const struct policy_entry *policy;
	__u32 policy_id = endpoint->policy_id;

	end->ifindex = endpoint->ifindex;
	end->endpoint_id = endpoint->endpoint_id;
	end->policy_id = policy_id;
	end->sec_identity = endpoint->sec_identity;
	end->cidr_identity = endpoint->cidr_identity;
	end->node_id = NODE_ID_NONE;
	end->announced = false;
	policy = bpf_map_lookup_elem(&policies, &policy_id);
	end->revision = likely(policy && policy->revision) ? policy->revision : REVISION_MISSING;
}

/* With what it takes to hand the packet to it. */
static __always_inline void end_set_receiver(struct end *end, const struct endpoint_entry *endpoint)
{
	end_set_local(end, endpoint);
	end->mac = endpoint->mac;
	end->host_mac = endpoint->host_mac;
}

static __always_inline void end_set_elsewhere(struct end *end)
{
	end->ifindex = 0;
	end->endpoint_id = 0;
	end->revision = REVISION_NOT_LOCAL;
}

static __always_inline void end_set_remote(struct end *end, const struct ipv6_addr *address, __u8 family)
{
	const struct ipcache_entry *entry = ipcache_lookup(address, family);

	end_set_elsewhere(end);
	end->sec_identity = family == FAMILY_IPV4 ? IDENTITY_WORLD_IPV4 : IDENTITY_WORLD_IPV6;
	end->cidr_identity = 0;
	end->node_id = NODE_ID_NONE;
	end->announced = false;
	if (entry) {
		end->sec_identity = entry->sec_identity;
		end->cidr_identity = entry->cidr_identity;
		end->node_id = entry->node_id;
	}
}

/* A number that means nothing elsewhere: this node gave it to the rule CIDRs that cover an address. */
static __always_inline bool identity_is_local(__u32 sec_identity)
{
	return sec_identity >> IDENTITY_SHARED_BITS;
}

static __always_inline void end_resolve(struct end *end, const struct ipv6_addr *address, __u8 family)
{
	const struct endpoint_entry *endpoint = endpoint_lookup(address, family);

	if (endpoint)
		end_set_receiver(end, endpoint);
	else
		end_set_remote(end, address, family);
}
