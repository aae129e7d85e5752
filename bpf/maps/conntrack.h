/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Connections, one entry each (abi/conntrack.h). Written by the programs, and removed with a connection's last packet
 * where nobody would send anything again; the agent removes what has expired. When full, connections that are not assured
 * give way to new ones (lib/ct_transient.h); when there is none of them, a new connection is dropped (155), and those that
 * are there stay.
 */
#pragma once

#include "../abi/conntrack.h"
#include "../lib/helpers.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 262144);
	__type(key, struct ct4_key);
	__type(value, struct ct_entry);
} ct4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 262144);
	__type(key, struct ct6_key);
	__type(value, struct ct_entry);
} ct6 SEC(".maps");

/* Connections that may have to give way, in turn for each CPU: those that began, and those that are over. Written by the
 * programs alone. Never full: who comes takes the place of who came longest ago.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 65536);
	__type(key, __u32);
	__type(value, struct ct_transient);
} ct_transients SEC(".maps");

/* Whose turn it is. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} ct_turn SEC(".maps");
