/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What a program knows of the packet in hand: parsing fills it from the packet, the maps fill in who the ends are,
 * policy and conntrack add what they decided. Addresses of both families have one form (IPv4 mapped), so all that
 * follows parsing is written once.
 *
 * It lives in a map (maps/flow.h), because of verifiers before Linux 6.4. They follow each value that a program has put
 * on its stack or into a register, and look at what follows once for each; what lies in a map they ask nothing of. And
 * a function that is not static they look at once, apart from its callers, but before Linux 5.12 it takes nothing but the
 * packet and numbers: it finds the flow by itself. So what is seldom is such a function, and what is inlined hands the flow
 * on.
 */
#pragma once

#include "../abi/drop_reason.h"
#include "../abi/events.h"
#include "../maps/flow.h"
#include "helpers.h"

enum family {
	FAMILY_NONE = 0, /* not IP */
	FAMILY_IPV4 = 4,
	FAMILY_IPV6 = 6,
};

/* What a step says; a positive value is an enum drop_reason. */
enum step {
	STEP_DONE = 0,
	STEP_ANSWERED = -1, /* the packet became its own answer and goes back */
	STEP_IGNORE = -2,   /* not ours: leave it as it is */
};

enum fragment {
	FRAGMENT_NONE = 0,
	FRAGMENT_FIRST = 1,
	FRAGMENT_LATER = 2, /* has no ports of its own */
};

enum tracking {
	TRACKING_CONNECTION = 0, /* opens a connection or belongs to one */
	TRACKING_REQUEST = 1,    /* the same, but never as a reply: ICMP echo request */
	TRACKING_REPLY = 2,      /* belongs to a connection as a reply, or to none: ICMP echo reply */
	TRACKING_RELATED = 3,    /* ICMP error: about the connection of the packet that it quotes */
	TRACKING_NONE = 4,       /* other ICMP: each packet is judged by itself */
};

enum is_reply {
	IS_REPLY_NO = 0,
	IS_REPLY_YES = 1,
	IS_REPLY_UNKNOWN = 2,
};

/* This CPU's. It is always there, but the verifier cannot know. */
static __always_inline struct flow *flow_here(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&packet_flow, &zero);
}

static __always_inline void flow_clear(struct flow *flow)
{
	__builtin_memset(flow, 0, offsetof(struct flow, source));
	__builtin_memset(&flow->source, 0, offsetof(struct end, policy_id));
	__builtin_memset(&flow->destination, 0, offsetof(struct end, policy_id));
	flow->is_reply = IS_REPLY_UNKNOWN;
}

static __always_inline void flow_begin(struct flow *flow, const struct __sk_buff *skb)
{
	flow_clear(flow);
	flow->bytes = skb->len;
}
