/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Connections, one entry each (abi/conntrack.h). Written by the programs, and removed when a connection between
 * two pods of the node is over; the agent removes what has expired.
 * When full, the entry that was used longest ago gives way: its connection is judged anew at its next packet.
 */
#pragma once

#include "../abi/conntrack.h"
#include "../lib/helpers.h"

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 262144);
	__type(key, struct ct4_key);
	__type(value, struct ct_entry);
} ct4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 262144);
	__type(key, struct ct6_key);
	__type(value, struct ct_entry);
} ct6 SEC(".maps");
