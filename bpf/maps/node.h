/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The other nodes of the cluster by node id. Written by the agent alone. Its size is the number of nodes; the agent
 * gives out no number past it, and says so.
 */
#pragma once

#include "../abi/node.h"
#include "../lib/helpers.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 8192);
	__type(key, __u32);
	__type(value, struct node_entry);
} nodes SEC(".maps");

/* What was learned of the ways to them (lib/path_mtu.h), by node id. Written by the programs alone; what has expired is
 * not looked at. As large as nodes.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 8192);
	__type(key, __u32);
	__type(value, struct path_mtu_entry);
} path_mtus SEC(".maps");

EXPORT_TYPE(enum, node_id);
EXPORT_TYPE(enum, node_flags);
EXPORT_TYPE(enum, path_mtu_limits);
