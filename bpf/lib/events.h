/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Flow events (abi/events.h): what is said of a packet, how often, and when the reader is woken.
 *
 * An event is drafted from struct flow in a per-CPU map, then finished and sent from there. No program interrupts
 * another on its CPU: all run with bottom halves off.
 */
#pragma once

#include "event_ring.h"
#include "flow.h"
#include "l4.h"
#include "metrics.h"
#include "parse.h"
#include "service_flow.h"

enum events_limits {
	EVENTS_TCP_FLAGS = TCP_FIN | TCP_SYN | TCP_RST,
};

static __always_inline __u32 event_service(const struct flow *flow)
{
	const struct service_draft *service = flow->for_service ? service_draft_here() : 0;

	return service ? service->to.service_id : 0;
}

static __always_inline void event_draft_packet(struct flow_event *draft, const struct flow *flow)
{
	draft->source = flow->tuple.source;
	draft->destination = flow->tuple.destination;
	draft->source_port = flow->tuple.source_port;
	draft->destination_port = flow->tuple.destination_port;
	draft->family = flow->family;
	draft->protocol = flow->tuple.protocol;
	draft->tcp_flags = flow->tcp_flags;
	draft->icmp_type = flow->icmp_type;
	draft->icmp_code = flow->icmp_code;
	draft->packet_bytes = flow->bytes;
	draft->reason = flow->reason;
	draft->is_reply = flow->is_reply;
	draft->direction = flow->drop_direction;
	draft->error = flow->error;
	draft->service_id = event_service(flow);
}

static __always_inline void event_draft_ends(struct flow_event *draft, const struct flow *flow)
{
	draft->source_identity = flow->source.sec_identity;
	draft->destination_identity = flow->destination.sec_identity;
	draft->source_endpoint = flow->source.endpoint ? flow->source.endpoint->endpoint_id : 0;
	draft->destination_endpoint = flow->destination.endpoint ? flow->destination.endpoint->endpoint_id : 0;
}

/* Of a packet whose connection stands: what conntrack remembers. Else: what was decided just now. */
static __always_inline void event_draft_verdict(struct flow_event *draft, const struct flow *flow)
{
	const struct ct_entry *entry = flow->entry;
	const struct verdict *verdict = &flow->verdict;

	draft->verdict_flags = verdict->flags;
	draft->egress_row = entry ? entry->egress_row : verdict->egress_row;
	draft->ingress_row = entry ? entry->ingress_row : verdict->ingress_row;
	draft->egress_selector = entry ? entry->egress_selector : verdict->egress_selector;
	draft->ingress_selector = entry ? entry->ingress_selector : verdict->ingress_selector;
	draft->egress_revision = flow->source.revision;
	draft->ingress_revision = flow->destination.revision;
}

static __always_inline __u32 event_revision(__u32 revision)
{
	return revision == REVISION_MISSING ? 0 : revision;
}

/* The draft has ports, also of ICMP, and revisions as they lie in the packet: source and destination. */
static __always_inline void event_fill(struct flow_event *event, const struct flow_event *draft)
{
	__u8 icmp = draft->family == FAMILY_IPV4 ? IPPROTO_ICMP : IPPROTO_ICMPV6;
	__u32 source_revision = event_revision(draft->egress_revision);
	__u32 destination_revision = event_revision(draft->ingress_revision);
	bool is_reply = draft->is_reply == IS_REPLY_YES;

	*event = *draft;
	if (draft->protocol == icmp)
		event->source_port = event->destination_port = 0;
	event->egress_revision = is_reply ? destination_revision : source_revision;
	event->ingress_revision = is_reply ? source_revision : destination_revision;
}

static __always_inline void event_fill_frame(struct flow_event *event, struct __sk_buff *skb)
{
	const struct ethhdr *ethernet = packet_bytes(skb, 0, ETH_HLEN);

	event->ifindex = skb->ifindex;
	event->ether_type = be16(skb->protocol);
	event->cpu = bpf_get_smp_processor_id();
	if (ethernet) {
		__builtin_memcpy(&event->source_mac, ethernet->h_source, ETH_ALEN);
		__builtin_memcpy(&event->destination_mac, ethernet->h_dest, ETH_ALEN);
	}
}

/* Sends this CPU's draft. Not static, so that it is verified once, apart from its callers: before Linux 6.4 the
 * verifier looks at a static function anew for nearly each path that leads to it, and all paths lead here.
 */
__noinline int event_publish(struct __sk_buff *skb)
{
	__u32 zero = 0;
	const struct flow_event *draft = bpf_map_lookup_elem(&event_draft, &zero);
	struct flow_event *event;

	if (!draft) /* there always is one, but the verifier cannot know */
		return 0;
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event) {
		events_count_lost();
		return 0;
	}
	event_fill(event, draft);
	event->time_ns = bpf_ktime_get_ns();
	event_fill_frame(event, skb);
	bpf_ringbuf_submit(event, events_wakeup(event->time_ns));
	return 0;
}

/* To be called before the packet is rewritten. Packet pointers are void afterwards. */
static __noinline int event_send(struct __sk_buff *skb, const struct flow *flow, __u8 type, __u8 subtype)
{
	__u32 zero = 0;
	struct flow_event *draft = bpf_map_lookup_elem(&event_draft, &zero);

	if (!draft)
		return 0;
	draft->type = type;
	draft->subtype = subtype;
	event_draft_packet(draft, flow);
	event_draft_ends(draft, flow);
	event_draft_verdict(draft, flow);
	return event_publish(skb);
}

/* Medium aggregation: is there anything in this packet that its connection has not reported lately? */
static __always_inline bool trace_is_news(struct flow *flow)
{
	struct ct_entry *entry = flow->entry;
	__u8 flags = flow->tcp_flags & EVENTS_TCP_FLAGS;
	__u32 now_s = flow->now_s;

	if (flow->is_reply == IS_REPLY_YES) {
		if (likely(now_s - entry->reported_reply_s < config_report_interval_s &&
			   !(flags & ~entry->tcp_flags_reply)))
			return false;
		entry->reported_reply_s = now_s;
		entry->tcp_flags_reply |= flags;
	} else {
		if (likely(now_s - entry->reported_origin_s < config_report_interval_s &&
			   !(flags & ~entry->tcp_flags_origin)))
			return false;
		entry->reported_origin_s = now_s;
		entry->tcp_flags_origin |= flags;
	}
	return true;
}

static __always_inline bool trace_is_due(struct flow *flow)
{
	if (config_aggregation <= AGGREGATION_LOW || flow->reason == TRACE_REASON_NEW)
		return true;
	if (config_aggregation == AGGREGATION_MAXIMUM)
		return false;
	if (flow->reason == TRACE_REASON_RELATED || !flow->entry)
		return true;
	return trace_is_news(flow);
}

static __always_inline void trace(struct __sk_buff *skb, struct flow *flow, enum trace_point point)
{
	if (unlikely(trace_is_due(flow)))
		event_send(skb, flow, EVENT_TRACE, point);
}

/* The end of a packet that may not pass. */
static __noinline int drop(struct __sk_buff *skb, struct flow *flow, __u8 reason, __u8 direction)
{
	if (flow->drop_direction)
		direction = flow->drop_direction;
	flow->drop_direction = direction;
	flow->reason = TRACE_REASON_UNKNOWN;
	metrics_count(direction, reason, flow->bytes);
	if (reason != DROP_MULTICAST_HANDLED)
		event_send(skb, flow, EVENT_DROP, reason);
	return TC_ACT_SHOT;
}
