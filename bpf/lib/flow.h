/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What a program knows of the packet in hand. One struct flow lives on the stack of each entry program; parsing
 * fills it from the packet, the maps fill in who the ends are, policy and conntrack add what they decided.
 * Addresses of both families have one form (IPv4 mapped), so all that follows parsing is written once.
 */
#pragma once

#include "../abi/conntrack.h"
#include "../abi/drop_reason.h"
#include "../abi/endpoint.h"
#include "../abi/events.h"
#include "helpers.h"

enum family {
	FAMILY_NONE = 0, /* not IP */
	FAMILY_IPV4 = 4,
	FAMILY_IPV6 = 6,
};

/* What a step says; a positive value is an enum drop_reason. */
enum step {
	STEP_DONE = 0,
	STEP_ANSWERED = -1, /* the packet became its own answer and goes back */
	STEP_IGNORE = -2,   /* not ours: leave it as it is */
};

enum fragment {
	FRAGMENT_NONE = 0,
	FRAGMENT_FIRST = 1,
	FRAGMENT_LATER = 2, /* has no ports of its own */
};

enum tracking {
	TRACKING_CONNECTION = 0, /* opens a connection or belongs to one */
	TRACKING_REQUEST = 1,    /* the same, but never as a reply: ICMP echo request */
	TRACKING_REPLY = 2,      /* belongs to a connection as a reply, or to none: ICMP echo reply */
	TRACKING_RELATED = 3,    /* ICMP error: about the connection of the packet that it quotes */
	TRACKING_NONE = 4,       /* other ICMP: each packet is judged by itself */
};

enum is_reply {
	IS_REPLY_NO = 0,
	IS_REPLY_YES = 1,
	IS_REPLY_UNKNOWN = 2,
};

/* Ports as conntrack has them: an ICMP echo has its identifier on the side of the request's sender. */
struct tuple {
	struct ipv6_addr source;
	struct ipv6_addr destination;
	__be16 source_port;
	__be16 destination_port;
	__u8 protocol;
};

struct end {
	const struct endpoint_entry *endpoint; /* 0: not a local endpoint */
	__u32 sec_identity;
	__u32 cidr_identity;
	__u32 revision; /* of the endpoint's policy; 0: not local */
	__u16 node_id;  /* of the node that has it; 0: this one, or none */
	bool announced; /* the identity came with the packet, and the ipcache has not been asked */
};

/* The policy decisions behind the packet's connection, as they go into conntrack and events. */
struct verdict {
	__u32 egress_row;
	__u32 ingress_row;
	__u16 egress_selector;
	__u16 ingress_selector;
	__u8 flags; /* enum verdict_flags */
};

struct flow {
	struct tuple tuple;
	struct end source;
	struct end destination;
	struct verdict verdict;
	struct ct_entry *entry; /* of the connection; 0: none yet, or not tracked */
	__u32 now_s;            /* CLOCK_MONOTONIC; from connection_admit() on */
	__u32 bytes;            /* whole packet, Ethernet header too */
	__u32 identification;   /* of fragments; as in the packet's bytes */
	__u16 l4_offset;
	__u8 family;
	__u8 fragment;
	__u8 tracking;
	__u8 hop_limit;
	__u8 tcp_flags;
	__u8 icmp_type;
	__u8 icmp_code;
	__u8 is_reply;       /* as in struct flow_event */
	__u8 reason;         /* enum trace_reason */
	__u8 drop_direction; /* enum direction */
	bool translated;     /* the packet has other addresses than the network knows */
	bool for_service;    /* and they are those of this CPU's service_draft */
	__s32 error;         /* of the helper behind a drop */
};

static __always_inline struct flow flow_of(const struct __sk_buff *skb)
{
	return (struct flow){.bytes = skb->len, .is_reply = IS_REPLY_UNKNOWN};
}
