/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What leaves the node: whose packets get the node's address, and which port with it.
 *
 *  1. a reply to a connection that was opened from outside keeps the pod's address, under which it was opened
 *  2. what has a mapping keeps it, while both its halves are there and the device still has its address
 *  3. to the cluster, and to where no_masquerade4/6 say, packets go unchanged
 *  4. all other flows get a mapping
 *
 * STEP_DONE; STEP_UNMAPPED: a mapping is to be made of the draft, by masquerade_open(); STEP_IGNORE if the packet stays as it is, or a drop reason: nothing leaves with a pod's address because
 * there was no other.
 */
#pragma once

#include "conntrack.h"
#include "endpoint.h"
#include "fragment.h"
#include "nat.h"
#include "nat_in.h"
#include "nat_port.h"
#include "nat_rewrite.h"

enum masquerade_step {
	STEP_UNMAPPED = -3,
};

enum masquerade_identity {
	MASQUERADE_LOCAL_IDENTITY = 1 << 24, /* from here on: identities of rule CIDRs, which are outside */
};

static __always_inline bool masquerade_is_excepted(const struct ipv6_addr *destination, __u8 family)
{
	if (family == FAMILY_IPV4) {
		struct no_masquerade4_key key = {.prefix_len = 32, .address = destination->words[3]};

		return bpf_map_lookup_elem(&no_masquerade4, &key);
	} else {
		struct no_masquerade6_key key = {.prefix_len = 128, .address = *destination};

		return bpf_map_lookup_elem(&no_masquerade6, &key);
	}
}

/* An API server belongs to the cluster if it is on one of its nodes. */
static __always_inline bool masquerade_is_inside(const struct ipcache_entry *entry)
{
	switch (entry->sec_identity) {
	case IDENTITY_WORLD:
	case IDENTITY_WORLD_IPV4:
	case IDENTITY_WORLD_IPV6:
		return false;
	case IDENTITY_KUBE_APISERVER:
		return entry->node_id != NODE_ID_NONE;
	default:
		return entry->sec_identity < MASQUERADE_LOCAL_IDENTITY;
	}
}

/* Is the destination outside of the cluster, where pods' addresses mean nothing? */
static __always_inline bool masquerade_is_due(const struct ipv6_addr *destination, __u8 family)
{
	const struct ipcache_entry *entry = ipcache_lookup(destination, family);

	if (entry && masquerade_is_inside(entry))
		return false;
	return !masquerade_is_excepted(destination, family);
}

/* The device's address of the family; 0 if it has none. */
static __always_inline const struct ipv6_addr *masquerade_address(__u32 ifindex, __u8 family)
{
	const struct masquerade_entry *entry = bpf_map_lookup_elem(&masquerade, &ifindex);
	const struct ipv6_addr *address;

	if (!entry)
		return 0;
	address = family == FAMILY_IPV4 ? &entry->ipv4 : &entry->ipv6;
	return address->words[0] | address->words[1] | address->words[2] | address->words[3] ? address : 0;
}

/* Is NAT_IN of the mapping there too, and this flow's? Its port may be another's by now. */
static __always_inline bool masquerade_is_whole(const struct tuple *tuple, const struct nat_entry *out, __u8 family,
						__u32 now_s)
{
	struct nat6_key key;
	struct nat_entry *in;

	nat_key_out(&key, tuple);
	key.local = out->address;
	key.local_port = out->port;
	key.direction = NAT_IN;
	in = nat_find(&key, family);
	if (!in || !nat_entry_names(in, &tuple->source, tuple->source_port))
		return false;
	nat_touch(in, now_s);
	return true;
}

static __always_inline int masquerade_rewrite(struct __sk_buff *skb, struct flow *flow, const struct nat_entry *out,
					      __be16 port)
{
	return nat_rewrite(skb, flow, NAT_SOURCE, &out->address, port);
}

/* What a mapping is to be made of; what is left of an older one gives way. */
static __always_inline int masquerade_draft(const struct flow *flow, const struct ipv6_addr *outside,
					    const struct nat6_key *stale)
{
	struct nat_draft *draft = nat_draft_here();

	if (!draft)
		return DROP_NAT_NO_MAPPING;
	draft->inside = flow->tuple.source;
	draft->outside = *outside;
	draft->remote = flow->tuple.destination;
	draft->inside_port = flow->tuple.source_port;
	draft->remote_port = flow->tuple.destination_port;
	draft->protocol = flow->tuple.protocol;
	draft->family = flow->family;
	draft->now_s = flow->now_s;
	draft->flags = 0;
	nat_remove(stale, flow->family);
	return STEP_UNMAPPED;
}

/* Case 2, or STEP_UNMAPPED; `out` is what was found of the flow's mapping. */
static __always_inline int masquerade_translate(struct __sk_buff *skb, struct flow *flow,
						const struct ipv6_addr *outside, struct nat_entry *out)
{
	struct nat6_key key;

	if (likely(out && address_equal(&out->address, outside) &&
		   masquerade_is_whole(&flow->tuple, out, flow->family, flow->now_s))) {
		nat_touch(out, flow->now_s);
		return masquerade_rewrite(skb, flow, out, out->port);
	}
	nat_key_out(&key, &flow->tuple);
	return masquerade_draft(flow, outside, &key);
}

