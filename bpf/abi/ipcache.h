/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* ipcache4 / ipcache6: longest prefix -> the security identity behind it. */
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
};
