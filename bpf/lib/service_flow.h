/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* service_flows4 and service_flows6: what became of the packets of a connection to a service, and becomes of those that
 * come back. Keys are put together in the form of IPv6; only the last step tells the families apart.
 */
#pragma once

#include "../maps/service.h"
#include "../maps/service_draft.h"
#include "flow.h"
#include "parse.h"

static __always_inline struct service_draft *service_draft_here(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&service_draft, &zero);
}

static __always_inline struct service_flow4_key service_flow4_key_of(const struct service_flow6_key *key)
{
	return (struct service_flow4_key){
	    .source = key->source.words[3],
	    .destination = key->destination.words[3],
	    .source_port = key->source_port,
	    .destination_port = key->destination_port,
	    .protocol = key->protocol,
	};
}

static __always_inline struct service_flow_entry *service_flow_find(const struct service_flow6_key *key, __u8 family)
{
	if (family == FAMILY_IPV4) {
		struct service_flow4_key key4 = service_flow4_key_of(key);

		return bpf_map_lookup_elem(&service_flows4, &key4);
	}
	return bpf_map_lookup_elem(&service_flows6, key);
}

static __always_inline long service_flow_put(const struct service_flow6_key *key,
					     const struct service_flow_entry *entry, __u8 family)
{
	if (family == FAMILY_IPV4) {
		struct service_flow4_key key4 = service_flow4_key_of(key);

		return bpf_map_update_elem(&service_flows4, &key4, entry, BPF_ANY);
	}
	return bpf_map_update_elem(&service_flows6, key, entry, BPF_ANY);
}

static __always_inline void service_flow_remove(const struct service_flow6_key *key, __u8 family)
{
	if (family == FAMILY_IPV4) {
		struct service_flow4_key key4 = service_flow4_key_of(key);

		bpf_map_delete_elem(&service_flows4, &key4);
	} else {
		bpf_map_delete_elem(&service_flows6, key);
	}
}

/* Do both turn packets into the same? */
static __always_inline bool service_flow_same(const struct service_flow_entry *a, const struct service_flow_entry *b)
{
	return a->source_port == b->source_port && a->destination_port == b->destination_port &&
	       address_equal(&a->source, &b->source) && address_equal(&a->destination, &b->destination);
}

/* What comes back: from where the packet goes, as if it came from where the packet was sent to. */
static __always_inline void service_flow_back(struct service_draft *draft)
{
	draft->back.source = draft->to.destination;
	draft->back.destination = draft->to.source;
	draft->back.source_port = draft->to.destination_port;
	draft->back.destination_port = draft->to.source_port;
	draft->back.protocol = draft->packet.protocol;
	draft->back_to.source = draft->packet.destination;
	draft->back_to.destination = draft->packet.source;
	draft->back_to.source_port = draft->packet.destination_port;
	draft->back_to.destination_port = draft->packet.source_port;
	draft->back_to.backend_id = draft->to.backend_id;
	draft->back_to.service_id = draft->to.service_id;
	draft->back_to.used_s = draft->now_s;
	draft->back_to.ifindex = draft->ifindex;
	draft->back_to.flags = draft->to.flags | SERVICE_FLOW_REPLY;
}
