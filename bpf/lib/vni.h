/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Which numbers travel in the overlay as the identity of a packet's source. */
#pragma once

#include "endpoint.h"

enum vni_values {
	/* Reserved identities that a node sends: its own, and those of pods and of the world behind it. */
	VNI_RESERVED = 1 << IDENTITY_HOST | 1 << IDENTITY_WORLD | 1 << IDENTITY_UNMANAGED | 1 << IDENTITY_HEALTH |
	    1 << IDENTITY_INIT | 1 << IDENTITY_KUBE_APISERVER | 1 << IDENTITY_INGRESS | 1 << IDENTITY_WORLD_IPV4 |
	    1 << IDENTITY_WORLD_IPV6,
	VNI_FIRST_CLUSTER_IDENTITY = 256,
};

static __always_inline bool vni_is_identity(__u32 vni)
{
	return likely(vni >= VNI_FIRST_CLUSTER_IDENTITY) || (vni <= IDENTITY_WORLD_IPV6 && VNI_RESERVED >> vni & 1);
}
