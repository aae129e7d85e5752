/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The packet that a CPU has in hand (lib/flow.h). */
#pragma once

#include "../abi/types.h"
#include "../lib/helpers.h"

/* Ports as conntrack has them: an ICMP echo has its identifier on the side of the request's sender. */
struct tuple {
	struct ipv6_addr source;
	struct ipv6_addr destination;
	__be16 source_port;
	__be16 destination_port;
	__u8 protocol;
	__u8 pad[3];
};

struct end {
	__u32 sec_identity;
	__u32 cidr_identity;
	__u32 revision; /* of the endpoint's policy; 0: not local */
	__u16 node_id;  /* of the node that has it; 0: this one, or none */
	__u16 endpoint_id;
	__u32 ifindex;   /* of a local endpoint; 0: it is none */
	bool announced;  /* the identity came with the packet, and the ipcache has not been asked */
	bool is_process; /* has a node's address and an identity of its own */
	bool is_judged;  /* by a program that saw the packet before; the connection's entry has its word */
	__u8 pad;
	/* Of a local endpoint; the MACs only of one that receives the packet. */
	__u32 policy_id;
	struct mac_addr mac;
	struct mac_addr host_mac;
};

/* The policy decisions behind the packet's connection, as conntrack remembers them or as they were made just now. */
struct verdict {
	__u32 egress_row;
	__u32 ingress_row;
	__u16 egress_selector;
	__u16 ingress_selector;
	__u8 flags; /* enum verdict_flags: what was decided just now */
	__u8 pad[3];
};

struct flow {
	struct tuple tuple;
	struct verdict verdict;
	__u32 now_s;          /* CLOCK_MONOTONIC; from connection_admit() on */
	__u32 bytes;          /* whole packet, Ethernet header too */
	__u32 identification; /* of fragments; as in the packet's bytes */
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
	__u8 ct_flags;       /* enum ct_flags of the connection, if it was there before this packet */
	bool no_news;        /* the connection has reported lately whatever this packet says of it */
	bool translated;     /* the packet has other addresses than the network knows */
	bool for_service;    /* and they are those of this CPU's service_draft */
	bool wrapped;        /* it came in the outer header of another node */
	bool is_last;        /* nothing of its TCP connection comes after it */
	__u8 tcp_words;      /* of 4 bytes, in the TCP header */
	__u8 pad;
	__u32 place; /* in ct_transients, of the connection that it opens */
	__be32 tcp_sequence;
	__be32 tcp_acknowledgment;
	__s32 error; /* of the helper behind a drop */
	struct end source;
	struct end destination;
} __attribute__((aligned(8)));

/* Nobody else reads it. No program on packets interrupts another on its CPU: all run with bottom halves off, and what
 * one sends on is seen by others only after its end.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct flow);
} packet_flow SEC(".maps");
