/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Services and their backends (abi/service.h). The first block is written by the agent alone, the second by the
 * programs; of the second the agent removes what is over.
 */
#pragma once

#include "../abi/service.h"
#include "../lib/helpers.h"

/* When full, the agent's write fails and says so: the new frontend is not served, all others are. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct service4_key);
	__type(value, struct service_entry);
} services4 SEC(".maps");

/* As services4. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct service6_key);
	__type(value, struct service_entry);
} services6 SEC(".maps");

/* Presence says that the address has frontends; enum service_address_flags. When full, the agent's write fails and says
 * so: pods' packets to the address go where the node's routes lead. It has room for as many as there are frontends.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct service_address4_key);
	__type(value, __u32);
} service_ips4 SEC(".maps");

/* As service_ips4. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct service_address6_key);
	__type(value, __u32);
} service_ips6 SEC(".maps");

/* Mapped into the agent's memory: a run is written without a system call. Nothing is left: the sets that no longer fit
 * keep their old backends, and the agent says so.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2097152);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, __u32);
} service_slots SEC(".maps");

/* As service_slots: by backend id. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct backend_entry);
} backends SEC(".maps");

/* When full, the agent's write fails before the service that needs the range is switched to it. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct source_range4_key);
	__type(value, __u32);
} source_ranges4 SEC(".maps");

/* As source_ranges4. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct source_range6_key);
	__type(value, __u32);
} source_ranges6 SEC(".maps");

/* When full, the client that came longest ago is forgotten: it may get another backend. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct affinity_key);
	__type(value, struct affinity_entry);
} affinity SEC(".maps");

/* Two entries per connection that was translated per packet. When full, those of connections that are not
 * assured give way (lib/ct_transient.h); when there is none of them, a new connection is dropped (167).
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 262144);
	__type(key, struct service_flow4_key);
	__type(value, struct service_flow_entry);
} service_flows4 SEC(".maps");

/* As service_flows4. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 262144);
	__type(key, struct service_flow6_key);
	__type(value, struct service_flow_entry);
} service_flows6 SEC(".maps");

/* One entry per connected socket until it is closed, two per frontend that an unconnected one sends to. When full, the
 * one that was used longest ago gives way: the process sees the backend's address, what it sends may go to another
 * backend. Written by the programs alone.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 131072);
	__type(key, struct socket_flow_key);
	__type(value, struct socket_flow_entry);
} socket_flows SEC(".maps");

EXPORT_TYPE(enum, service_flags);
EXPORT_TYPE(enum, service_address_flags);
EXPORT_TYPE(enum, backend_state);
EXPORT_TYPE(enum, service_flow_flags);
EXPORT_TYPE(enum, socket_flow_direction);
