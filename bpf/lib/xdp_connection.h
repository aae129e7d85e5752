/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Conntrack and events of what is sent on before the stack: the same entries and the same words as of what from_netdev
 * sends on. No end of these packets is an endpoint, so no policy is asked.
 */
#pragma once

#include "connection.h"
#include "events.h"
#include "service_return.h"
#include "xdp_way.h"

/* The flow of what the draft's packet becomes. */
static __always_inline void xdp_begin(struct flow *flow, const struct service_draft *draft)
{
	flow_clear(flow);
	flow->for_service = true;
	flow->tuple.protocol = draft->packet.protocol;
	flow->family = draft->family;
	flow->bytes = draft->bytes;
	flow->l4_offset = draft->l4_offset;
	flow->now_s = draft->now_s;
	service_take_tcp(flow, draft);
	service_take(flow, draft);
	end_resolve(&flow->source, &flow->tuple.source, draft->family);
	end_resolve(&flow->destination, &flow->tuple.destination, draft->family);
}

static __always_inline void xdp_refresh(struct flow *flow, struct ct_entry *entry, bool is_reply)
{
	flow->is_reply = is_reply;
	flow->reason = is_reply ? TRACE_REASON_REPLY : TRACE_REASON_ESTABLISHED;
	ct_refresh(entry, flow, is_reply);
	flow->no_news = aggregation_covers(entry, flow, is_reply);
	flow->is_last = ct_is_last(entry, flow);
}

/* Takes a packet to a backend into account; 0: that is for from_netdev to do. */
__noinline int xdp_open(void)
{
	struct flow *flow = flow_here();
	struct ct_entry *entry;
	bool is_reply = false;

	if (!flow)
		return 0;
	entry = ct_lookup(&flow->tuple, flow->family, flow->now_s, &is_reply);
	if (!entry || ct_is_foreign(entry, flow, is_reply)) {
		flow->is_reply = IS_REPLY_NO;
		flow->reason = TRACE_REASON_NEW;
		return !ct_open();
	}
	if (is_reply || !connection_revisions_current(entry, flow, false) ||
	    !connection_identities_current(entry, flow, false))
		return 0;
	xdp_refresh(flow, entry, false);
	service_end(flow);
	return 1;
}

/* The same of the answer of a backend. */
__noinline int xdp_hear(void)
{
	const struct service_draft *draft = service_draft_here();
	struct flow *flow = flow_here();
	struct ct_entry *entry;
	bool is_reply = false;

	if (!draft || !flow)
		return 0;
	entry = service_connection(draft, &is_reply);
	if (!entry || !is_reply || !(entry->flags & CT_TRANSLATED))
		return 0;
	xdp_refresh(flow, entry, true);
	service_end(flow);
	return 1;
}

/* As event_send(). */
__noinline int xdp_event_send(struct xdp_md *xdp, __u32 type, __u32 subtype)
{
	struct flow_event *event = event_begin(type, subtype);
	const struct ethhdr *ethernet;

	if (!event)
		return 0;
	event->ifindex = xdp->ingress_ifindex;
	ethernet = xdp_bytes(xdp, 0, ETH_HLEN);
	event->ether_type = event->family == FAMILY_IPV4 ? ETH_P_IP : ETH_P_IPV6;
	if (ethernet) {
		__builtin_memcpy(&event->source_mac, ethernet->h_source, ETH_ALEN);
		__builtin_memcpy(&event->destination_mac, ethernet->h_dest, ETH_ALEN);
	}
	bpf_ringbuf_submit(event, events_wakeup(event->time_ns));
	return 0;
}

/* To be called before the packet's addresses on the link are written. */
__noinline int xdp_trace(struct xdp_md *xdp)
{
	const struct service_draft *draft = service_draft_here();
	const struct xdp_draft *way = xdp_draft_here();
	struct flow *flow = flow_here();

	if (!draft || !way || !flow)
		return 0;
	metrics_count(DIRECTION_EGRESS, 0, way->bytes);
	flow->bytes = way->bytes;
	flow->source.sec_identity = draft->client_identity;
	if (trace_is_due(flow))
		xdp_event_send(xdp, EVENT_TRACE, way->point);
	return 0;
}
