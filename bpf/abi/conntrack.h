/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Connection tracking: one entry serves both directions and both endpoints of a connection.
 *
 * The key is canonical: the lower (address, port) pair, compared as big-endian bytes, comes first, so a
 * packet and its reply find the same entry with one lookup. CT_ORIGIN_HIGH says which end opened it.
 * An entry holds the policy revisions that admitted it: while they are current the policy is skipped, and
 * revoking a rule cuts the connection with its next packet.
 */
#pragma once

#include "types.h"

struct ct4_key {
	__be32 address_low;
	__be32 address_high;
	__be16 port_low; /* ICMP echo: the identifier on the side of the request's sender, 0 on the other */
	__be16 port_high;
	__u8 protocol;
	__u8 pad[3];
};

struct ct6_key {
	struct ipv6_addr address_low;
	struct ipv6_addr address_high;
	__be16 port_low;
	__be16 port_high;
	__u8 protocol;
	__u8 pad[3];
};

enum ct_state {
	CT_STATE_OPENING = 1,     /* one direction seen: SYN sent, first datagram */
	CT_STATE_ESTABLISHED = 2, /* both directions seen */
	CT_STATE_CLOSING = 3,     /* TCP: FIN seen from at least one side */
	CT_STATE_CLOSED = 4,      /* TCP: FIN from both sides, or RST */
};

enum ct_flags {
	CT_ORIGIN_HIGH = 1, /* the pair stored as "high" opened the connection */
	CT_FIN_ORIGIN = 2,
	CT_FIN_REPLY = 4,
	CT_TRANSLATED = 8,      /* for a service: what comes back is turned by service_flows4/6 */
	CT_ASSURED = 16,        /* gives way to no other connection while it lives (lib/ct_transient.h) */
	CT_ORIGIN_PROCESS = 32, /* the end that opened it has a node's address and an identity of its own */
	CT_TARGET_PROCESS = 64, /* the other end */
};

/* Seconds after the last packet at which an entry is dead. */
enum ct_lifetime_s {
	CT_LIFETIME_OPENING_S = 60,
	CT_LIFETIME_TCP_S = 8000,
	CT_LIFETIME_OTHER_S = 60,
	CT_LIFETIME_CLOSING_S = 60,
	CT_LIFETIME_CLOSED_S = 10,
};

/* ct_transients: a connection that may have to give way, as its first packet had it. */
struct ct_transient {
	struct ipv6_addr source; /* IPv4 in mapped form */
	struct ipv6_addr destination;
	__be16 source_port;
	__be16 destination_port;
	__u8 protocol;
	__u8 family; /* enum family; 0: none */
	__u16 pad;
	__u32 created_s; /* as in its entry: another one may have its tuple by now */
};

struct ct_entry {
	__u32 expires_s; /* CLOCK_MONOTONIC */
	__u32 created_s;
	__u32 source_identity; /* of the end that opened it */
	__u32 destination_identity;
	__u32 egress_revision; /* policy of the source endpoint that admitted it; 0: source is not local */
	__u32 ingress_revision;
	__u32 egress_row;
	__u32 ingress_row;
	__u16 egress_selector;
	__u16 ingress_selector;
	__u8 state;
	__u8 flags;
	__u8 tcp_flags_origin; /* reported so far: aggregation */
	__u8 tcp_flags_reply;
	__u32 reported_origin_s; /* last flow event of each direction: aggregation */
	__u32 reported_reply_s;
	/* Of TCP, of the FIN by which both sides had sent theirs: the number after it. Before it is closed: its place among
	 * ct_transients.
	 */
	__u32 last_fin_end;
	__be32 last_fin_acknowledgment;
};

/* fragments: later fragments carry no ports; the first one leaves them here. */
struct fragment_key {
	struct ipv6_addr source;
	struct ipv6_addr destination;
	__u32 identification; /* as in the packet's bytes */
	__u8 protocol;
	__u8 pad[3];
};

/* Ports as in a conntrack key: of an ICMP echo too. */
struct fragment_entry {
	__be16 source_port;
	__be16 destination_port;
};
