/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Connection tracking: the canonical key, lookup, and the state machine (abi/conntrack.h).
 *
 * An entry is written only when something in it changes; expiry moves once a second at most. Two CPUs may race for
 * an entry: each write is whole in itself, the last one wins, and the next packet mends what was lost.
 */
#pragma once

#include "../maps/conntrack.h"
#include "flow.h"
#include "l4.h"

EXPORT_TYPE(enum, ct_state);
EXPORT_TYPE(enum, ct_flags);

static __always_inline bool tuple_source_is_high4(const struct tuple *tuple)
{
	__u64 source = (__u64)be32(tuple->source.words[3]) << 16 | be16(tuple->source_port);
	__u64 destination = (__u64)be32(tuple->destination.words[3]) << 16 | be16(tuple->destination_port);

	return source > destination;
}

static __always_inline __u64 ipv6_half(const struct ipv6_addr *address, int half)
{
	return (__u64)be32(address->words[half * 2]) << 32 | be32(address->words[half * 2 + 1]);
}

static __always_inline bool tuple_source_is_high6(const struct tuple *tuple)
{
	__u64 source = ipv6_half(&tuple->source, 0), destination = ipv6_half(&tuple->destination, 0);

	if (source != destination)
		return source > destination;
	source = ipv6_half(&tuple->source, 1);
	destination = ipv6_half(&tuple->destination, 1);
	if (source != destination)
		return source > destination;
	return be16(tuple->source_port) > be16(tuple->destination_port);
}

static __always_inline bool tuple_source_is_high(const struct tuple *tuple, __u8 family)
{
	return family == FAMILY_IPV4 ? tuple_source_is_high4(tuple) : tuple_source_is_high6(tuple);
}

static __always_inline struct ct4_key ct4_key_of(const struct tuple *tuple, bool source_is_high)
{
	struct ct4_key key = {.protocol = tuple->protocol};

	key.address_low = source_is_high ? tuple->destination.words[3] : tuple->source.words[3];
	key.address_high = source_is_high ? tuple->source.words[3] : tuple->destination.words[3];
	key.port_low = source_is_high ? tuple->destination_port : tuple->source_port;
	key.port_high = source_is_high ? tuple->source_port : tuple->destination_port;
	return key;
}

static __always_inline struct ct6_key ct6_key_of(const struct tuple *tuple, bool source_is_high)
{
	struct ct6_key key = {.protocol = tuple->protocol};

	if (source_is_high) {
		key.address_low = tuple->destination;
		key.address_high = tuple->source;
		key.port_low = tuple->destination_port;
		key.port_high = tuple->source_port;
	} else {
		key.address_low = tuple->source;
		key.address_high = tuple->destination;
		key.port_low = tuple->source_port;
		key.port_high = tuple->destination_port;
	}
	return key;
}

/* The live entry of the tuple's connection, and whether the tuple is that of a reply; 0 if there is none. */
static __always_inline struct ct_entry *ct_lookup(const struct tuple *tuple, __u8 family, __u32 now_s, bool *is_reply)
{
	bool source_is_high = tuple_source_is_high(tuple, family);
	struct ct_entry *entry;

	if (family == FAMILY_IPV4) {
		struct ct4_key key = ct4_key_of(tuple, source_is_high);

		entry = bpf_map_lookup_elem(&ct4, &key);
	} else {
		struct ct6_key key = ct6_key_of(tuple, source_is_high);

		entry = bpf_map_lookup_elem(&ct6, &key);
	}
	if (!entry || now_s >= entry->expires_s)
		return 0;
	*is_reply = source_is_high != (bool)(entry->flags & CT_ORIGIN_HIGH);
	return entry;
}

static __always_inline void ct_remove(const struct flow *flow, __u8 family)
{
	bool source_is_high = tuple_source_is_high(&flow->tuple, family);

	if (family == FAMILY_IPV4) {
		struct ct4_key key = ct4_key_of(&flow->tuple, source_is_high);

		bpf_map_delete_elem(&ct4, &key);
	} else {
		struct ct6_key key = ct6_key_of(&flow->tuple, source_is_high);

		bpf_map_delete_elem(&ct6, &key);
	}
}

/* Is the packet none of the entry's, although it has its tuple? A SYN on a connection that is over opens the next one;
 * a SYN from the other end asks for one of its own, which must not pass as a reply. So does an echo request whose
 * identifier is 0, which tells no ends apart.
 */
