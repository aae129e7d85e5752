/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* A packet that cannot go on becomes the answer to itself: the frame goes back to whom it came from, with another packet in
 * it (icmp_error.h, reset.h). That comes from the address that the packet was for: that of this node would be refused by
 * its own stack as that of an impostor.
 */
#pragma once

#include "flow.h"
#include "parse.h"

enum answer_values {
	ANSWER_HOP_LIMIT = 64,
};

/* The frame's ends change places; the first `bytes` of what it carried go to `carried`. 0 or a drop reason. */
static __always_inline int answer_take(struct __sk_buff *skb, struct ethhdr *ethernet, void *carried, __u32 bytes)
{
	if (bpf_skb_load_bytes(skb, 0, ethernet->h_source, ETH_ALEN) ||
	    bpf_skb_load_bytes(skb, ETH_ALEN, ethernet->h_dest, ETH_ALEN))
		return DROP_INVALID_PACKET;
	return bpf_skb_load_bytes(skb, ETH_HLEN, carried, bytes) ? DROP_INVALID_PACKET : STEP_DONE;
}

/* STEP_ANSWERED, or the reason to drop what the packet was. */
static __always_inline int answer_put(struct __sk_buff *skb, const struct ethhdr *frame, __u32 bytes)
{
	if (bpf_skb_change_tail(skb, bytes, 0) || bpf_skb_store_bytes(skb, 0, frame, bytes, 0))
		return DROP_WRITE_ERROR;
	return STEP_ANSWERED;
}
