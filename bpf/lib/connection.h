/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* May this packet pass? Conntrack first; policy only if conntrack has no current answer.
 *
 *  1. an entry whose identities and revisions are current: yes, and nothing else is asked
 *  2. an entry that is not: the policies judge the direction in which the connection was opened, whichever way this
 *     packet goes; if they allow it the entry is brought up to date, else the packet is dropped and the entry left
 *     to expire
 *  3. no entry: the policies judge the packet, and it opens a connection if they allow it
 *  4. an ICMP error: yes if it is about a connection of case 1; else as 5
 *  5. other ICMP: the policies judge it by its type, each time anew
 *
 * Who has a node's address may be a process that has an identity of its own (process.h), which only the program that sees
 * its socket can tell, or the node that sent the packet. The entry remembers it for all others. Where such an end is
 * connected to, those who judge before its own program see the node.
 */
#pragma once

#include "aggregation.h"
#include "announced.h"
#include "clock.h"
#include "conntrack.h"
#include "endpoint.h"
#include "icmp.h"
#include "policy.h"

enum connection_step {
	STEP_BESIDE = -11, /* of a connection that may be beside a translated one: service_beside() says */
};

static __always_inline bool connection_revisions_current(const struct ct_entry *entry, const struct flow *flow,
							 bool is_reply)
{
	const struct end *origin = is_reply ? &flow->destination : &flow->source;
	const struct end *target = is_reply ? &flow->source : &flow->destination;

	return entry->egress_revision == origin->revision && entry->ingress_revision == target->revision;
}

static __always_inline bool connection_identities_current(const struct ct_entry *entry, const struct flow *flow,
							  bool is_reply)
{
	const struct end *origin = is_reply ? &flow->destination : &flow->source;
	const struct end *target = is_reply ? &flow->source : &flow->destination;

	return entry->source_identity == origin->sec_identity && entry->destination_identity == target->sec_identity;
}

static __always_inline bool identity_is_of_node(__u32 sec_identity)
{
	return sec_identity == IDENTITY_HOST || sec_identity == IDENTITY_REMOTE_NODE ||
	       sec_identity == IDENTITY_KUBE_APISERVER;
}

/* Takes what the entry knows better of an end: who has the node's address, or what was judged before. Of what came from no
 * socket of the process's only TCP and errors are its own, for which the kernel speaks: a datagram may be another's who has
 * its port by now.
 */
static __always_inline void connection_adopt_end(struct end *end, bool is_process, bool is_sender,
						 const struct flow *flow, __u32 sec_identity, __u32 revision)
{
	if (is_process && !end_is_local(end) && identity_is_of_node(end->sec_identity) &&
	    (!is_sender || flow->tuple.protocol == IPPROTO_TCP || flow->tracking == TRACKING_RELATED))
		end->is_process = end->is_judged = true;
	if (!end->is_judged)
		return;
	end->sec_identity = sec_identity;
	end->revision = revision;
}

static __always_inline void connection_adopt(const struct ct_entry *entry, struct flow *flow, bool is_reply)
{
	struct end *origin = is_reply ? &flow->destination : &flow->source;
	struct end *target = is_reply ? &flow->source : &flow->destination;

	connection_adopt_end(origin, entry->flags & CT_ORIGIN_PROCESS, !is_reply, flow, entry->source_identity,
			     entry->egress_revision);
	connection_adopt_end(target, entry->flags & CT_TARGET_PROCESS, is_reply, flow, entry->destination_identity,
			     entry->ingress_revision);
}

static __always_inline bool connection_is_current(const struct ct_entry *entry, const struct flow *flow, bool is_reply)
{
	return connection_revisions_current(entry, flow, is_reply) &&
	       connection_identities_current(entry, flow, is_reply);
}

/* The port that policy is about: of the end that was connected to; for ICMP the type that opened the exchange. */
static __always_inline __be16 connection_policy_port(const struct flow *flow, bool is_reply)
{
	if (flow->tuple.protocol == icmp_protocol(flow->family))
		return be16(is_reply ? icmp_echo_request(flow->family) : flow->icmp_type);
	return is_reply ? flow->tuple.source_port : flow->tuple.destination_port;
}

/* One policy's word on the connection; what it decided goes into the flow's verdict. Who connects to a process of a node
 * sees the node; another process of it, of which nobody has judged before, sees both.
 */
