/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The packet that a CPU translates for a service (lib/service_packet.h). */
#pragma once

#include "../abi/service.h"
#include "../lib/helpers.h"

struct service_draft {
	struct service_flow6_key packet; /* its tuple; IPv4 in mapped form, here and in all that follows */
	struct service_flow_entry to;    /* what it becomes */
	struct service_flow6_key back;   /* the tuple of what comes back */
	struct service_flow_entry back_to;
	struct service_entry service; /* that it is for */
	__u32 now_s;
	__u32 ifindex;         /* by which packets from outside come; of a pod 0 */
	__u32 client_identity; /* of a client outside of the node */
	__u32 bytes;           /* of the frame that it is alone */
	__be32 tcp_sequence;
	__be32 tcp_acknowledgment;
	__u8 tcp_words;
	__u8 pad;
	__u16 l4_offset;
	__u8 family;
	__u8 fragment;
	__u8 tracking;
	__u8 tcp_flags;
	__u8 icmp_type;
	__u8 icmp_code;
	__u8 hop_limit;
	__u8 where; /* enum service_where */
};

/* Nobody else reads it. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct service_draft);
} service_draft SEC(".maps");
