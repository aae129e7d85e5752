/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* processes: cgroup id -> the endpoint that is the processes of that cgroup, in the node's own network. Of cgroups within
 * one another the nearest counts: process_levels says how deep such cgroups lie, so that nobody looks for them elsewhere.
 */
#pragma once

#include "types.h"

enum process_limits {
	PROCESS_LEVELS_MAX = 15, /* at how many depths there may be some */
};

struct process_key {
	__u64 cgroup_id;
};

struct process_entry {
	__u32 sec_identity;
	__u32 policy_id; /* index into policies */
	__u16 endpoint_id;
	__u16 pad[3];
};

struct process_levels {
	__u8 count;
	__u8 levels[PROCESS_LEVELS_MAX]; /* the deepest first; the root of all cgroups is at 0 */
};
