/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Flow events (abi/events.h): what is said of a packet, how often, and when the reader is woken. */
#pragma once

#include "../abi/config.h"
#include "../maps/events.h"
#include "flow.h"
#include "l4.h"
#include "metrics.h"
#include "parse.h"

CONFIG(__u32, config_aggregation);
CONFIG(__u32, config_report_interval_s);
CONFIG(__u64, config_event_wakeup_ns);

enum events_limits {
	EVENTS_WAKE_FRACTION = 4, /* of the ring filled: the reader is woken at once */
	EVENTS_TCP_FLAGS = TCP_FIN | TCP_SYN | TCP_RST,
};

static __always_inline void events_count_lost(void)
{
	__u32 zero = 0;
	__u64 *lost = bpf_map_lookup_elem(&events_lost, &zero);

	if (lost)
		*lost += 1;
}

/* The flag for bpf_ringbuf_submit(): waking costs far more than an event, so it is done seldom. */
static __always_inline __u64 events_wakeup(__u64 now_ns)
{
	__u32 zero = 0;
	__u64 *last_ns = bpf_map_lookup_elem(&event_wakeup, &zero);

	if (!last_ns)
		return BPF_RB_FORCE_WAKEUP;
	if (now_ns - *last_ns < config_event_wakeup_ns &&
	    bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA) <
		bpf_ringbuf_query(&events, BPF_RB_RING_SIZE) / EVENTS_WAKE_FRACTION)
		return BPF_RB_NO_WAKEUP;
	*last_ns = now_ns;
	return BPF_RB_FORCE_WAKEUP;
}

static __always_inline void event_fill_packet(struct flow_event *event, const struct flow *flow)
{
	bool icmp = flow->tuple.protocol == (flow->family == FAMILY_IPV4 ? IPPROTO_ICMP : IPPROTO_ICMPV6);

	event->source = flow->tuple.source;
	event->destination = flow->tuple.destination;
	event->source_port = icmp ? 0 : flow->tuple.source_port;
	event->destination_port = icmp ? 0 : flow->tuple.destination_port;
	event->family = flow->family;
	event->protocol = flow->tuple.protocol;
	event->tcp_flags = flow->tcp_flags;
	event->icmp_type = flow->icmp_type;
	event->icmp_code = flow->icmp_code;
	event->packet_bytes = flow->bytes;
	event->reason = flow->reason;
	event->is_reply = flow->is_reply;
	event->error = flow->error;
}

static __always_inline void event_fill_ends(struct flow_event *event, const struct flow *flow)
{
	event->source_identity = flow->source.sec_identity;
	event->destination_identity = flow->destination.sec_identity;
	event->source_endpoint = flow->source.endpoint ? flow->source.endpoint->endpoint_id : 0;
	event->destination_endpoint = flow->destination.endpoint ? flow->destination.endpoint->endpoint_id : 0;
}

static __always_inline __u32 event_revision(const struct end *end)
{
	return end->revision == REVISION_MISSING ? 0 : end->revision;
}

/* Of a packet whose connection stands: what conntrack remembers. Else: what was decided just now. */
static __always_inline void event_fill_verdict(struct flow_event *event, const struct flow *flow)
{
	const struct ct_entry *entry = flow->entry;
	const struct verdict *verdict = &flow->verdict;
	bool is_reply = flow->is_reply == IS_REPLY_YES;

	event->verdict_flags = verdict->flags;
	event->egress_row = entry ? entry->egress_row : verdict->egress_row;
	event->ingress_row = entry ? entry->ingress_row : verdict->ingress_row;
	event->egress_selector = entry ? entry->egress_selector : verdict->egress_selector;
	event->ingress_selector = entry ? entry->ingress_selector : verdict->ingress_selector;
	event->egress_revision = event_revision(is_reply ? &flow->destination : &flow->source);
	event->ingress_revision = event_revision(is_reply ? &flow->source : &flow->destination);
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

/* To be called before the packet is rewritten. Packet pointers are void afterwards. */
static __noinline int event_send(struct __sk_buff *skb, struct flow *flow, __u8 type, __u8 subtype)
{
	struct flow_event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);

	if (!event) {
		events_count_lost();
		return 0;
	}
	__builtin_memset(event, 0, sizeof(*event));
	event->time_ns = bpf_ktime_get_ns();
	event->type = type;
	event->subtype = subtype;
	event->direction = type == EVENT_DROP ? flow->drop_direction : 0;
	event_fill_packet(event, flow);
	event_fill_ends(event, flow);
	event_fill_verdict(event, flow);
	event_fill_frame(event, skb);
	bpf_ringbuf_submit(event, events_wakeup(event->time_ns));
	return 0;
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
