/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Flow events on their way to the agent, and the counters about them. Written by the programs alone. */
#pragma once

#include "../abi/events.h"
#include "../lib/helpers.h"

/* struct flow_event after struct flow_event. When full, the new event is not sent but counted in events_lost. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 8 << 20); /* bytes */
} events SEC(".maps");

/* One counter: events that found no room. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} events_lost SEC(".maps");

/* One time (CLOCK_MONOTONIC, ns): when this CPU last woke the reader. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} event_wakeup SEC(".maps");

/* direction << 8 | drop reason -> packets and bytes. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, METRICS_ENTRIES);
	__type(key, __u32);
	__type(value, struct metrics_entry);
} metrics SEC(".maps");

EXPORT_TYPE(struct, flow_event);
EXPORT_TYPE(struct, socket_event);
EXPORT_TYPE(enum, event_type);
EXPORT_TYPE(enum, trace_point);
EXPORT_TYPE(enum, translation_point);
EXPORT_TYPE(enum, trace_reason);
EXPORT_TYPE(enum, verdict_flags);
EXPORT_TYPE(enum, aggregation);
