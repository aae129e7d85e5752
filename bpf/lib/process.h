/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Which endpoint's processes a socket belongs to (abi/process.h). The kernel keeps with each socket in which cgroup it was
 * made, so nothing is written into packets, and nobody can pretend.
 *
 * Such an endpoint has the addresses of its node and is known by its sockets alone: where it opens a connection it is
 * known by its identity, where one is opened to it others see the node (connection.h).
 */
#pragma once

#include "../maps/process.h"
#include "endpoint.h"
#include "flow.h"

enum process_values {
	PROCESS_IFINDEX = 1, /* the loopback device: of every network namespace the first */
};

/* Are there any, and has the packet a socket? What most packets are asked. */
static __always_inline bool process_may_be(const struct __sk_buff *skb)
{
	__u32 zero = 0;
	const struct process_levels *levels = bpf_map_lookup_elem(&process_levels, &zero);

	return unlikely(levels && levels->count) && skb->sk;
}

static __always_inline const struct process_entry *process_lookup(__u64 cgroup_id)
{
	struct process_key key = {.cgroup_id = cgroup_id};

	return cgroup_id ? bpf_map_lookup_elem(&processes, &key) : 0;
}

/* Its CIDR identity stays that of the address. */
static __always_inline void end_set_process(struct end *end, const struct process_entry *process)
{
	const struct policy_entry *policy;
	__u32 policy_id = process->policy_id;

	end->ifindex = PROCESS_IFINDEX;
	end->endpoint_id = process->endpoint_id;
	end->policy_id = policy_id;
	end->sec_identity = process->sec_identity;
	end->node_id = NODE_ID_NONE;
	end->is_process = true;
	policy = bpf_map_lookup_elem(&policies, &policy_id);
	end->revision = likely(policy && policy->revision) ? policy->revision : REVISION_MISSING;
}

/* The end is the endpoint whose socket the packet has; false: there is none. Not static, so that it is verified once. */
__noinline int process_take(struct __sk_buff *skb, __u32 is_source)
{
	const struct process_levels *levels;
	struct flow *flow = flow_here();
	__u32 zero = 0;

	levels = bpf_map_lookup_elem(&process_levels, &zero);
	if (!flow || !levels)
		return false;
	for (int i = 0; i < PROCESS_LEVELS_MAX; i++) {
		const struct process_entry *process;

		if (i >= levels->count)
			break;
		process = process_lookup(bpf_skb_ancestor_cgroup_id(skb, levels->levels[i]));
		if (!process)
			continue;
		end_set_process(is_source ? &flow->source : &flow->destination, process);
		return true;
	}
	return false;
}
