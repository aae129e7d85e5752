/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Direct server return, at the backend's node: what the client has called is read from the packet, taken out of it and
 * kept, so that the backend's answers leave as the frontend (service_path.h).
 *
 * It is heeded only from a node of the cluster, as far as the way tells: who has put the packet into another says so, be it
 * into the overlay's or with config_dsr_outer_family. Without either anybody can write it who reaches a pod. So it must name a
 * service that is there for clients outside, and a connection that stands keeps what it is known by.
 */
#pragma once

#include "checksum.h"
#include "service_path.h"

/* The bytes of the option if there is one, and what it says in the draft's `packet`; else 0. */
static __always_inline int dsr_read4(struct __sk_buff *skb, struct service_draft *draft)
{
	struct dsr_option4 option;

	if (bpf_skb_load_bytes(skb, ETH_HLEN + sizeof(struct iphdr), &option, sizeof(option)) ||
	    option.type != DSR_OPTION4 || option.option_bytes != DSR_OPTION4_BYTES)
		return 0;
	ipv4_mapped(&draft->packet.destination, option.address);
	draft->packet.destination_port = option.port;
	return DSR_OPTION4_BYTES;
}

static __always_inline int dsr_read6(struct __sk_buff *skb, struct service_draft *draft)
{
	struct dsr_option6 option;
	__u8 next_header;

	if (bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, nexthdr), &next_header, 1) ||
	    next_header != IPPROTO_DSTOPTS)
		return 0;
	if (bpf_skb_load_bytes(skb, ETH_HLEN + sizeof(struct ipv6hdr), &option, sizeof(option)) ||
	    option.type != DSR_OPTION6 || option.length != DSR_OPTION6_BYTES / IPV6_EXTENSION_UNIT - 1)
		return 0;
	draft->packet.destination = option.address;
	draft->packet.destination_port = option.port;
	return DSR_OPTION6_BYTES;
}

/* The first word of an IPv4 header, which states both lengths. */
struct dsr_lengths4 {
	__u8 version_length;
	__u8 service_type;
	__be16 total_bytes;
};

static __always_inline int dsr_remove4(struct __sk_buff *skb)
{
	struct {
		struct dsr_lengths4 lengths;
		struct dsr_option4 option;
	} was;
	struct dsr_lengths4 now;
	__be16 check;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &was.lengths, sizeof(was.lengths)) ||
	    bpf_skb_load_bytes(skb, ETH_HLEN + sizeof(struct iphdr), &was.option, sizeof(was.option)) ||
	    bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct iphdr, check), &check, sizeof(check)))
		return DROP_WRITE_ERROR;
	now = was.lengths;
	now.version_length -= DSR_OPTION4_BYTES / 4;
	now.total_bytes = be16(be16(now.total_bytes) - DSR_OPTION4_BYTES);
	check = checksum_folded(bpf_csum_diff((void *)&was, sizeof(was), (void *)&now, sizeof(now), (__u16)~check));
	if (bpf_skb_adjust_room(skb, -DSR_OPTION4_BYTES, BPF_ADJ_ROOM_NET, BPF_F_ADJ_ROOM_FIXED_GSO))
		return DROP_WRITE_ERROR;
	if (bpf_skb_store_bytes(skb, ETH_HLEN, &now, sizeof(now), 0) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN + offsetof(struct iphdr, check), &check, sizeof(check), 0))
		return DROP_WRITE_ERROR;
	return STEP_DONE;
}

static __always_inline int dsr_remove6(struct __sk_buff *skb)
{
	struct {
		__be16 payload_bytes;
		__u8 next_header;
		__u8 hop_limit;
	} head;

	if (bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, payload_len), &head, sizeof(head)) ||
	    bpf_skb_load_bytes(skb, ETH_HLEN + sizeof(struct ipv6hdr), &head.next_header, 1))
		return DROP_WRITE_ERROR;
	head.payload_bytes = be16(be16(head.payload_bytes) - DSR_OPTION6_BYTES);
	if (bpf_skb_adjust_room(skb, -DSR_OPTION6_BYTES, BPF_ADJ_ROOM_NET, BPF_F_ADJ_ROOM_FIXED_GSO))
		return DROP_WRITE_ERROR;
	return bpf_skb_store_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, payload_len), &head, sizeof(head),
				   BPF_F_RECOMPUTE_CSUM)
		   ? DROP_WRITE_ERROR
		   : STEP_DONE;
}

/* The draft has the packet; STEP_IGNORE: it carries no such option. */
__noinline int dsr_accept(struct __sk_buff *skb, __u32 from_node)
{
	struct service_draft *draft = service_draft_here();
	struct ipv6_addr address;
	int bytes;

	if (!draft)
		return STEP_IGNORE;
	draft->to.source = draft->packet.source;
	draft->to.destination = draft->packet.destination;
	draft->to.source_port = draft->packet.source_port;
	draft->to.destination_port = draft->packet.destination_port;
	draft->to.backend_id = 0;
	draft->to.flags = SERVICE_FLOW_DSR;
	bytes = draft->family == FAMILY_IPV4 ? dsr_read4(skb, draft) : dsr_read6(skb, draft);
	if (!bytes)
		return STEP_IGNORE;
	if (!from_node)
		return DROP_UNKNOWN_SENDER;
	address = draft->packet.destination;
	draft->where = node_has_address(&address, draft->family) ? SERVICE_TO_NODE : SERVICE_FROM_POD;
	draft->ifindex = 0;
	if (!service_find() || !(draft->service.flags & SERVICE_EXTERNAL))
		return DROP_INVALID_PACKET;
	draft->l4_offset -= bytes;
	return draft->family == FAMILY_IPV4 ? dsr_remove4(skb) : dsr_remove6(skb);
}

