/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* ipcache4 / ipcache6: longest prefix -> the security identity behind it, and the node that has it. */
#pragma once

#include "types.h"

struct ipcache4_key {
	__u32 prefix_len; /* 0..32 */
	__be32 address;
};

struct ipcache6_key {
	__u32 prefix_len; /* 0..128 */
	struct ipv6_addr address;
};

struct ipcache_entry {
	__u32 sec_identity;
	__u32 cidr_identity; /* as in endpoint_entry: its bits are OR-ed in; 0 if none */
	__u16 node_id;       /* of the node that has the address (abi/node.h); NODE_ID_NONE: this one, or none */
	__u16 flags;         /* none yet */
};
