/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Policy as bits (abi/policy.h). All three are written by the agent alone. */
#pragma once

#include "../abi/policy.h"
#include "../lib/helpers.h"

/* By policy id. Its size is the number of policies; the agent gives out no number past it. Revision 0: no policy. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct policy_entry);
} policies SEC(".maps");

/* When full, the agent's write fails, and an identity without its bits is matched by "any peer" rules only. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 131072);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct identity_bits_key);
	__type(value, struct selector_bits);
} identity_bits SEC(".maps");

/* When full, the agent's write fails before the policy that needs the row is switched to. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct policy_row_key);
	__type(value, struct policy_row);
} policy_rows SEC(".maps");
