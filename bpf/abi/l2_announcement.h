/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* L2 announcements: addresses of services for which this node answers ARP and neighbour discovery on a link.
 *
 * Each has an end, before another node may begin: what an agent that died or hangs has left answers no longer.
 */
#pragma once

#include "types.h"

struct l2_announcement_key {
	__u32 ifindex;            /* of the device on that link */
	struct ipv6_addr address; /* IPv4 in mapped form */
};

struct l2_announcement {
	__u64 until_ns;      /* CLOCK_BOOTTIME */
	struct mac_addr mac; /* what is answered: the device's own */
	__u16 pad;
};
