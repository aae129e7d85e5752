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
	end_set_elsewhere(end);
	end->sec_identity = sec_identity;
	end->announced = true;
}

/* What only a policy needs to know of a source that was announced; 0, or a drop reason if it has an address of this
 * node.
 */
__noinline int end_complete_source(void)
{
	struct flow *flow = flow_here();
	struct end known;

	if (!flow)
		return DROP_INVALID_SOURCE_IP;
	end_set_remote(&known, &flow->tuple.source, flow->family);
	if (known.sec_identity == IDENTITY_HOST)
		return DROP_INVALID_SOURCE_IP;
	flow->source.cidr_identity = identity_is_local(known.sec_identity) ? known.sec_identity : known.cidr_identity;
	flow->source.node_id = known.node_id;
	flow->source.is_process =
	    known.sec_identity == IDENTITY_REMOTE_NODE && flow->source.sec_identity != IDENTITY_REMOTE_NODE;
	flow->source.announced = false;
	return STEP_DONE;
}
