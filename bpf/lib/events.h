/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Flow events (abi/events.h): what is said of a packet, and when. */
#pragma once

#include "aggregation.h"
#include "flow.h"
#include "metrics.h"
#include "parse.h"
#include "service_flow.h"

static __always_inline __u32 event_service(const struct flow *flow)
{
	const struct service_draft *service = flow->for_service ? service_draft_here() : 0;

	return service ? service->to.service_id : 0;
}

static __always_inline void event_fill_packet(struct flow_event *event, const struct flow *flow)
{
	bool is_icmp = flow->tuple.protocol == icmp_protocol(flow->family);

	event->source = flow->tuple.source;
	event->destination = flow->tuple.destination;
	event->source_port = is_icmp ? 0 : flow->tuple.source_port;
	event->destination_port = is_icmp ? 0 : flow->tuple.destination_port;
	event->family = flow->family;
	event->protocol = flow->tuple.protocol;
	event->tcp_flags = flow->tcp_flags;
	event->icmp_type = flow->icmp_type;
	event->icmp_code = flow->icmp_code;
	event->packet_bytes = flow->bytes;
	event->reason = flow->reason;
	event->is_reply = flow->is_reply;
	event->direction = flow->drop_direction;
	event->error = flow->error;
	event->service_id = event_service(flow);
}

static __always_inline void event_fill_ends(struct flow_event *event, const struct flow *flow)
{
	event->source_identity = flow->source.sec_identity;
	event->destination_identity = flow->destination.sec_identity;
	event->source_endpoint = flow->source.endpoint_id;
	event->destination_endpoint = flow->destination.endpoint_id;
}

static __always_inline __u32 event_revision(const struct end *end)
{
	return end->revision == REVISION_MISSING ? 0 : end->revision;
}

static __always_inline void event_fill_verdict(struct flow_event *event, const struct flow *flow)
{
	__u32 source_revision = event_revision(&flow->source),
	      destination_revision = event_revision(&flow->destination);
	bool is_reply = flow->is_reply == IS_REPLY_YES;

	event->verdict_flags = flow->verdict.flags;
	event->egress_row = flow->verdict.egress_row;
	event->ingress_row = flow->verdict.ingress_row;
	event->egress_selector = flow->verdict.egress_selector;
	event->ingress_selector = flow->verdict.ingress_selector;
	event->egress_revision = is_reply ? destination_revision : source_revision;
	event->ingress_revision = is_reply ? source_revision : destination_revision;
}

static __always_inline void event_fill_frame(struct flow_event *event, struct __sk_buff *skb)
{
	const struct ethhdr *ethernet = PACKET_IP_OFFSET ? packet_bytes(skb, 0, ETH_HLEN) : 0;

	event->ifindex = skb->ifindex;
	event->ether_type = be16(skb->protocol);
	if (ethernet) {
		__builtin_memcpy(&event->source_mac, ethernet->h_source, ETH_ALEN);
		__builtin_memcpy(&event->destination_mac, ethernet->h_dest, ETH_ALEN);
	}
}

/* Room in the ring with what the flow says; 0 if there is none, and that is counted. */
static __always_inline struct flow_event *event_begin(__u32 type, __u32 subtype)
{
	const struct flow *flow = flow_here();
	struct flow_event *event;

	if (!flow)
		return 0;
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event) {
		events_count_lost();
		return 0;
	}
	__builtin_memset(event, 0, sizeof(*event));
	event->type = type;
	event->subtype = subtype;
	event_fill_packet(event, flow);
	event_fill_ends(event, flow);
	event_fill_verdict(event, flow);
	event->time_ns = bpf_ktime_get_ns();
	event->cpu = bpf_get_smp_processor_id();
	return event;
}

/* To be called before the packet is rewritten. Packet pointers are void afterwards. */
__noinline int event_send(struct __sk_buff *skb, __u32 type, __u32 subtype)
{
	struct flow_event *event = event_begin(type, subtype);

	if (!event)
		return 0;
	event_fill_frame(event, skb);
	bpf_ringbuf_submit(event, events_wakeup(event->time_ns));
	return 0;
}

static __always_inline void trace(struct __sk_buff *skb, const struct flow *flow, enum trace_point point)
{
	if (unlikely(trace_is_due(flow)))
		event_send(skb, EVENT_TRACE, point);
}

/* The end of a packet that may not pass. */
__noinline int drop(struct __sk_buff *skb, __u32 reason, __u32 direction)
{
	struct flow *flow = flow_here();

	if (!flow)
		return TC_ACT_SHOT;
	if (flow->drop_direction)
		direction = flow->drop_direction;
	flow->drop_direction = direction;
	flow->reason = TRACE_REASON_UNKNOWN;
	metrics_count(direction, reason, flow->bytes);
	if (reason != DROP_MULTICAST_HANDLED)
		event_send(skb, EVENT_DROP, reason);
	return TC_ACT_SHOT;
}
