/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* How programs translate for services (service_packet.h): the packet in hand goes into the draft, and what became of it
 * comes back.
 *
 *   forth (service_forth.h): before conntrack, which knows the backend's address alone
 *   back: after it, since its entry says that there is something to turn
 */
#pragma once

#include "ethernet.h"
#include "forward.h"
#include "metrics.h"
#include "service_packet.h"

CONFIG(__u32, config_services);
CONFIG(__u32, config_beside_kube_proxy);

/* What became of a packet, for the program to go on. */
enum service_path_step {
	STEP_FORTH = -7, /* it goes to a backend: service_begin() comes next */
	STEP_BACK = -8,  /* it has been turned: service_deliver() comes next */
};

static __always_inline void service_draft_flow(struct service_draft *draft, const struct flow *flow)
{
	draft->packet.source = flow->tuple.source;
	draft->packet.destination = flow->tuple.destination;
	draft->packet.source_port = flow->tuple.source_port;
	draft->packet.destination_port = flow->tuple.destination_port;
	draft->packet.protocol = flow->tuple.protocol;
	draft->now_s = clock_now_s();
	draft->l4_offset = flow->l4_offset;
	draft->family = flow->family;
	draft->fragment = flow->fragment;
	draft->tracking = flow->tracking;
	draft->bytes = flow->bytes;
	draft->tcp_flags = flow->tcp_flags;
	draft->tcp_words = flow->tcp_words;
	draft->tcp_sequence = flow->tcp_sequence;
	draft->tcp_acknowledgment = flow->tcp_acknowledgment;
	draft->icmp_type = flow->icmp_type;
	draft->icmp_code = flow->icmp_code;
	draft->hop_limit = flow->hop_limit;
}

static __always_inline void service_draft_fill(const struct flow *flow, __u32 where)
{
	struct service_draft *draft = service_draft_here();

	if (draft) {
		service_draft_flow(draft, flow);
		draft->where = where;
	}
}

/* The flow is of what the packet has become. */
static __always_inline void service_take(struct flow *flow, const struct service_draft *draft)
{
	flow->tuple.source = draft->to.source;
	flow->tuple.destination = draft->to.destination;
	flow->tuple.source_port = draft->to.source_port;
	flow->tuple.destination_port = draft->to.destination_port;
	flow->translated = true;
}

/* And has what conntrack reads of TCP headers. */
static __always_inline void service_take_tcp(struct flow *flow, const struct service_draft *draft)
{
	flow->tcp_flags = draft->tcp_flags;
	flow->tcp_words = draft->tcp_words;
	flow->tcp_sequence = draft->tcp_sequence;
	flow->tcp_acknowledgment = draft->tcp_acknowledgment;
}

/* Does the packet belong to a connection that was translated, and has not been so itself? */
static __always_inline bool service_is_due(const struct flow *flow)
{
	return unlikely(flow->ct_flags & CT_TRANSLATED) && !flow->for_service;
}

/* To be called of what has been translated, once conntrack has seen it. If the last packet is lost on its way, the FIN that is
 * sent again is answered with a reset, to who has closed as well.
 */
static __always_inline void service_end(const struct flow *flow)
{
	if (unlikely(flow->is_last))
		service_forget();
}

/* Of a packet for which that is so; STEP_IGNORE if there is nothing to turn: it was sent to the backend itself. */
__noinline int service_back(struct __sk_buff *skb)
{
	struct service_draft *draft = service_draft_here();
	struct flow *flow = flow_here();
	int step;

	if (!draft || !flow)
		return STEP_IGNORE;
	service_draft_flow(draft, flow);
	draft->where = 0;
	step = service_turn(skb);
	if (step == STEP_IGNORE || (step == DROP_NAT_NO_MAPPING && flow->is_reply != IS_REPLY_YES))
		return STEP_IGNORE;
	flow->for_service = true;
	if (step)
		return step;
	service_take(flow, draft);
	service_end(flow);
	if (draft->to.flags & SERVICE_FLOW_SNAT)
		end_resolve(&flow->destination, &flow->tuple.destination, flow->family);
	return STEP_DONE;
}

/* The node's own packet, in the draft, has the ends of what a translated connection has become: answers are the node's from
 * now on, and the other one gets another port with its next packet. Is it so?
 */
__noinline int service_yield(void)
{
	struct nat6_key key = {.direction = NAT_IN};
	struct service_draft *draft = service_draft_here();
	const struct service_flow_entry *found;

	if (!draft)
		return 0;
	draft->back.source = draft->packet.destination;
	draft->back.destination = draft->packet.source;
	draft->back.source_port = draft->packet.destination_port;
	draft->back.destination_port = draft->packet.source_port;
	draft->back.protocol = draft->packet.protocol;
	found = service_flow_find(&draft->back, draft->family);
	if (!found || !(found->flags & SERVICE_FLOW_SNAT))
		return 0;
	service_displace(draft, found);
	service_flow_remove(&draft->back, draft->family);
	key.local = draft->packet.source;
	key.local_port = draft->packet.source_port;
	key.remote = draft->packet.destination;
	key.remote_port = draft->packet.destination_port;
	key.protocol = draft->packet.protocol;
	nat_remove(&key, draft->family);
	return 1;
}

/* Must the turned packet go on by service_deliver()? Else to the endpoint that it was for before. */
static __always_inline bool service_has_left(const struct flow *flow)
{
	const struct service_draft *draft = unlikely(flow->for_service) ? service_draft_here() : 0;

	return draft && draft->to.flags & SERVICE_FLOW_REPLY &&
	       (draft->to.ifindex || draft->to.flags & (SERVICE_FLOW_SNAT | SERVICE_FLOW_DSR));
}

/* Back through the overlay, as the node's own: its address is what the client's node sees as the source. */
static __always_inline int service_deliver_overlay(struct __sk_buff *skb, const struct service_draft *draft)
{
	struct ipv6_addr address = draft->to.destination;
	const struct ipcache_entry *client = ipcache_lookup(&address, draft->family);

	return client ? forward_by_overlay(skb, client->node_id, IDENTITY_HOST) : TC_ACT_SHOT;
}

/* The turned packet to its client: an endpoint, or by the device by which its question came, or to where routes lead
 * if that came by way of another node. TC_ACT_SHOT if that cannot be. Only where packets come in.
 */
__noinline int service_deliver(struct __sk_buff *skb)
{
	const struct service_draft *draft = service_draft_here();
	const struct endpoint_entry *endpoint;
	struct ipv6_addr address;

	if (!draft)
		return TC_ACT_SHOT;
	if (draft->to.ifindex) {
		metrics_count(DIRECTION_EGRESS, 0, skb->len);
		if (draft->to.ifindex == config_overlay_ifindex)
			return service_deliver_overlay(skb, draft);
		return forward_by_device(skb, draft->to.ifindex, draft->hop_limit);
	}
	if (draft->to.flags & SERVICE_FLOW_DSR) {
		metrics_count(DIRECTION_EGRESS, 0, skb->len);
		return forward_by_route(skb, draft->hop_limit);
	}
	address = draft->to.destination;
	endpoint = endpoint_lookup(&address, draft->family);
	if (!endpoint || ethernet_to_endpoint(skb, &endpoint->mac, &endpoint->host_mac))
		return TC_ACT_SHOT;
	packet_take(skb);
	metrics_count(DIRECTION_INGRESS, 0, skb->len);
	return bpf_redirect_peer(endpoint->ifindex, 0);
}
