// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* What sockets of an endpoint receive that is processes of the node: attached to its cgroup, for that one and all below it.
 * A socket keeps its cgroup, and the kernel its programs, also when the cgroup is removed.
 *
 *   network, pods, other nodes ──> node's stack ──> [process_in] ──> socket
 *   another process of the node ──────────────────┘
 *
 * Packets begin with their IP header, and are whole. All come with bottom halves off, as those of other programs on packets.
 */
#define PACKET_IP_OFFSET         0
#define packet_pull(skb, length) (-1)
#include <linux/if_packet.h>

#include "../lib/connection.h"
#include "../lib/endpoint.h"
#include "../lib/events.h"
#include "../lib/node.h"
#include "../lib/parse.h"
#include "../lib/process.h"

CONFIG(__u32, config_host_ifindex);

enum process_verdict {
	PROCESS_DROP = 0,
	PROCESS_PASS = 1,
};

/* The socket that sent the packet, if it is one of this node: whose own end is the packet's source. It is to be released. */
static __always_inline struct bpf_sock *process_sender(struct __sk_buff *skb, const struct flow *flow)
{
	struct bpf_sock_tuple tuple = {};
	__u32 bytes;

	if (flow->family == FAMILY_IPV4) {
		tuple.ipv4.saddr = flow->tuple.destination.words[3];
		tuple.ipv4.daddr = flow->tuple.source.words[3];
		tuple.ipv4.sport = flow->tuple.destination_port;
		tuple.ipv4.dport = flow->tuple.source_port;
		bytes = sizeof(tuple.ipv4);
	} else {
		__builtin_memcpy(tuple.ipv6.saddr, &flow->tuple.destination, sizeof(tuple.ipv6.saddr));
		__builtin_memcpy(tuple.ipv6.daddr, &flow->tuple.source, sizeof(tuple.ipv6.daddr));
		tuple.ipv6.sport = flow->tuple.destination_port;
		tuple.ipv6.dport = flow->tuple.source_port;
		bytes = sizeof(tuple.ipv6);
	}
	if (flow->tuple.protocol == IPPROTO_TCP)
		return bpf_sk_lookup_tcp(skb, &tuple, bytes, BPF_F_CURRENT_NETNS, 0);
	if (flow->tuple.protocol == IPPROTO_UDP)
		return bpf_sk_lookup_udp(skb, &tuple, bytes, BPF_F_CURRENT_NETNS, 0);
	return 0;
}

/* The source is the endpoint whose socket sent the packet, if there is one. */
__noinline int process_take_sender(struct __sk_buff *skb)
{
	const struct process_entry *process = 0;
	const struct process_levels *levels;
	struct flow *flow = flow_here();
	struct bpf_sock *socket;
	__u32 zero = 0;

	levels = bpf_map_lookup_elem(&process_levels, &zero);
	if (!flow || !levels)
		return false;
	socket = process_sender(skb, flow);
	if (!socket)
		return false;
	for (int i = 0; i < PROCESS_LEVELS_MAX; i++) {
		if (i >= levels->count || process)
			break;
		process = process_lookup(bpf_sk_ancestor_cgroup_id(socket, levels->levels[i]));
	}
	bpf_sk_release(socket);
	if (process)
		end_set_process(&flow->source, process);
	return process != 0;
}

/* The node's own packets come by its loopback device, or are copies of what it sends to a group that it is in. */
static __always_inline bool process_is_from_here(const struct __sk_buff *skb)
{
	return skb->ifindex == PROCESS_IFINDEX || skb->pkt_type == PACKET_LOOPBACK;
}

/* Is the address another's who sends by another way? Of pods here everything comes by the gateway device, and of those behind
 * the overlay too; the node itself sends by no device.
 */
static __always_inline bool process_is_spoofed(const struct flow *flow, __u8 family)
{
	const struct end *source = &flow->source;

	return source->sec_identity == IDENTITY_HOST || endpoint_lookup(&flow->tuple.source, family) ||
	       (source->node_id && !identity_is_of_node(source->sec_identity) &&
		node_is_behind_tunnel(source->node_id));
}

/* Who has sent it, as far as this can be told here. What came by the gateway device has been seen by from_container or
 * from_overlay, which know better.
 */
static __always_inline int process_resolve_source(struct __sk_buff *skb, struct flow *flow, __u8 family)
{
	const struct endpoint_entry *endpoint;

	end_set_remote(&flow->source, &flow->tuple.source, family);
	if (process_is_from_here(skb)) {
		flow->source.sec_identity = IDENTITY_HOST;
		process_take_sender(skb);
		return STEP_DONE;
	}
	if (skb->ifindex != config_host_ifindex)
		return process_is_spoofed(flow, family) ? DROP_INVALID_SOURCE_IP : STEP_DONE;
	flow->source.is_judged = true;
	endpoint = endpoint_lookup(&flow->tuple.source, family);
	flow->source.endpoint_id = endpoint ? endpoint->endpoint_id : 0;
	return STEP_DONE;
}

static __always_inline int process_admit(struct __sk_buff *skb, struct flow *flow, __u8 family)
{
	int reason = parse_ip(skb, flow, family);

	if (!reason)
		reason = parse_l4(skb, flow, family);
	if (reason)
		return reason;
	if (endpoint_lookup(&flow->tuple.destination, family))
		return STEP_IGNORE; /* a pod's, in a cgroup below */
	reason = process_resolve_source(skb, flow, family);
	return reason ? reason : connection_admit(skb, flow, family);
}

SEC("cgroup_skb/ingress")
int process_in(struct __sk_buff *skb)
{
	struct flow *flow = flow_here();
	int reason = STEP_IGNORE;

	if (!flow)
		return PROCESS_DROP;
	flow_begin(flow, skb);
	if (!process_take(skb, false))
		return PROCESS_PASS;
	if (skb->protocol == be16(ETH_P_IP))
		reason = process_admit(skb, flow, FAMILY_IPV4);
	else if (skb->protocol == be16(ETH_P_IPV6))
		reason = process_admit(skb, flow, FAMILY_IPV6);
	if (reason > 0) {
		drop(skb, reason, DIRECTION_INGRESS);
		return PROCESS_DROP;
	}
	if (!reason) {
		trace(skb, flow, TRACE_TO_ENDPOINT);
		metrics_count(DIRECTION_INGRESS, 0, flow->bytes);
	}
	return PROCESS_PASS;
}

/* For the cgroup of an endpoint that lies in another's, where process_in is already: its link is there before it is needed,
 * for none can be made on a cgroup that is gone.
 */
SEC("cgroup_skb/ingress")
int process_below(struct __sk_buff *skb __attribute__((unused)))
{
	return PROCESS_PASS;
}

const char LICENSE[] SEC("license") = "Dual BSD/GPL";
