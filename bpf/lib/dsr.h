/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Direct server return, at the node that a client has called: the backend on another node gets the client's packets with
 * the client's address, and answers it by itself. What the client has called rides along (abi/service.h).
 *
 *   client ──> frontend      becomes      client ──> backend, with the frontend's address and port
 *
 * A connection carries it in what opens it, a SYN or an INIT, which has room; of datagrams each does, for nothing here tells
 * when the backend's node has heard of them. With config_dsr_outer_family every packet travels in another, from this node
 * to the backend's: so nothing is on the way with the client's address or with an IP option, which networks may refuse, and
 * the backend's node sees who tells.
 */
#pragma once

#include "checksum.h"
#include "service_path.h"

CONFIG(__u32, config_dsr_outer_family);

/* The backend's node; 0: it is not known. */
static __always_inline const struct node_entry *dsr_node(void)
{
	const struct flow *flow = flow_here();

	return flow ? node_lookup(flow->destination.node_id) : 0;
}

/* Is this packet to be wrapped? Through the overlay it is wrapped already, and IP has no IPv4 address for an IPv6 node. */
static __always_inline bool dsr_wraps(const struct service_draft *draft)
{
	const struct node_entry *node;

	if (draft->family != config_dsr_outer_family || !(draft->to.flags & SERVICE_FLOW_DSR) ||
	    draft->tracking != TRACKING_CONNECTION)
		return false;
	node = dsr_node();
	return node && !(node->flags & NODE_TUNNEL) && node->family == draft->family;
}

/* Does this packet tell? */
static __always_inline bool dsr_tells(const struct service_draft *draft)
{
	return draft->to.flags & SERVICE_FLOW_DSR && draft->tracking == TRACKING_CONNECTION &&
	       draft->fragment != FRAGMENT_LATER && service_opens(draft);
}

/* The way to the node, less the room for what is told. `answer` and what is given back: union forward_answer. */
__noinline __u32 dsr_make_room(struct __sk_buff *skb, __u32 answer)
{
	const struct service_draft *draft = service_draft_here();
	union forward_answer forward = {.word = answer};
	__u32 bytes = 0;

	if (!draft || (forward.reason && forward.reason != DROP_FRAGMENTATION_NEEDED))
		return answer;
	if (dsr_wraps(draft))
		bytes = draft->family == FAMILY_IPV4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);
	if (dsr_tells(draft))
		bytes += draft->family == FAMILY_IPV4 ? DSR_OPTION4_BYTES : DSR_OPTION6_BYTES;
	if (!bytes)
		return answer;
	forward.mtu_bytes -= bytes;
	if (packet_is_too_big(skb, draft->l4_offset, draft->packet.protocol, forward.mtu_bytes))
		forward.reason = DROP_FRAGMENTATION_NEEDED;
	return forward.word;
}

static __always_inline int dsr_tell4(struct __sk_buff *skb, const struct service_draft *draft)
{
	struct {
		__u8 version_length;
		__u8 service_type;
		__be16 total_bytes;
		struct dsr_option4 option;
	} head;
	__be32 was;
	__be16 check;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &head, sizeof(was)) ||
	    bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct iphdr, check), &check, sizeof(check)))
		return DROP_WRITE_ERROR;
	if ((head.version_length & 0xf) > 15 - DSR_OPTION4_BYTES / 4)
		return DROP_WRITE_ERROR;
	__builtin_memcpy(&was, &head, sizeof(was));
	head.version_length += DSR_OPTION4_BYTES / 4;
	head.total_bytes = be16(be16(head.total_bytes) + DSR_OPTION4_BYTES);
	head.option.type = DSR_OPTION4;
	head.option.option_bytes = DSR_OPTION4_BYTES;
	head.option.port = draft->packet.destination_port;
	head.option.address = draft->packet.destination.words[3];
	check = checksum_folded(bpf_csum_diff(&was, sizeof(was), (void *)&head, sizeof(head), (__u16)~check));
	if (bpf_skb_adjust_room(skb, DSR_OPTION4_BYTES, BPF_ADJ_ROOM_NET, BPF_F_ADJ_ROOM_FIXED_GSO))
		return DROP_WRITE_ERROR;
	/* The header's sum is what it was, so that of the packet is too. */
	if (bpf_skb_store_bytes(skb, ETH_HLEN, &head, sizeof(was), 0) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN + offsetof(struct iphdr, check), &check, sizeof(check), 0) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN + sizeof(struct iphdr), &head.option, sizeof(head.option), 0))
		return DROP_WRITE_ERROR;
	return STEP_DONE;
}

static __always_inline int dsr_tell6(struct __sk_buff *skb, const struct service_draft *draft)
{
	struct dsr_option6 option = {
	    .length = DSR_OPTION6_BYTES / IPV6_EXTENSION_UNIT - 1,
	    .type = DSR_OPTION6,
	    .option_bytes = DSR_OPTION6_BYTES - offsetof(struct dsr_option6, address) - sizeof(option.pad),
	    .pad = be16(0x0100),
	};
	struct {
		__be16 payload_bytes;
		__u8 next_header;
		__u8 hop_limit;
	} head;

	if (bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, payload_len), &head, sizeof(head)))
		return DROP_WRITE_ERROR;
	option.next_header = head.next_header;
	option.address = draft->packet.destination;
	option.port = draft->packet.destination_port;
	head.next_header = IPPROTO_DSTOPTS;
	head.payload_bytes = be16(be16(head.payload_bytes) + DSR_OPTION6_BYTES);
	if (bpf_skb_adjust_room(skb, DSR_OPTION6_BYTES, BPF_ADJ_ROOM_NET, BPF_F_ADJ_ROOM_FIXED_GSO))
		return DROP_WRITE_ERROR;
	if (bpf_skb_store_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, payload_len), &head, sizeof(head),
				BPF_F_RECOMPUTE_CSUM) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN + sizeof(struct ipv6hdr), &option, sizeof(option), BPF_F_RECOMPUTE_CSUM))
		return DROP_WRITE_ERROR;
	return STEP_DONE;
}

