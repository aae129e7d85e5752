/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What the ipcache says of an address. */
#pragma once

#include "../maps/ipcache.h"
#include "flow.h"

static __always_inline const struct ipcache_entry *ipcache_lookup(const struct ipv6_addr *address, __u8 family)
{
	if (family == FAMILY_IPV4) {
		struct ipcache4_key key = {.prefix_len = 32, .address = address->words[3]};

		return bpf_map_lookup_elem(&ipcache4, &key);
	} else {
		struct ipcache6_key key = {.prefix_len = 128, .address = *address};

		return bpf_map_lookup_elem(&ipcache6, &key);
	}
}
