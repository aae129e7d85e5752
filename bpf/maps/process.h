/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Endpoints that are processes of the node itself (abi/process.h). Written by the agent alone. */
#pragma once

#include "../abi/process.h"
#include "../lib/helpers.h"

/* By cgroup id. When full, the agent's write fails and the endpoint is not made. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, struct process_key);
	__type(value, struct process_entry);
} processes SEC(".maps");

/* One entry; count 0: there are none, and nothing else is looked at. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct process_levels);
} process_levels SEC(".maps");

EXPORT_TYPE(enum, process_limits);
