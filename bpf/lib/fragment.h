/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Later fragments carry no ports: the first one leaves them in a map. A later one that comes before the first is
 * dropped (175); the sender's retransmission mends that, and no packet passes unjudged.
 *
 * To be called once the source is known to be genuine: the first fragment speaks for all of its sender's.
 */
#pragma once

#include "../maps/fragment.h"
#include "flow.h"
#include "icmp.h"

static __always_inline void fragment_key_of(const struct flow *flow, struct fragment_key *key)
{
	__builtin_memset(key, 0, sizeof(*key));
	key->source = flow->tuple.source;
	key->destination = flow->tuple.destination;
	key->identification = flow->identification;
	key->protocol = flow->tuple.protocol;
}

/* A full or busy map costs this packet its later fragments, which are then counted as such. */
__noinline int fragment_remember(void)
{
	const struct flow *flow = flow_here();
	struct fragment_entry entry;
	struct fragment_key key;

	if (!flow || flow->tracking > TRACKING_REPLY)
		return 0;
	entry = (struct fragment_entry){flow->tuple.source_port, flow->tuple.destination_port};
	fragment_key_of(flow, &key);
	return bpf_map_update_elem(&fragments, &key, &entry, BPF_ANY);
}

__noinline int fragment_recall(void)
{
	struct flow *flow = flow_here();
	const struct fragment_entry *entry;
	struct fragment_key key;

	if (!flow)
		return DROP_FRAGMENT_NOT_FOUND;
	fragment_key_of(flow, &key);
	entry = bpf_map_lookup_elem(&fragments, &key);
	if (!entry)
		return DROP_FRAGMENT_NOT_FOUND;
	flow->tuple.source_port = entry->source_port;
	flow->tuple.destination_port = entry->destination_port;
	if (flow->tuple.protocol ==
	    icmp_protocol(flow->family)) { /* only echoes are remembered; a reply's identifier is the destination's */
		flow->tracking = entry->destination_port ? TRACKING_REPLY : TRACKING_REQUEST;
		flow->icmp_type =
		    entry->destination_port ? icmp_echo_reply(flow->family) : icmp_echo_request(flow->family);
	}
	return 0;
}

/* 0 or a drop reason. */
static __always_inline int fragment_track(struct flow *flow)
{
	if (likely(flow->fragment == FRAGMENT_NONE))
		return 0;
	if (flow->fragment == FRAGMENT_LATER)
		return fragment_recall();
	fragment_remember();
	return 0;
}
