/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The time as each CPU last read it (lib/clock.h). Written by the programs alone; nobody else reads it. */
#pragma once

#include "../lib/helpers.h"

struct clock_entry {
	__u64 jiffies; /* when it was read */
	__u32 now_s;   /* CLOCK_MONOTONIC */
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct clock_entry);
} clock SEC(".maps");
