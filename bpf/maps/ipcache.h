/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Security identities by longest prefix. Written by the agent alone; when full, its write fails and says so.
 * An address without an entry is the world.
 */
#pragma once

#include "../abi/ipcache.h"
#include "../lib/helpers.h"

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 524288);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct ipcache4_key);
	__type(value, struct ipcache_entry);
} ipcache4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 524288);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct ipcache6_key);
	__type(value, struct ipcache_entry);
} ipcache6 SEC(".maps");
