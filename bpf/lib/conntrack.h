/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Connection tracking: lookup, and the state machine (abi/conntrack.h).
 *
 * An entry is written only when something in it changes; expiry moves once a second at most. Two CPUs may race for
 * an entry: each write is whole in itself, the last one wins, and the next packet mends what was lost.
 */
#pragma once

#include "ct_key.h"
#include "ct_transient.h"
#include "flow.h"
#include "l4.h"

EXPORT_TYPE(enum, ct_state);
EXPORT_TYPE(enum, ct_flags);

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

/* What its lifetime follows from: one that may be a flood's lasts no longer than while it opens. */
static __always_inline __u8 ct_lasting_state(const struct ct_entry *entry, __u8 state)
{
	return likely(entry->flags & CT_ASSURED) || state != CT_STATE_ESTABLISHED ? state : CT_STATE_OPENING;
}

/* FIN and RST: the only packets that end a connection. */
static __always_inline __u8 ct_state_after_end(struct ct_entry *entry, const struct flow *flow, bool is_reply)
{
	const __u8 both = CT_FIN_ORIGIN | CT_FIN_REPLY;

	if (flow->tcp_flags & TCP_RST)
		return CT_STATE_CLOSED;
	entry->flags |= is_reply ? CT_FIN_REPLY : CT_FIN_ORIGIN;
	return (entry->flags & both) == both ? CT_STATE_CLOSED : CT_STATE_CLOSING;
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

/* Has its opener heard from the other end? Then nobody's flood ends it (ct_transient.h). A server answers a handshake
 * whoever began it, so that takes its third packet.
 */
static __always_inline bool ct_is_assured(const struct ct_entry *entry, const struct flow *flow, bool is_reply)
{
	if (entry->state != CT_STATE_ESTABLISHED)
		return false;
	if (l4_has_connections(flow->tuple.protocol))
		return !is_reply && !(flow->tcp_flags & (TCP_SYN | TCP_RST));
	return flow->now_s - entry->created_s >= CT_ASSURED_AFTER_S;
}

/* The packet ends the connection, which may have to give way from now on. A short one stands in its place still. */
static __always_inline void ct_end(struct ct_entry *entry, const struct flow *flow, bool is_reply)
{
	if (entry->flags & CT_ASSURED && !ct_has_place(entry->last_fin_end, flow, is_reply, entry->created_s))
		ct_remember(is_reply,
			    entry->created_s); /* before it has ended: its own place may be the one whose turn it is */
	entry->last_fin_end = be32(flow->tcp_sequence) + flow->bytes - flow->l4_offset - flow->tcp_words * 4 + 1;
	entry->last_fin_acknowledgment = flow->tcp_acknowledgment;
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
	if (unlikely(!(entry->flags & CT_ASSURED)) && ct_is_assured(entry, flow, is_reply))
		entry->flags |= CT_ASSURED;
	if (unlikely(state != entry->state)) {
		if (state == CT_STATE_CLOSED)
			ct_end(entry, flow, is_reply);
		entry->state = state;
	}
	expires_s = flow->now_s + ct_lifetime_s(flow->tuple.protocol, ct_lasting_state(entry, state));
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
		     flow->for_service * CT_TRANSLATED | flow->source.is_process * CT_ORIGIN_PROCESS |
		     flow->destination.is_process * CT_TARGET_PROCESS,
	    .tcp_flags_origin = flow->tcp_flags,
	    .reported_origin_s = flow->now_s,
	    .last_fin_end = flow->place,
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

/* The same of the packet in hand; its own frame, which that of who makes room is not on top of. */
__noinline int ct_add(void)
{
	const struct flow *flow = flow_here();

	return flow ? ct_create(flow) : -ENOENT;
}

/* Makes the entry of the connection that the packet in hand opens: 0 or what the kernel said. One that is refused has a
 * place all the same, for what was kept of it before.
 */
__noinline int ct_open(void)
{
	struct flow *flow = flow_here();
	int error;

	if (!flow)
		return -ENOENT;
	flow->place = ct_transient_turn();
	error = ct_add();
	if (unlikely(error == -E2BIG)) {
		ct_make_room();
		error = ct_add();
	}
	ct_take_place(flow->place, false, flow->now_s);
	return error;
}
