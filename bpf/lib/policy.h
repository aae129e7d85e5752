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

/* The small numbers of a question in one word: direction, protocol and port (of the end that is connected to; ICMP: the
 * type).
 */
union policy_where {
	struct {
		__be16 port;
		__u8 protocol;
		__u8 direction;
	};
	__u32 word;
};

/* An answer in one word: functions that are not static are verified once, apart from their callers, but before Linux
 * 5.12 take and give nothing but numbers.
 */
union policy_answer {
	struct {
		__u32 row_id;       /* of the row that decided; of the first bank's if nothing matched */
		__u16 selector;     /* that matched first; 0 if nothing did */
		__u8 reason;        /* 0: allowed; else enum drop_reason */
		__u8 verdict_flags; /* enum verdict_flags, as of an egress; 0: nothing to report */
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

/* Trailing zeros without the instruction, which BPF lacks, and without branches, which the verifier would count. */
static __always_inline __u32 lowest_bit(__u64 word)
{
	__u64 ones = (word & -word) - 1;

	ones -= ones >> 1 & 0x5555555555555555;
	ones = (ones & 0x3333333333333333) + (ones >> 2 & 0x3333333333333333);
	ones = (ones + (ones >> 4)) & 0x0f0f0f0f0f0f0f0f;
	return ones * 0x0101010101010101 >> 56;
}

/* The first bit that both have, or POLICY_NO_BIT. Inlined because each call takes 32 bytes and more of the 512 that all
 * frames of a chain share, as Linux counts before 6.9, and this one is at the end of the longest chain.
 */
static __always_inline __u32 selector_bits_first_common(const struct selector_bits *a, const struct selector_bits *b)
{
	for (int word = 0; word < POLICY_BANK_WORDS; word++) {
		__u64 common = a->words[word] & b->words[word];

		if (common)
			return word * POLICY_WORD_BITS + lowest_bit(common);
	}
	return POLICY_NO_BIT;
}

/* Judges by one bank: reason 0, DROP_POLICY_DENY, DROP_POLICY_DENIED if nothing matches, or DROP_NO_CONFIG. */
__noinline __u64 policy_decide_in_bank(__u32 policy_id, __u32 bank, __u32 sec_identity, __u32 cidr_identity,
				       __u32 where)
{
	union policy_where place = {.word = where};
	struct policy_row_key key = {
	    .prefix_len = POLICY_ROW_PREFIX_PORT,
	    .policy_id = policy_id,
	    .bank = bank,
	    .direction = place.direction,
	    .protocol = place.protocol,
	    .port = place.port,
	};
	const struct policy_row *row = bpf_map_lookup_elem(&policy_rows, &key);
	union policy_answer answer = {.reason = DROP_NO_CONFIG};
	struct selector_bits peer = {.words = {POLICY_ANY_PEER}};
	__u32 bit;

	if (!row)
		return answer.word;
	selector_bits_add(&peer, sec_identity, bank);
	if (cidr_identity)
		selector_bits_add(&peer, cidr_identity, bank);
	answer.row_id = row->row_id;
	answer.reason = DROP_POLICY_DENY;
	bit = selector_bits_first_common(&peer, &row->deny);
	if (bit == POLICY_NO_BIT) {
		answer.reason = STEP_DONE;
		bit = selector_bits_first_common(&peer, &row->allow);
	}
	if (bit == POLICY_NO_BIT)
		answer.reason = DROP_POLICY_DENIED;
	else
		answer.selector = bank * POLICY_BANK_BITS + bit;
	if (!(row->flags & POLICY_ROW_UNENFORCED))
		answer.verdict_flags = VERDICT_EGRESS | (answer.reason ? VERDICT_EGRESS_DENIED : 0);
	return answer.word;
}

static __always_inline bool policy_answer_is_final(union policy_answer answer)
{
	return answer.reason == DROP_POLICY_DENY || answer.reason == DROP_NO_CONFIG;
}

/* A deny in any bank beats an allow in another; of two allows the first counts. */
__noinline __u64 policy_decide(__u32 policy_id, __u32 sec_identity, __u32 cidr_identity, __u32 where)
{
	const struct policy_entry *policy = bpf_map_lookup_elem(&policies, &policy_id);
	union policy_answer decided = {.reason = DROP_NO_CONFIG};

	if (!policy || !policy->revision)
		return decided.word;
	for (int i = 0; i < POLICY_MAX_BANKS; i++) {
		union policy_answer here;

		if (i >= policy->bank_count)
			break;
		here.word = policy_decide_in_bank(policy_id, policy->banks[i], sec_identity, cidr_identity, where);
		if (i == 0 || policy_answer_is_final(here) || (!here.reason && decided.reason))
			decided = here;
		if (policy_answer_is_final(here))
			break;
	}
	return decided.word;
}