static __always_inline bool ct_is_foreign(const struct ct_entry *entry, const struct flow *flow, bool is_reply)
{
	if (unlikely(flow->tracking))
		return (flow->tracking == TRACKING_REPLY) != is_reply;
	return unlikely((flow->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN) &&
	       (is_reply || entry->state >= CT_STATE_CLOSING);
}

static __always_inline __u32 ct_lifetime_s(__u8 protocol, __u8 state)
{
	if (likely(state == CT_STATE_ESTABLISHED))
		return protocol == IPPROTO_TCP ? CT_LIFETIME_TCP_S : CT_LIFETIME_OTHER_S;
	if (state == CT_STATE_OPENING)
		return CT_LIFETIME_OPENING_S;
	return state == CT_STATE_CLOSING ? CT_LIFETIME_CLOSING_S : CT_LIFETIME_CLOSED_S;
}

/* FIN and RST: the only packets that end a connection. */
static __always_inline __u8 ct_state_after_end(struct ct_entry *entry, const struct flow *flow, bool is_reply)
{
	const __u8 both = CT_FIN_ORIGIN | CT_FIN_REPLY;

	if (flow->tcp_flags & TCP_RST)
		return CT_STATE_CLOSED;
	entry->flags |= is_reply ? CT_FIN_REPLY : CT_FIN_ORIGIN;
	if ((entry->flags & both) != both)
		return CT_STATE_CLOSING;
	entry->last_fin_end = be32(flow->tcp_sequence) + flow->bytes - flow->l4_offset - flow->tcp_words * 4 + 1;
	entry->last_fin_acknowledgment = flow->tcp_acknowledgment;
	return CT_STATE_CLOSED;
}

/* Is this the last packet of a connection that both sides have closed in turn? It acknowledges the last FIN, and that one
 * had acknowledged its sender's: of FINs that crossed one is still to be acknowledged.
 */
static __always_inline bool ct_is_last(const struct ct_entry *entry, const struct flow *flow)
{
	return unlikely(entry->state == CT_STATE_CLOSED) && !(flow->tcp_flags & (TCP_FIN | TCP_SYN | TCP_RST)) &&
	       flow->tcp_sequence == entry->last_fin_acknowledgment &&
	       be32(flow->tcp_acknowledgment) == entry->last_fin_end;
}

/* Takes a packet that may pass into account. */
static __always_inline void ct_refresh(struct ct_entry *entry, const struct flow *flow, bool is_reply)
{
	__u8 state = entry->state;
	__u32 expires_s;

	if (unlikely(state == CT_STATE_OPENING) && is_reply)
		state = CT_STATE_ESTABLISHED;
	if (unlikely(flow->tcp_flags & (TCP_FIN | TCP_RST)) && state != CT_STATE_CLOSED)
		state = ct_state_after_end(entry, flow, is_reply);
	if (unlikely(state != entry->state))
		entry->state = state;
	expires_s = flow->now_s + ct_lifetime_s(flow->tuple.protocol, state);
	if (unlikely(expires_s != entry->expires_s))
		entry->expires_s = expires_s;
	if (unlikely(flow->for_service && !(entry->flags & CT_TRANSLATED)))
		entry->flags |= CT_TRANSLATED;
}

static __always_inline __u8 ct_first_state(const struct flow *flow)
{
	if (flow->tcp_flags & TCP_RST)
		return CT_STATE_CLOSED;
	return flow->tcp_flags & TCP_FIN ? CT_STATE_CLOSING : CT_STATE_OPENING;
}

/* Makes the entry of a connection whose first packet, `flow`, may pass; 0 or what the kernel said. */
static __always_inline long ct_create(const struct flow *flow)
{
	bool source_is_high = tuple_source_is_high(&flow->tuple, flow->family);
	struct ct_entry entry = {
	    .created_s = flow->now_s,
	    .source_identity = flow->source.sec_identity,
	    .destination_identity = flow->destination.sec_identity,
	    .egress_revision = flow->source.revision,
	    .ingress_revision = flow->destination.revision,
	    .egress_row = flow->verdict.egress_row,
	    .ingress_row = flow->verdict.ingress_row,
	    .egress_selector = flow->verdict.egress_selector,
	    .ingress_selector = flow->verdict.ingress_selector,
	    .state = ct_first_state(flow),
	    .flags = (source_is_high ? CT_ORIGIN_HIGH : 0) | (flow->tcp_flags & TCP_FIN ? CT_FIN_ORIGIN : 0) |
		     flow->for_service * CT_TRANSLATED,
	    .tcp_flags_origin = flow->tcp_flags,
	    .reported_origin_s = flow->now_s,
	};

	entry.expires_s = flow->now_s + ct_lifetime_s(flow->tuple.protocol, entry.state);
	if (flow->family == FAMILY_IPV4) {
		struct ct4_key key = ct4_key_of(&flow->tuple, source_is_high);

		return bpf_map_update_elem(&ct4, &key, &entry, BPF_ANY);
	} else {
		struct ct6_key key = ct6_key_of(&flow->tuple, source_is_high);

		return bpf_map_update_elem(&ct6, &key, &entry, BPF_ANY);
	}
}
