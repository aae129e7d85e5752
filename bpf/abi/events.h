/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Flow events: fixed size, 120 bytes, so that a record with its 8-byte ring header takes 128 and user space
 * reads thousands as one array.
 *
 * One packet gives at most one event. A policy decision made for it rides along (verdict_flags) and is
 * unfolded by the reader into policy-verdict rows.
 */
#pragma once

#include "types.h"

enum event_type { /* numbers of the monitor API */
		  EVENT_DROP = 1,
		  EVENT_TRACE = 4,
		  EVENT_TRACE_SOCK = 7,
};

enum trace_point { /* numbers of the monitor API: sub-type of EVENT_TRACE */
		   TRACE_TO_ENDPOINT = 0,
		   TRACE_TO_HOST = 2,
		   TRACE_TO_STACK = 3,
		   TRACE_TO_OVERLAY = 4,
		   TRACE_FROM_ENDPOINT = 5,
		   TRACE_FROM_HOST = 7,
		   TRACE_FROM_OVERLAY = 9,
		   TRACE_FROM_NETWORK = 10,
		   TRACE_TO_NETWORK = 11,
};

enum translation_point { /* numbers of flow.SocketTranslationPoint: sub-type of EVENT_TRACE_SOCK */
			 TRANSLATION_FORWARD = 1, /* before; the reader unfolds it into this row and that after (2) */
			 TRANSLATION_REVERSE = 3, /* the same of what the process is shown (4) */
};

enum trace_reason { /* numbers of flow.TraceReason */
		    TRACE_REASON_UNKNOWN = 0,
		    TRACE_REASON_NEW = 1,
		    TRACE_REASON_ESTABLISHED = 2,
		    TRACE_REASON_REPLY = 3,
		    TRACE_REASON_RELATED = 4,
};

enum verdict_flags {
	VERDICT_EGRESS = 1,  /* an egress policy decision was made for this packet */
	VERDICT_INGRESS = 2, /* an ingress one */
	VERDICT_EGRESS_DENIED = 4,
	VERDICT_INGRESS_DENIED = 8,
};

enum aggregation {                       /* what the kernel reports */
		   AGGREGATION_NONE = 0, /* every packet */
		   AGGREGATION_LOW = 1,  /* as none; kept for Cilium's names */
		   AGGREGATION_MEDIUM =
		       2, /* new connections, new TCP SYN/FIN/RST per direction, one per interval; all drops */
		   AGGREGATION_MAXIMUM = 3, /* new connections and drops only */
};

struct flow_event {
	__u64 time_ns;           /* CLOCK_MONOTONIC */
	struct ipv6_addr source; /* IPv4 in mapped form */
	struct ipv6_addr destination;
	__be16 source_port; /* 0 for ICMP */
	__be16 destination_port;
	__u32 source_identity; /* 48 */
	__u32 destination_identity;
	__u16 source_endpoint; /* 0: not a local endpoint */
	__u16 destination_endpoint;
	__u32 ifindex; /* where the program ran */
	__u8 type;     /* enum event_type */
	__u8 subtype;  /* trace point or drop reason */
	__u8 family;   /* 4, 6; 0 when not IP */
	__u8 protocol; /* 64 */
	__u8 tcp_flags;
	__u8 reason;    /* enum trace_reason */
	__u8 direction; /* enum direction: of the drop, else 0 */
	__u8 verdict_flags;
	__u8 icmp_type;
	__u8 icmp_code;
	__u16 ether_type; /* host order; tells what a non-IP drop was */
	__u32 egress_row; /* of the connection, also on later packets */
	__u32 ingress_row;
	__u16 egress_selector;  /* that matched; 0 too with an implicit deny, which nothing matched */
	__u16 ingress_selector; /* 84 */
	struct mac_addr source_mac;
	struct mac_addr destination_mac; /* 96 */
	__u32 packet_bytes;
	__u32 egress_revision;
	__u32 ingress_revision;
	__u16 cpu;
	__u8 is_reply; /* 1 reply, 0 not, 2 not known (not tracked) */
	__u8 pad;
	__s32 error;      /* errno of the helper behind the drop, else 0 */
	__u32 service_id; /* of the frontend that the packet was for; 120 */
};

/* EVENT_TRACE_SOCK: an address of a socket became another. What both kinds of events have lies at the same place, and
 * what would be a flow_event's verdict_flags is 0.
 */
struct socket_event {
	__u64 time_ns;
	struct ipv6_addr frontend; /* IPv4 in mapped form */
	struct ipv6_addr backend;
	__be16 frontend_port;
	__be16 backend_port;
	__u32 frontend_identity; /* 48 */
	__u32 backend_identity;
	__u16 pad;
	__u16 backend_endpoint; /* 0: not a local endpoint */
	__u32 service_id;
	__u8 type;
	__u8 subtype; /* enum translation_point */
	__u8 family;
	__u8 protocol; /* 64 */
	__u64 pad2;
	__u64 socket_cookie;
	__u64 cgroup_id;    /* of the process */
	__u64 netns_cookie; /* 96 */
	__u32 backend_id;
	__u32 pad3[2];
	__u16 cpu;
	__u8 is_reply; /* as in flow_event: not known */
	__u8 pad4;
	__u64 pad5; /* 120 */
};

/* metrics: index = direction << 8 | drop reason; reason 0 counts what was forwarded. Per CPU. */
struct metrics_entry {
	__u64 packets;
	__u64 bytes;
};

enum metrics_limits {
	METRICS_ENTRIES = 1024,
};
