/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Policy decisions from bits (abi/policy.h). Seldom called: conntrack remembers what was decided. */
#pragma once

#include "../abi/drop_reason.h"
#include "../maps/policy.h"
#include "flow.h"

EXPORT_TYPE(enum, policy_limits);
EXPORT_TYPE(enum, policy_row_flags);
EXPORT_TYPE(enum, drop_reason);
EXPORT_TYPE(enum, direction);

enum policy_bits {
	POLICY_WORD_BITS = 64,
	POLICY_BANK_BITS = POLICY_BANK_WORDS * POLICY_WORD_BITS,
	POLICY_NO_BIT = POLICY_BANK_BITS,
	POLICY_ANY_PEER = 1, /* bit 0 of word 0 */
};

/* What is asked. `where` packs three small numbers, see policy_where(). */
struct policy_query {
	__u32 policy_id;
	__u32 sec_identity; /* of the peer */
	__u32 cidr_identity;
	__u8 direction;
	__u8 protocol;
	__be16 port; /* of the end that is connected to; ICMP: the type */
};

/* One word, since before Linux 5.12 a function that is verified apart takes and gives nothing but numbers. */
union policy_answer {
	struct {
		__u32 row_id;   /* of the row that decided; of the first bank's if nothing matched */
		__u16 selector; /* that matched first; 0 if nothing did */
		__u8 reason;    /* 0: allowed; else enum drop_reason */
		__u8 unenforced;
	};
	__u64 word;
};

static __always_inline void selector_bits_add(struct selector_bits *bits, __u32 sec_identity, __u32 bank)
{
	struct identity_bits_key key = {sec_identity, bank};
	const struct selector_bits *found = bpf_map_lookup_elem(&identity_bits, &key);

	if (!found)
		return;
	for (int word = 0; word < POLICY_BANK_WORDS; word++)
		bits->words[word] |= found->words[word];
}

/* The selectors of the bank that the peer belongs to. */
static __always_inline void selector_bits_of_peer(struct selector_bits *bits, const struct policy_query *query,
						  __u32 bank)
{
	__builtin_memset(bits, 0, sizeof(*bits));
	bits->words[0] = POLICY_ANY_PEER;
	selector_bits_add(bits, query->sec_identity, bank);
	if (query->cidr_identity)
		selector_bits_add(bits, query->cidr_identity, bank);
}

/* Trailing zeros without the instruction, which BPF lacks, and without branches, which the verifier would count. */
static __always_inline __u32 lowest_bit(__u64 word)
{
	__u64 ones = (word & -word) - 1;

	ones -= ones >> 1 & 0x5555555555555555;
	ones = (ones & 0x3333333333333333) + (ones >> 2 & 0x3333333333333333);
	ones = (ones + (ones >> 4)) & 0x0f0f0f0f0f0f0f0f;
	return ones * 0x0101010101010101 >> 56;
}

/* The first bit that both have, or POLICY_NO_BIT. */
static __noinline __u32 selector_bits_first_common(const struct selector_bits *a, const struct selector_bits *b)
{
	for (int word = 0; word < POLICY_BANK_WORDS; word++) {
		__u64 common = a->words[word] & b->words[word];

		if (common)
			return word * POLICY_WORD_BITS + lowest_bit(common);
	}
	return POLICY_NO_BIT;
}

/* Judges by one bank: reason 0, DROP_POLICY_DENY, DROP_POLICY_DENIED if nothing matches, or DROP_NO_CONFIG. */
static __always_inline union policy_answer policy_decide_in_bank(const struct policy_query *query, __u16 bank)
{
	struct policy_row_key key = {
	    .prefix_len = POLICY_ROW_PREFIX_PORT,
	    .policy_id = query->policy_id,
	    .bank = bank,
	    .direction = query->direction,
	    .protocol = query->protocol,
	    .port = query->port,
	};
	const struct policy_row *row = bpf_map_lookup_elem(&policy_rows, &key);
	union policy_answer answer = {.reason = DROP_NO_CONFIG};
	struct selector_bits peer;
	__u32 denied, allowed;

	if (!row)
		return answer;
	selector_bits_of_peer(&peer, query, bank);
	answer.row_id = row->row_id;
	answer.unenforced = row->flags & POLICY_ROW_UNENFORCED;
	denied = selector_bits_first_common(&peer, &row->deny);
	allowed = selector_bits_first_common(&peer, &row->allow);
	if (denied != POLICY_NO_BIT) {
		answer.reason = DROP_POLICY_DENY;
		answer.selector = bank * POLICY_BANK_BITS + denied;
	} else if (allowed != POLICY_NO_BIT) {
		answer.reason = STEP_DONE;
		answer.selector = bank * POLICY_BANK_BITS + allowed;
	} else {
		answer.reason = DROP_POLICY_DENIED;
	}
	return answer;
}

static __always_inline bool policy_answer_is_final(union policy_answer answer)
{
	return answer.reason == DROP_POLICY_DENY || answer.reason == DROP_NO_CONFIG;
}

/* A deny in any bank beats an allow in another; of two allows the first counts. Not static: verified once. */
__noinline __u64 policy_decide(__u32 policy_id, __u32 sec_identity, __u32 cidr_identity, __u32 where)
{
	struct policy_query query = {policy_id,   sec_identity,       cidr_identity,
				     where >> 24, where >> 16 & 0xff, where & 0xffff};
	const struct policy_entry *policy = bpf_map_lookup_elem(&policies, &query.policy_id);
	union policy_answer decided = {.reason = DROP_NO_CONFIG};

	if (!policy || !policy->revision)
		return decided.word;
	for (int i = 0; i < POLICY_MAX_BANKS; i++) {
		union policy_answer here;

		if (i >= policy->bank_count)
			break;
		here = policy_decide_in_bank(&query, policy->banks[i]);
		if (i == 0 || policy_answer_is_final(here) || (!here.reason && decided.reason))
			decided = here;
		if (policy_answer_is_final(here))
			break;
	}
	return decided.word;
}

static __always_inline __u32 policy_where(__u8 direction, __u8 protocol, __be16 port)
{
	return direction << 24 | protocol << 16 | port;
}