static __always_inline int connection_judge_side(struct flow *flow, const struct end *subject, const struct end *peer,
						 __u8 direction, __be16 port)
{
	bool sees_node = peer->is_process && direction == DIRECTION_EGRESS;
	__u32 sec_identity = sees_node ? IDENTITY_HOST : peer->sec_identity;
	__u32 cidr_identity = sees_node && subject->is_process ? peer->sec_identity : peer->cidr_identity;
	union policy_where where = {.direction = direction, .protocol = flow->tuple.protocol, .port = port};
	union policy_answer answer = {.word =
					  policy_decide(subject->policy_id, sec_identity, cidr_identity, where.word)};

	if (direction == DIRECTION_EGRESS) {
		flow->verdict.egress_row = answer.row_id;
		flow->verdict.egress_selector = answer.selector;
		flow->verdict.flags |= answer.verdict_flags;
	} else {
		flow->verdict.ingress_row = answer.row_id;
		flow->verdict.ingress_selector = answer.selector;
		flow->verdict.flags |= answer.verdict_flags << 1; /* to those of an ingress */
	}
	if (answer.reason)
		flow->drop_direction = direction;
	return answer.reason;
}

/* Every local policy's word, in the direction in which the connection was opened. */
__noinline int connection_judge(__u32 is_reply)
{
	struct flow *flow = flow_here();
	const struct end *origin, *target;
	int reason = STEP_DONE;
	__be16 port;

	if (!flow)
		return DROP_NO_CONFIG;
	origin = is_reply ? &flow->destination : &flow->source;
	target = is_reply ? &flow->source : &flow->destination;
	port = connection_policy_port(flow, is_reply);
	if (flow->source.announced)
		reason = end_complete_source();
	if (!reason && end_is_local(origin))
		reason = connection_judge_side(flow, origin, target, DIRECTION_EGRESS, port);
	if (!reason && end_is_local(target))
		reason = connection_judge_side(flow, target, origin, DIRECTION_INGRESS, port);
	return reason;
}

/* Which ends are processes of a node. Who has joined as one is to be told of, though the connection has been, as the node's. */
static __always_inline void connection_note_processes(struct ct_entry *entry, bool origin, bool target)
{
	__u8 flags = (entry->flags & ~(CT_ORIGIN_PROCESS | CT_TARGET_PROCESS)) | origin * CT_ORIGIN_PROCESS |
		     target * CT_TARGET_PROCESS;

	if (flags == entry->flags)
		return;
	entry->flags = flags;
	entry->reported_origin_s = entry->reported_reply_s = 0;
}

/* Case 2, allowed. Revisions come last: until they are there, other CPUs judge for themselves. */
static __always_inline void connection_update(struct ct_entry *entry, const struct flow *flow, bool is_reply)
{
	const struct end *origin = is_reply ? &flow->destination : &flow->source;
	const struct end *target = is_reply ? &flow->source : &flow->destination;

	entry->source_identity = origin->sec_identity;
	entry->destination_identity = target->sec_identity;
	connection_note_processes(entry, origin->is_process, target->is_process);
	if (!origin->is_judged) {
		entry->egress_row = flow->verdict.egress_row;
		entry->egress_selector = flow->verdict.egress_selector;
	}
	if (!target->is_judged) {
		entry->ingress_row = flow->verdict.ingress_row;
		entry->ingress_selector = flow->verdict.ingress_selector;
	}
	__asm__ volatile("" ::: "memory");
	entry->egress_revision = origin->revision;
	entry->ingress_revision = target->revision;
}

/* Case 3. Not static, as all that is seldom (flow.h). */
__noinline int connection_open(void)
{
	int reason = connection_judge(false);
	struct flow *flow = flow_here();

	if (!flow)
		return DROP_CT_INSERT_FAILED;
	flow->is_reply = IS_REPLY_NO;
	if (reason)
		return reason;
	flow->reason = TRACE_REASON_NEW;
	if (flow->tracking == TRACKING_REPLY)
		return STEP_DONE;
	flow->error = ct_open();
	return flow->error ? DROP_CT_INSERT_FAILED : STEP_DONE;
}

/* Case 2. The entry may be gone since it was found: then it may as well have been so before. */
__noinline int connection_rejudge(void)
{
	struct flow *flow = flow_here();
	struct ct_entry *entry;
	bool is_reply;
	int reason;

	if (!flow)
		return DROP_CT_INSERT_FAILED;
	entry = ct_lookup(&flow->tuple, flow->family, flow->now_s, &is_reply);
	if (!entry)
		return connection_open();
	connection_adopt(entry, flow, is_reply);
	if (connection_is_current(entry, flow, is_reply))
		return STEP_DONE;
	reason = connection_judge(is_reply);
	if (!reason)
		connection_update(entry, flow, is_reply);
	return reason;
}

/* What conntrack remembers of the decision. */
static __always_inline void connection_recall(struct flow *flow, const struct ct_entry *entry)
{
	flow->verdict.egress_row = entry->egress_row;
	flow->verdict.ingress_row = entry->ingress_row;
	flow->verdict.egress_selector = entry->egress_selector;
	flow->verdict.ingress_selector = entry->ingress_selector;
	flow->ct_flags = entry->flags;
}

