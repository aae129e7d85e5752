/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Local endpoints by address. Written by the agent alone, one entry per address of a pod; when full, the agent's
 * write fails and the pod is not started: the programs would drop all of its packets as spoofed (132).
 */
#pragma once

#include "../abi/endpoint.h"
#include "../lib/helpers.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct endpoint4_key);
	__type(value, struct endpoint_entry);
} endpoints4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct endpoint6_key);
	__type(value, struct endpoint_entry);
} endpoints6 SEC(".maps");
