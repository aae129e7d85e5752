/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Masquerade (abi/nat.h): the mappings, and for whom and with which address they are made. */
#pragma once

#include "../abi/nat.h"
#include "../lib/helpers.h"

/* Two entries per masqueraded flow. Written by the programs; the agent only removes those whose connection is gone. When
 * full, mappings of connections that are not assured give way (lib/ct_transient.h); when there is none of them, a new flow
 * is dropped (167), and those that are there stay.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 262144);
	__type(key, struct nat4_key);
	__type(value, struct nat_entry);
} nat4 SEC(".maps");

/* As nat4. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 262144);
	__type(key, struct nat6_key);
	__type(value, struct nat_entry);
} nat6 SEC(".maps");

/* By ifindex of the node's devices. Written by the agent alone; a device without its entry, or without an address of
 * the family, lets nothing out that would need one (167).
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, struct masquerade_entry);
} masquerade SEC(".maps");

/* Prefixes outside of the cluster that pods reach under their own address. Written by the agent alone; when full, its
 * write fails and says so, and what is behind the prefix sees the node's address.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct no_masquerade4_key);
	__type(value, __u32);
} no_masquerade4 SEC(".maps");

/* As no_masquerade4. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct no_masquerade6_key);
	__type(value, __u32);
} no_masquerade6 SEC(".maps");

struct nat_draft {
	struct ipv6_addr inside; /* the flow's own source */
	struct ipv6_addr outside;
	struct ipv6_addr remote;
	__be16 inside_port;
	__be16 outside_port; /* once it is found */
	__be16 remote_port;
	__u8 protocol;
	__u8 family;
	__u32 now_s;
	__u32 flags; /* enum nat_flags */
};

/* The mapping that a CPU is about to make (lib/nat_port.h); nobody else reads it. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct nat_draft);
} nat_draft SEC(".maps");

EXPORT_TYPE(enum, nat_direction);
EXPORT_TYPE(enum, nat_flags);
EXPORT_TYPE(enum, nat_limits);