/* Room for an outer header; of what is segmented later each segment gets one. */
static __always_inline long dsr_open(struct __sk_buff *skb, __u32 bytes, __u64 flags)
{
	return bpf_skb_adjust_room(skb, bytes, BPF_ADJ_ROOM_MAC, flags | BPF_F_ADJ_ROOM_FIXED_GSO);
}

/* The node's own address, by which the other one knows it. */
static __always_inline bool dsr_own_address(const struct service_draft *draft, const struct node_entry *node,
					    struct ipv6_addr *address)
{
	__u32 ifindex = node->ifindex ? node->ifindex : draft->ifindex;
	const struct masquerade_entry *entry = bpf_map_lookup_elem(&masquerade, &ifindex);

	if (!entry)
		return false;
	*address = draft->family == FAMILY_IPV4 ? entry->ipv4 : entry->ipv6;
	return !address_is_any(address);
}

static __always_inline int dsr_wrap4(struct __sk_buff *skb, const struct service_draft *draft)
{
	const struct node_entry *node = dsr_node();
	struct iphdr outer = {
	    .version = 4, .ihl = sizeof(outer) / 4, .frag_off = be16(IPV4_DONT_FRAGMENT), .protocol = IPPROTO_IPIP};
	struct ipv6_addr own;

	if (!node || !dsr_own_address(draft, node, &own))
		return DROP_WRITE_ERROR;
	outer.tot_len = be16(skb->len - ETH_HLEN + sizeof(outer));
	outer.ttl = draft->hop_limit; /* counted down on the way out, in place of the inner one */
	outer.saddr = own.words[3];
	outer.daddr = node->address.words[3];
	outer.check = checksum_folded(bpf_csum_diff(0, 0, (void *)&outer, sizeof(outer), 0));
	if (dsr_open(skb, sizeof(outer), BPF_F_ADJ_ROOM_ENCAP_L3_IPV4) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN, &outer, sizeof(outer), 0))
		return DROP_WRITE_ERROR;
	return STEP_DONE;
}

static __always_inline int dsr_wrap6(struct __sk_buff *skb, const struct service_draft *draft)
{
	const struct node_entry *node = dsr_node();
	struct ipv6hdr outer = {.version = 6, .nexthdr = IPPROTO_IPV6, .hop_limit = draft->hop_limit};
	struct ipv6_addr own;

	if (!node || !dsr_own_address(draft, node, &own))
		return DROP_WRITE_ERROR;
	outer.payload_len = be16(skb->len - ETH_HLEN);
	__builtin_memcpy(&outer.saddr, &own, sizeof(outer.saddr));
	__builtin_memcpy(&outer.daddr, &node->address, sizeof(outer.daddr));
	if (dsr_open(skb, sizeof(outer), BPF_F_ADJ_ROOM_ENCAP_L3_IPV6) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN, &outer, sizeof(outer), BPF_F_RECOMPUTE_CSUM))
		return DROP_WRITE_ERROR;
	return STEP_DONE;
}

/* Puts what is to be told into the packet, which has become what the draft says. 0 or a drop reason. Not static, so that
 * it is verified once, as all that works on the draft.
 */
__noinline int dsr_tell(struct __sk_buff *skb)
{
	const struct service_draft *draft = service_draft_here();
	int reason = STEP_DONE;

	if (!draft)
		return STEP_DONE;
	if (dsr_tells(draft))
		reason = draft->family == FAMILY_IPV4 ? dsr_tell4(skb, draft) : dsr_tell6(skb, draft);
	if (reason || !dsr_wraps(draft))
		return reason;
	return draft->family == FAMILY_IPV4 ? dsr_wrap4(skb, draft) : dsr_wrap6(skb, draft);
}

/* Of the connection only what the client says comes by here, or is seen here: it stands once the client has acknowledged. */
__noinline int dsr_establish(void)
{
	const struct service_draft *draft = service_draft_here();
	const struct flow *flow = flow_here();
	struct ct_entry *entry;
	bool is_reply;

	if (!draft || !flow || !(draft->to.flags & (SERVICE_FLOW_DSR | SERVICE_FLOW_HOST)) ||
	    flow->reason != TRACE_REASON_ESTABLISHED || (flow->tcp_flags & (TCP_SYN | TCP_ACK)) != TCP_ACK)
		return 0;
	entry = ct_lookup(&flow->tuple, flow->family, flow->now_s, &is_reply);
	if (!entry || entry->state != CT_STATE_OPENING)
		return 0;
	entry->state = CT_STATE_ESTABLISHED;
	entry->flags |= CT_ASSURED;
	entry->expires_s = flow->now_s + ct_lifetime_s(flow->tuple.protocol, CT_STATE_ESTABLISHED);
	return 0;
}
