/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The ring that events leave by: how often they are to be sent, when its reader is woken, what found no room. */
#pragma once

#include "../abi/config.h"
#include "../maps/events.h"

CONFIG(__u32, config_aggregation);
CONFIG(__u32, config_report_interval_s);
CONFIG(__u64, config_event_wakeup_ns);

enum event_ring_limits {
	EVENTS_WAKE_FRACTION = 4, /* of the ring filled: the reader is woken at once */
};

/* In one step, since a packet's program may interrupt a socket's. Spelled out: clang makes an instruction that also
 * fetches the old value, which is of Linux 5.12 (seen with clang 20).
 */
static __always_inline void events_count_lost(void)
{
	__u32 zero = 0;
	__u64 *lost = bpf_map_lookup_elem(&events_lost, &zero);

	if (lost)
		__asm__ volatile("lock *(u64 *)(%0 + 0) += %1" : : "r"(lost), "r"(1ull) : "memory");
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
