/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Packets and bytes per direction and drop reason; reason 0 is what was forwarded. */
#pragma once

#include "../maps/events.h"

static __always_inline void metrics_count(enum direction direction, __u8 reason, __u32 bytes)
{
	__u32 index = direction << 8 | reason;
	struct metrics_entry *entry = bpf_map_lookup_elem(&metrics, &index);

	if (entry) {
		entry->packets += 1;
		entry->bytes += bytes;
	}
}
