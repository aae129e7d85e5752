/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Policy as bits.
 *
 * The peer sets that policies mention ("selectors") are numbered: selector number = bank * 512 + bit.
 * identity_bits says for each identity which selectors it belongs to; a row says for a policy, direction,
 * protocol and port which selectors are allowed and which denied. A packet is decided by two lookups and
 * two ANDs per bank: any deny hit denies, else any allow hit allows, else it is an implicit deny.
 *
 * Bit 0 of every bank is the selector "any peer": an identity without an entry in a bank has only that bit.
 * Less specific rows are folded into more specific ones by the compiler, so the longest match alone decides.
 * Every policy has a row of POLICY_ROW_PREFIX_ANY bits per bank and direction: a miss means the agent
 * has not configured the endpoint (drop reason 165), never "allow".
 */
#pragma once

#include "types.h"

enum policy_limits {
	POLICY_BANK_WORDS = 8,        /* u64 words of a bank: 512 selectors */
	POLICY_MAX_BANKS = 13,        /* banks that one policy may use */
	POLICY_ROW_PREFIX_ANY = 56,   /* policy_id + bank + direction */
	POLICY_ROW_PREFIX_PROTO = 64, /* + protocol */
	POLICY_ROW_PREFIX_PORT = 80,  /* + the whole port */
};

struct policy_entry {
	__u32 revision; /* unique over all policies and restarts; conntrack remembers it */
	__u16 bank_count;
	__u16 banks[POLICY_MAX_BANKS];
};

struct identity_bits_key {
	__u32 sec_identity;
	__u32 bank;
};

struct selector_bits {
	__u64 words[POLICY_BANK_WORDS];
};

/* LPM key. For ICMP and ICMPv6 the port is the ICMP type (0..255). */
struct policy_row_key {
	__u32 prefix_len;
	__u32 policy_id;
	__u16 bank;
	__u8 direction;
	__u8 protocol;
	__be16 port;
	__u16 pad;
};

enum policy_row_flags {
	POLICY_ROW_UNENFORCED = 1, /* no policy restricts this direction: decide, but send no verdict event */
};

struct policy_row {
	struct selector_bits allow;
	struct selector_bits deny;
	__u32 row_id; /* unique over time; with the selector it names the deciding rules */
	__u32 flags;
};
