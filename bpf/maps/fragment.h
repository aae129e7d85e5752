/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Ports of fragmented packets, left by the first fragment for those that follow. Written by the programs alone.
 * When full, the entry that was used longest ago gives way: what is still to come of its packet is dropped (175).
 */
#pragma once

#include "../abi/conntrack.h"
#include "../lib/helpers.h"

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct fragment_key);
	__type(value, struct fragment_entry);
} fragments SEC(".maps");
