/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Basic types that keys, entries and events share with user space.
 *
 * Everything under abi/ is the one source of layouts: tools/gen_layouts.py reads it
 * back from the BTF of the built objects and writes src/pycilium/datapath/layouts.py.
 * Byte order is in the type: __be16/__be32 are network order, everything else is host order.
 */
#pragma once

#include <linux/types.h>

/* An IPv6 address, or an IPv4 one in its mapped form (::ffff:a.b.c.d) where one field serves both. */
struct ipv6_addr {
	__be32 words[4];
};

struct mac_addr {
	__u8 bytes[6];
};

enum direction {
	DIRECTION_INGRESS = 1, /* into the endpoint */
	DIRECTION_EGRESS = 2,  /* out of the endpoint */
};

/* Numbers as in Hubble's flow API. Identities above these are allocated. */
enum reserved_identity {
	IDENTITY_UNKNOWN = 0,
	IDENTITY_HOST = 1,
	IDENTITY_WORLD = 2,
	IDENTITY_UNMANAGED = 3,
	IDENTITY_HEALTH = 4,
	IDENTITY_INIT = 5,
	IDENTITY_REMOTE_NODE = 6,
	IDENTITY_KUBE_APISERVER = 7,
	IDENTITY_INGRESS = 8,
	IDENTITY_WORLD_IPV4 = 9,
	IDENTITY_WORLD_IPV6 = 10,
};
