/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* endpoints4 / endpoints6: address -> the local endpoint that owns it. */
#pragma once

#include "types.h"

struct endpoint4_key {
	__be32 address;
};

struct endpoint6_key {
	struct ipv6_addr address;
};

struct endpoint_entry {
	__u32 ifindex; /* host-side interface; a packet from elsewhere with this source is spoofed */
	__u32 sec_identity;
	__u32 cidr_identity; /* local identity of the rule CIDRs that cover this address; 0 if none do */
	__u32 policy_id;     /* index into policies */
	__u16 endpoint_id;
	struct mac_addr mac;      /* the workload's own */
	struct mac_addr host_mac; /* of the host-side interface: what the workload sees as its gateway */
	__u16 flags;              /* none yet */
};
