/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What an endpoint that is processes of the node sends to the network: judged where it leaves. */
#pragma once

#include "connection.h"
#include "events.h"
#include "fragment.h"
#include "parse.h"
#include "process.h"

/* Did the socket send this very packet? What a tunnel of the node's wraps keeps the socket of what is in it, which has been
 * judged. Of the ports one may have been translated by the stack. A connection that is not accepted yet has no whole socket.
 */
static __always_inline bool process_sent(struct __sk_buff *skb, const struct flow *flow)
{
	struct bpf_sock *socket = skb->sk;

	socket = socket ? bpf_sk_fullsock(socket) : 0;
	if (!socket)
		return flow->tuple.protocol == IPPROTO_TCP;
	if (socket->protocol != flow->tuple.protocol)
		return false;
	if (flow->tuple.protocol != IPPROTO_TCP && flow->tuple.protocol != IPPROTO_UDP)
		return true;
	return socket->src_port == be16(flow->tuple.source_port) ||
	       (__be16)socket->dst_port == flow->tuple.destination_port;
}

static __always_inline int process_judge_out(struct __sk_buff *skb, struct flow *flow, __u8 family)
{
	int reason = parse_ip(skb, flow, family);

	if (!reason)
		reason = parse_l4(skb, flow, family);
	if (!reason)
		reason = fragment_track(flow);
	if (reason)
		return reason;
	if (endpoint_lookup(&flow->tuple.source, family) ||
	    (flow->fragment != FRAGMENT_LATER && !process_sent(skb, flow)))
		return STEP_IGNORE;
	end_set_remote(&flow->destination, &flow->tuple.destination, family);
	return connection_admit(skb, flow, family);
}

/* Everything that leaves by a device: true if it must not. Not static, so that it is verified once. */
__noinline int process_out(struct __sk_buff *skb)
{
	struct flow *flow = flow_here();
	int reason = STEP_IGNORE;

	if (!flow)
		return false;
	flow_begin(flow, skb);
	if (!process_take(skb, true))
		return false;
	if (skb->protocol == be16(ETH_P_IP))
		reason = process_judge_out(skb, flow, FAMILY_IPV4);
	else if (skb->protocol == be16(ETH_P_IPV6))
		reason = process_judge_out(skb, flow, FAMILY_IPV6);
	if (reason > 0) {
		drop(skb, reason, DIRECTION_EGRESS);
		return true;
	}
	if (!reason) {
		trace(skb, flow, TRACE_TO_NETWORK);
		metrics_count(DIRECTION_EGRESS, 0, flow->bytes);
	}
	return false;
}
