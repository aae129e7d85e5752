/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What comes back to a masqueraded flow, and ICMP errors about one: to be turned to the pod before anything else looks
 * at the packet. STEP_DONE: its destination is a local endpoint now; STEP_IGNORE: it is the node's own; STEP_SERVICE: it
 * came back for a service (service_flow.h); or a drop reason.
 */
#pragma once

#include "endpoint.h"
#include "fragment.h"
#include "l4.h"
#include "nat.h"
#include "nat_rewrite.h"

CONFIG(__u32, config_masquerade);
CONFIG(__u32, config_services);
CONFIG(__u32, config_tunnel_port);

enum nat_in_step {
	STEP_SERVICE = -6,
};

static __always_inline bool nat_is_overlay(const struct tuple *tuple)
{
	return tuple->protocol == IPPROTO_UDP && tuple->destination_port == be16(config_tunnel_port);
}

/* The entry that turns packets with this key, if who is behind it is still there: the node itself, or an endpoint. */
static __always_inline struct nat_entry *nat_find_in(const struct nat6_key *key, __u8 family)
{
	struct nat_entry *entry = nat_find(key, family);
	struct ipv6_addr inside;

	if (likely(!entry))
		return 0;
	if (entry->flags & NAT_SERVICE)
		return entry;
	if (!config_masquerade)
		return 0;
	inside = entry->address;
	return address_equal(&inside, &key->local) || endpoint_lookup(&inside, family) ? entry : 0;
}

static __always_inline int nat_turn(struct __sk_buff *skb, struct flow *flow, const struct nat_entry *entry,
				    __be16 port)
{
	return nat_rewrite(skb, flow, NAT_DESTINATION, &entry->address, port);
}

/* An error that quotes what a pod has sent, as the network has seen it. */
__noinline int nat_error_in(struct __sk_buff *skb)
{
	struct flow *flow = flow_here();
	struct tuple quoted = {};
	struct nat_entry *entry;
	struct nat6_key key;
	int l4_offset;

	if (!flow)
		return STEP_IGNORE;
	l4_offset = icmp_quoted(skb, flow->l4_offset, flow->family, &quoted);
	if (!l4_offset || !address_equal(&quoted.source, &flow->tuple.destination))
		return STEP_IGNORE;
	nat_key_out(&key, &quoted);
	key.direction = NAT_IN;
	entry = nat_find_in(&key, flow->family);
	if (!entry)
		return STEP_IGNORE;
	if (entry->flags & NAT_SERVICE)
		return STEP_SERVICE;
	if (nat_rewrite_quoted(skb, flow, NAT_SOURCE, &quoted, l4_offset, entry))
		return DROP_WRITE_ERROR;
	if (address_equal(&entry->address, &key.local))
		return STEP_IGNORE;
	return nat_turn(skb, flow, entry, flow->tuple.destination_port);
}

__noinline int nat_reply_in(struct __sk_buff *skb)
{
	struct flow *flow = flow_here();
	struct nat_entry *entry;
	struct nat6_key key;
	int reason;

	if (!flow || (flow->fragment == FRAGMENT_LATER && fragment_recall()))
		return STEP_IGNORE;
	nat_key_in(&key, &flow->tuple);
	entry = nat_find_in(&key, flow->family);
	if (!entry)
		return STEP_IGNORE;
	if (flow->fragment == FRAGMENT_FIRST)
		fragment_remember();
	nat_touch(entry, clock_now_s());
	if (entry->flags & NAT_SERVICE)
		return STEP_SERVICE;
	reason = nat_turn(skb, flow, entry, entry->port);
	if (reason)
		return reason;
	return address_equal(&entry->address, &key.local) ? STEP_IGNORE : STEP_DONE;
}

static __always_inline int nat_in(struct __sk_buff *skb, struct flow *flow, __u8 family)
{
	if (!(config_masquerade || config_services) || parse_l4(skb, flow, family) || nat_is_overlay(&flow->tuple))
		return STEP_IGNORE;
	if (likely(flow->tracking == TRACKING_CONNECTION || flow->tracking == TRACKING_REPLY))
		return nat_reply_in(skb);
	return flow->tracking == TRACKING_RELATED ? nat_error_in(skb) : STEP_IGNORE;
}
