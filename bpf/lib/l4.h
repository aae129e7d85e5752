/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Transport headers: ports, TCP flags, SCTP's first chunk, ICMP type. */
#pragma once

#include "flow.h"
#include "icmp.h"
#include "parse.h"

enum tcp_flag {
	TCP_FIN = 0x01,
	TCP_SYN = 0x02,
	TCP_RST = 0x04,
	TCP_ACK = 0x10,
};

/* Those that stand for a flag of TCP, by RFC 9260, 3.2. */
enum sctp_chunk {
	SCTP_INIT = 1,
	SCTP_INIT_ACK = 2,
	SCTP_ABORT = 6,
	SCTP_SHUTDOWN_COMPLETE = 14,
};

enum l4_bytes {
	TCP_HEADER_BYTES = 20,
	UDP_HEADER_BYTES = 8,
	SCTP_HEADER_BYTES = 12,
};

/* As far as we read; ICMP's fields lie over the ports. */
struct l4_header {
	union {
		struct {
			__be16 source_port;
			__be16 destination_port;
		};
		struct {
			__u8 icmp_type;
			__u8 icmp_code;
			__be16 icmp_checksum;
		};
	};
	union {
		__be32 tcp_sequence;
		__be16 icmp_identifier;
	};
	__be32 tcp_acknowledgment;
	__u8 tcp_data_offset;
	__u8 tcp_flags;
	__u8 rest[6];
};

/* The header at its usual place is read where it is; behind options or extensions it is copied to `copy`. */
static __always_inline const struct l4_header *l4_header_at(struct __sk_buff *skb, const struct flow *flow, __u8 family,
							    struct l4_header *copy, __u32 length)
{
	const __u32 usual = PACKET_IP_OFFSET + (family == FAMILY_IPV4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr));

	if (likely(flow->l4_offset == usual))
		return packet_bytes(skb, usual, length);
	return bpf_skb_load_bytes(skb, flow->l4_offset, copy, length) ? 0 : copy;
}

/* Do its two ends agree on a connection before they talk, and on its end? */
static __always_inline bool l4_has_connections(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_SCTP;
}

/* What opens and ends an association is told as of a TCP connection, so that both are treated alike. */
static __always_inline __u8 sctp_flags(__u8 chunk)
{
	switch (chunk) {
	case SCTP_INIT:
		return TCP_SYN;
	case SCTP_INIT_ACK:
		return TCP_SYN | TCP_ACK;
	case SCTP_ABORT:
	case SCTP_SHUTDOWN_COMPLETE:
		return TCP_RST;
	default:
		return TCP_ACK;
	}
}

static __always_inline int parse_ports(struct __sk_buff *skb, struct flow *flow, __u8 family, __u32 length)
{
	struct l4_header copy;
	const struct l4_header *l4 = l4_header_at(skb, flow, family, &copy, length);

	if (!l4)
		return DROP_CT_INVALID_HEADER;
	flow->tuple.source_port = l4->source_port;
	flow->tuple.destination_port = l4->destination_port;
	if (length == TCP_HEADER_BYTES) {
		flow->tcp_flags = l4->tcp_flags;
		flow->tcp_words = l4->tcp_data_offset >> 4;
		flow->tcp_sequence = l4->tcp_sequence;
		flow->tcp_acknowledgment = l4->tcp_acknowledgment;
	}
	return 0;
}

/* The first chunk is never pulled to where the header is: of a packet that the kernel is to segment it lies in another
 * buffer, and SCTP's own code ends the machine where it does not (sctp_inq_pop()). Without a chunk there is no packet.
 */
static __always_inline int parse_sctp(struct __sk_buff *skb, struct flow *flow, __u8 family)
{
	int reason = parse_ports(skb, flow, family, SCTP_HEADER_BYTES);
	__u8 chunk;

	if (reason)
		return reason;
	if (bpf_skb_load_bytes(skb, flow->l4_offset + SCTP_HEADER_BYTES, &chunk, sizeof(chunk)))
		return DROP_CT_INVALID_HEADER;
	flow->tcp_flags = sctp_flags(chunk);
	return 0;
}

static __always_inline int parse_icmp(struct __sk_buff *skb, struct flow *flow, __u8 family)
{
	struct l4_header copy;
	const struct l4_header *l4 = l4_header_at(skb, flow, family, &copy, ICMP_HEADER_BYTES);

	if (!l4)
		return DROP_CT_INVALID_HEADER;
	flow->icmp_type = l4->icmp_type;
	flow->icmp_code = l4->icmp_code;
	flow->tracking = icmp_tracking(family, l4->icmp_type);
	icmp_ports(&flow->tuple, flow->tracking, l4->icmp_identifier);
	return 0;
}

/* 0 or a drop reason; a later fragment has nothing here to read. */
static __always_inline int parse_l4(struct __sk_buff *skb, struct flow *flow, __u8 family)
{
	if (unlikely(flow->fragment == FRAGMENT_LATER))
		return 0;
	if (likely(flow->tuple.protocol == IPPROTO_TCP))
		return parse_ports(skb, flow, family, TCP_HEADER_BYTES);
	if (flow->tuple.protocol == IPPROTO_UDP)
		return parse_ports(skb, flow, family, UDP_HEADER_BYTES);
	if (flow->tuple.protocol == IPPROTO_SCTP)
		return parse_sctp(skb, flow, family);
	if (flow->tuple.protocol == icmp_protocol(family))
		return parse_icmp(skb, flow, family);
	return 0; /* any other protocol is tracked by its addresses alone */
}
