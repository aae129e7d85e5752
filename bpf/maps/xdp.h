/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The way of the packet that a CPU sends on before the stack (lib/xdp_way.h). */
#pragma once

#include "../abi/types.h"
#include "../lib/helpers.h"

struct xdp_draft {
	struct ipv6_addr outer_source; /* of the overlay's packet; IPv4 in mapped form */
	struct ipv6_addr outer_destination;
	struct mac_addr source;
	struct mac_addr destination;
	__u32 ifindex; /* by which it leaves */
	__u32 vni;
	__u32 bytes;       /* of the frame, without the overlay's headers */
	__u8 outer_family; /* 0: it goes without */
	__u8 hops;         /* to count down */
	__u8 point;        /* enum trace_point */
	__u8 pad;
};

/* Nobody else reads it. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct xdp_draft);
} xdp_draft SEC(".maps");
