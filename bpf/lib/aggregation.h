/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Which packets are told of (abi/events.h, enum aggregation). */
#pragma once

#include "event_ring.h"
#include "flow.h"
#include "l4.h"
#include "../abi/conntrack.h"

enum aggregation_values {
	AGGREGATION_TCP_FLAGS = TCP_FIN | TCP_SYN | TCP_RST,
};

/* Is there anything in this packet that its connection has not reported lately? It counts as reported from now on. */
static __always_inline bool ct_has_news(struct ct_entry *entry, const struct flow *flow, bool is_reply)
{
	__u8 flags = flow->tcp_flags & AGGREGATION_TCP_FLAGS;
	__u32 now_s = flow->now_s;

	if (is_reply) {
		if (likely(now_s - entry->reported_reply_s < config_report_interval_s &&
			   !(flags & ~entry->tcp_flags_reply)))
			return false;
		entry->reported_reply_s = now_s;
		entry->tcp_flags_reply |= flags;
	} else {
		if (likely(now_s - entry->reported_origin_s < config_report_interval_s &&
			   !(flags & ~entry->tcp_flags_origin)))
			return false;
		entry->reported_origin_s = now_s;
		entry->tcp_flags_origin |= flags;
	}
	return true;
}

/* May the packet of a connection that stands go untold? */
static __always_inline bool aggregation_covers(struct ct_entry *entry, const struct flow *flow, bool is_reply)
{
	return config_aggregation == AGGREGATION_MEDIUM && !ct_has_news(entry, flow, is_reply);
}

static __always_inline bool trace_is_due(const struct flow *flow)
{
	if (config_aggregation <= AGGREGATION_LOW || flow->reason == TRACE_REASON_NEW)
		return true;
	return config_aggregation == AGGREGATION_MEDIUM && !flow->no_news;
}
