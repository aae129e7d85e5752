/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* CLOCK_MONOTONIC in seconds, for conntrack.
 *
 * Reading the clock takes 30 ns, as much as finding a connection; the kernel's tick counter is one load. So the clock
 * is read once per tick and CPU, and seconds may be late by one tick. (bpf_ktime_get_coarse_ns is of Linux 5.11.)
 */
#pragma once

#include "../maps/clock.h"
#include "helpers.h"

static __always_inline __u32 clock_now_s(void)
{
	__u32 zero = 0;
	struct clock_entry *last = bpf_map_lookup_elem(&clock, &zero);
	__u64 jiffies = bpf_jiffies64();

	if (!last) /* there is always an entry, but the verifier cannot know */
		return 0;
	if (unlikely(last->jiffies != jiffies)) {
		last->now_s = bpf_ktime_get_ns() / 1000000000;
		last->jiffies = jiffies;
	}
	return last->now_s;
}