/* Case 4, after STEP_UNMAPPED: 0 or a drop reason. */
__noinline int masquerade_open(struct __sk_buff *skb)
{
	int reason = nat_find_port(skb);
	struct flow *flow = flow_here();
	const struct nat_entry *out;
	struct nat6_key key;

	if (!flow)
		return DROP_NAT_NO_MAPPING;
	if (reason)
		return reason;
	nat_commit(flow->now_s);
	nat_key_out(&key, &flow->tuple);
	out = nat_find(&key, flow->family);
	return out ? masquerade_rewrite(skb, flow, out, out->port) : DROP_NAT_NO_MAPPING;
}

/* A pod's error about a packet that came to it from outside. The one that it quotes came by a mapping, which it now
 * goes back by; or it belongs to a connection that was opened from outside (case 1). The node's own (not `is_due`) is
 * only of interest for services.
 */
__noinline int masquerade_error(struct __sk_buff *skb, __u32 is_due)
{
	struct flow *flow = flow_here();
	struct tuple quoted = {};
	struct nat_entry *out;
	struct nat6_key key;
	bool is_reply;
	int l4_offset;

	if (!flow)
		return DROP_NAT_NO_MAPPING;
	l4_offset = icmp_quoted(skb, flow->l4_offset, flow->family, &quoted);
	if (!l4_offset)
		return is_due ? DROP_NAT_NO_MAPPING : STEP_IGNORE;
	flow->now_s = clock_now_s();
	nat_key_in(&key, &quoted);
	key.direction = NAT_OUT;
	out = nat_find(&key, flow->family);
	if (out) {
		if (nat_rewrite_quoted(skb, flow, NAT_DESTINATION, &quoted, l4_offset, out))
			return DROP_WRITE_ERROR;
		return masquerade_rewrite(skb, flow, out, flow->tuple.source_port);
	}
	if (ct_lookup(&quoted, flow->family, flow->now_s, &is_reply) && !is_reply)
		return STEP_IGNORE;
	return is_due && masquerade_is_due(&flow->tuple.destination, flow->family) ? DROP_NAT_NO_MAPPING : STEP_IGNORE;
}

static __always_inline bool masquerade_is_supported(const struct flow *flow)
{
	if (flow->tuple.protocol == icmp_protocol(flow->family))
		return flow->tracking == TRACKING_REQUEST;
	return nat_has_ports(flow->tuple.protocol);
}

/* The packet of a local endpoint, no ICMP error. */
__noinline int masquerade_endpoint(struct __sk_buff *skb)
{
	struct flow *flow = flow_here();
	const struct ipv6_addr *outside;
	struct nat_entry *out;
	struct ct_entry *connection;
	struct nat6_key key;
	bool is_reply = false;
	int reason;

	if (!flow)
		return DROP_NAT_NO_MAPPING;
	reason = fragment_track(flow);
	if (reason)
		return reason;
	flow->now_s = clock_now_s();
	connection = ct_lookup(&flow->tuple, flow->family, flow->now_s, &is_reply);
	if (connection && is_reply)
		return STEP_IGNORE;
	nat_key_out(&key, &flow->tuple);
	out = nat_find(&key, flow->family);
	if (!out && !masquerade_is_due(&flow->tuple.destination, flow->family))
		return STEP_IGNORE;
	if (!masquerade_is_supported(flow))
		return DROP_NAT_UNSUPPORTED;
	outside = masquerade_address(skb->ifindex, flow->family);
	return outside ? masquerade_translate(skb, flow, outside, out) : DROP_NAT_NO_MAPPING;
}

/* The node's own packet that has met a mapping: a backend in the node's own network namespace answers as the service
 * (lib/service_packet.h); what has met that of a pod gets one itself, with another port of the same address.
 */
__noinline int masquerade_own_translate(struct __sk_buff *skb)
{
	struct flow *flow = flow_here();
	struct nat_entry *out;
	struct nat6_key key;
	bool is_answer;

	if (!flow)
		return DROP_NAT_NO_MAPPING;
	nat_key_out(&key, &flow->tuple);
	out = nat_find(&key, flow->family);
	is_answer = out && out->flags & NAT_SERVICE;
	if (!is_answer && !config_masquerade)
		return STEP_IGNORE;
	flow->now_s = clock_now_s();
	if (flow->fragment == FRAGMENT_FIRST)
		fragment_remember();
	if (!is_answer)
		return masquerade_translate(skb, flow, &flow->tuple.source, out);
	nat_touch(out, flow->now_s);
	return masquerade_rewrite(skb, flow, out, out->port);
}

/* The node's own packet: nearly always nobody else has its ports. One that comes from no socket is not the node's own but
 * forwarded, and has been translated if it is a pod's: as on the device below a bond or a bridge.
 */
static __always_inline int masquerade_own(struct __sk_buff *skb, struct flow *flow, __u8 family)
{
	struct nat6_key key;

	if (unlikely(flow->tracking == TRACKING_RELATED))
		return masquerade_error(skb, false);
	if (flow->tracking > TRACKING_REQUEST || nat_is_overlay(&flow->tuple))
		return STEP_IGNORE;
	if (unlikely(flow->fragment == FRAGMENT_LATER) && fragment_recall())
		return STEP_IGNORE;
	nat_key_out(&key, &flow->tuple);
	if (unlikely(nat_find(&key, family)))
		return masquerade_own_translate(skb);
	if (!config_masquerade)
		return STEP_IGNORE;
	key.direction = NAT_IN;
	if (likely(!nat_find(&key, family)) || !skb->sk)
		return STEP_IGNORE;
	return masquerade_own_translate(skb);
}