/* What every datagram says is kept once a second. */
__noinline int dsr_keep(void)
{
	struct service_draft *draft = service_draft_here();
	const struct service_flow_entry *found;

	if (!draft)
		return DROP_NAT_NO_MAPPING;
	service_flow_back(draft);
	found = service_flow_find(&draft->back, draft->family);
	if (found && found->used_s == draft->now_s && service_flow_same(found, &draft->back_to))
		return STEP_DONE;
	return service_keep() ? DROP_NAT_NO_MAPPING : STEP_DONE;
}

/* For a pod of this node; `from_node`: a node of the cluster has sent it, as far as the way tells. 0 or a drop reason. */
__noinline int dsr_take(struct __sk_buff *skb, __u32 from_node)
{
	struct service_draft *draft = service_draft_here();
	struct flow *flow = flow_here();
	int step;

	if (!draft || !flow || flow->tracking != TRACKING_CONNECTION || flow->fragment == FRAGMENT_LATER)
		return STEP_DONE;
	service_draft_flow(draft, flow);
	step = dsr_accept(skb, from_node);
	if (step)
		return step == STEP_IGNORE ? STEP_DONE : step;
	flow->l4_offset = draft->l4_offset;
	flow->for_service = true;
	return dsr_keep();
}

static __always_inline bool dsr_is_host(const struct ipv6_addr *address, __u8 family)
{
	const struct ipcache_entry *entry = ipcache_lookup(address, family);

	return entry && entry->sec_identity == IDENTITY_HOST;
}

/* What an outer header says of its ends, for a packet to that pod. The flow takes the ends, should it be dropped. */
static __always_inline int dsr_judge_outer(const struct ipv6_addr *sender, const struct ipv6_addr *node,
					   const struct ipv6_addr *pod, __u8 family)
{
	struct flow *flow = flow_here();

	if (!flow || !dsr_is_host(node, family) || !endpoint_lookup(pod, family))
		return STEP_IGNORE;
	flow->tuple.source = *sender;
	flow->tuple.destination = *node;
	flow->tuple.protocol = family == FAMILY_IPV4 ? IPPROTO_IPIP : IPPROTO_IPV6;
	flow->family = family;
	return node_has_address(sender, family) ? STEP_DONE : DROP_UNKNOWN_SENDER;
}

static __always_inline int dsr_close(struct __sk_buff *skb, __u32 bytes)
{
	return bpf_skb_adjust_room(skb, -(__s32)bytes, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO) ? DROP_WRITE_ERROR
												   : STEP_DONE;
}

static __always_inline int dsr_unwrap4(struct __sk_buff *skb)
{
	struct {
		struct iphdr outer;
		struct iphdr inner;
	} head;
	struct ipv6_addr sender, node, pod;
	int step;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &head, sizeof(head)) || head.outer.protocol != IPPROTO_IPIP ||
	    head.outer.ihl != sizeof(head.outer) / 4 ||
	    head.outer.frag_off & be16(IPV4_FRAGMENT_OFFSET | IPV4_MORE_FRAGMENTS))
		return STEP_IGNORE;
	ipv4_mapped(&sender, head.outer.saddr);
	ipv4_mapped(&node, head.outer.daddr);
	ipv4_mapped(&pod, head.inner.daddr);
	step = dsr_judge_outer(&sender, &node, &pod, FAMILY_IPV4);
	return step ? step : dsr_close(skb, sizeof(head.outer));
}

static __always_inline int dsr_unwrap6(struct __sk_buff *skb)
{
	struct {
		struct ipv6hdr outer;
		struct ipv6hdr inner;
	} head;
	struct ipv6_addr sender, node, pod;
	int step;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &head, sizeof(head)) || head.outer.nexthdr != IPPROTO_IPV6)
		return STEP_IGNORE;
	__builtin_memcpy(&sender, &head.outer.saddr, sizeof(sender));
	__builtin_memcpy(&node, &head.outer.daddr, sizeof(node));
	__builtin_memcpy(&pod, &head.inner.daddr, sizeof(pod));
	step = dsr_judge_outer(&sender, &node, &pod, FAMILY_IPV6);
	return step ? step : dsr_close(skb, sizeof(head.outer));
}

/* STEP_DONE: the packet came from another node in an outer header, for a pod of this one, and is without it now;
 * STEP_IGNORE: it did not; or a drop reason.
 */
__noinline int dsr_unwrap(struct __sk_buff *skb)
{
	if (skb->protocol == be16(ETH_P_IP))
		return dsr_unwrap4(skb);
	return skb->protocol == be16(ETH_P_IPV6) ? dsr_unwrap6(skb) : STEP_IGNORE;
}

/* Nearly all packets have nothing between their headers. */
static __always_inline bool dsr_may_be(const struct flow *flow, __u8 family)
{
	return config_services &&
	       unlikely(flow->l4_offset !=
			ETH_HLEN + (family == FAMILY_IPV4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr)));
}
