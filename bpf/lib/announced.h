/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* An end whose identity came with the packet, from the other node: what the ipcache says of its address is looked up
 * only when a policy asks.
 */
#pragma once

#include "../abi/drop_reason.h"
#include "endpoint.h"

/* The identity came with the packet, from the node that knows it best. */
static __always_inline void end_set_announced(struct end *end, __u32 sec_identity)
{
	end->endpoint = 0;
	end->revision = REVISION_NOT_LOCAL;
	end->sec_identity = sec_identity;
	end->announced = true;
}

/* What only a policy needs to know of an announced end; 0, or a drop reason if it has an address of this node. */
static __noinline int end_complete(struct end *end, const struct ipv6_addr *address, __u8 family)
{
	struct end known;

	end_set_remote(&known, address, family);
	if (known.sec_identity == IDENTITY_HOST)
		return DROP_INVALID_SOURCE_IP;
	end->cidr_identity = identity_is_local(known.sec_identity) ? known.sec_identity : known.cidr_identity;
	end->node_id = known.node_id;
	end->announced = false;
	return STEP_DONE;
}