/* Case 4. The error goes to the sender of the packet that it quotes, so the tuple is turned round to be the error's.
 * A pod speaks for itself alone; routers between (not local) speak of connections of others.
 */
static __always_inline bool connection_relates(struct __sk_buff *skb, struct flow *flow)
{
	struct ct_entry *entry;
	struct tuple quoted = {};
	bool is_reply;

	if (!icmp_quoted(skb, flow->l4_offset, flow->family, &quoted) ||
	    !address_equal(&quoted.source, &flow->tuple.destination))
		return false;
	if (end_is_local(&flow->source) && !address_equal(&quoted.destination, &flow->tuple.source))
		return false;
	entry = ct_lookup(&quoted, flow->family, flow->now_s, &is_reply);
	if (entry)
		connection_adopt(entry, flow, !is_reply);
	if (!entry || !connection_revisions_current(entry, flow, !is_reply))
		return false;
	connection_recall(flow, entry);
	flow->is_reply = is_reply ? IS_REPLY_NO : IS_REPLY_YES;
	flow->reason = TRACE_REASON_RELATED;
	return true;
}

/* Cases 4 and 5. */
__noinline int connection_admit_icmp(struct __sk_buff *skb)
{
	struct flow *flow = flow_here();

	if (flow && flow->tracking == TRACKING_RELATED && connection_relates(skb, flow))
		return STEP_DONE;
	return connection_judge(false);
}

/* May the entry go with the connection's last packet? If that comes to an endpoint of this node it is lost no more, so nobody
 * sends anything again. On its way to who opened the connection from another node it may be, and a FIN that is sent again is
 * judged as what opened it was; what answers who is outside needs the entry to leave with its own address (masquerade.h).
 * To who was connected to nothing may be sent again: nobody else may open a connection that way. What was translated for a
 * service has state beside the entry (service_forget()).
 */
static __always_inline bool connection_may_go(const struct ct_entry *entry, const struct flow *flow, bool is_reply)
{
	if (entry->flags & CT_TRANSLATED)
		return false;
	if (end_is_local(&flow->destination))
		return true;
	return is_reply && end_is_local(&flow->source) && flow->destination.node_id != NODE_ID_NONE;
}

/* Has a packet that is for no service the ends of what another connection of its sender has become, which is for one? Or may
 * it have had them when its connection was opened, of which nothing is known?
 */
static __always_inline bool connection_is_beside(const struct ct_entry *entry, const struct flow *flow, bool is_reply)
{
	if (unlikely(!entry))
		return l4_has_connections(flow->tuple.protocol) && (flow->tcp_flags & (TCP_SYN | TCP_ACK)) != TCP_SYN;
	return unlikely(entry->flags & CT_TRANSLATED) && !is_reply;
}

/* A packet of that connection. An entry whose connection has ended is removed at once: what the next one gets is still in the
 * processor's cache, and nothing else has to give way for it.
 */
static __always_inline int connection_admit_known(struct flow *flow, struct ct_entry *entry, __u8 family, bool is_reply)
{
	int reason;

	flow->is_reply = is_reply;
	if (unlikely(!connection_is_current(entry, flow, is_reply))) {
		reason = connection_rejudge();
		if (reason)
			return reason;
	}
	connection_recall(flow, entry);
	flow->reason = is_reply ? TRACE_REASON_REPLY : TRACE_REASON_ESTABLISHED;
	ct_refresh(entry, flow, is_reply);
	flow->no_news = aggregation_covers(entry, flow, is_reply);
	flow->is_last = ct_is_last(entry, flow);
	if (unlikely(flow->is_last) && connection_may_go(entry, flow, is_reply))
		ct_remove(&flow->tuple, family);
	return STEP_DONE;
}

/* As connection_admit(), or STEP_BESIDE where the program `tells_beside`. */
static __always_inline int connection_ask(struct __sk_buff *skb, struct flow *flow, __u8 family, bool tells_beside)
{
	struct ct_entry *entry;
	bool is_reply = false;

	flow->now_s = clock_now_s();
	if (unlikely(flow->tracking >= TRACKING_RELATED))
		return connection_admit_icmp(skb);
	entry = ct_lookup(&flow->tuple, family, flow->now_s, &is_reply);
	if (tells_beside && connection_is_beside(entry, flow, is_reply))
		return STEP_BESIDE;
	if (!entry || ct_is_foreign(entry, flow, is_reply))
		return connection_open();
	return connection_admit_known(flow, entry, family, is_reply);
}

/* 0 or a drop reason; the ends must be known. */
static __always_inline int connection_admit(struct __sk_buff *skb, struct flow *flow, __u8 family)
{
	return connection_ask(skb, flow, family, false);
}
