/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Which addresses are announced by this node (abi/l2_announcement.h). */
#pragma once

#include "../abi/l2_announcement.h"
#include "../lib/helpers.h"

/* Written by the agent alone, one entry per address and device, while it holds the service's lease. When full, its write
 * fails and says so: nobody answers for the address.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct l2_announcement_key);
	__type(value, struct l2_announcement);
} l2_announced SEC(".maps");
