/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The canonical key of a connection (abi/conntrack.h), and its entry whatever that says. */
#pragma once

#include "../maps/conntrack.h"
#include "flow.h"
#include "parse.h"

static __always_inline bool tuple_source_is_high4(const struct tuple *tuple)
{
	__u64 source = (__u64)be32(tuple->source.words[3]) << 16 | be16(tuple->source_port);
	__u64 destination = (__u64)be32(tuple->destination.words[3]) << 16 | be16(tuple->destination_port);

	return source > destination;
}

static __always_inline __u64 ipv6_half(const struct ipv6_addr *address, int half)
{
	return (__u64)be32(address->words[half * 2]) << 32 | be32(address->words[half * 2 + 1]);
}

static __always_inline bool tuple_source_is_high6(const struct tuple *tuple)
{
	__u64 source = ipv6_half(&tuple->source, 0), destination = ipv6_half(&tuple->destination, 0);

	if (source != destination)
		return source > destination;
	source = ipv6_half(&tuple->source, 1);
	destination = ipv6_half(&tuple->destination, 1);
	if (source != destination)
		return source > destination;
	return be16(tuple->source_port) > be16(tuple->destination_port);
}

static __always_inline bool tuple_source_is_high(const struct tuple *tuple, __u8 family)
{
	return family == FAMILY_IPV4 ? tuple_source_is_high4(tuple) : tuple_source_is_high6(tuple);
}

static __always_inline struct ct4_key ct4_key_of(const struct tuple *tuple, bool source_is_high)
{
	struct ct4_key key = {.protocol = tuple->protocol};

	key.address_low = source_is_high ? tuple->destination.words[3] : tuple->source.words[3];
	key.address_high = source_is_high ? tuple->source.words[3] : tuple->destination.words[3];
	key.port_low = source_is_high ? tuple->destination_port : tuple->source_port;
	key.port_high = source_is_high ? tuple->source_port : tuple->destination_port;
	return key;
}

static __always_inline struct ct6_key ct6_key_of(const struct tuple *tuple, bool source_is_high)
{
	struct ct6_key key = {.protocol = tuple->protocol};

	if (source_is_high) {
		key.address_low = tuple->destination;
		key.address_high = tuple->source;
		key.port_low = tuple->destination_port;
		key.port_high = tuple->source_port;
	} else {
		key.address_low = tuple->source;
		key.address_high = tuple->destination;
		key.port_low = tuple->source_port;
		key.port_high = tuple->destination_port;
	}
	return key;
}

/* Lives or not; 0 if there is none. */
static __always_inline struct ct_entry *ct_find(const struct tuple *tuple, __u8 family)
{
	bool source_is_high = tuple_source_is_high(tuple, family);

	if (family == FAMILY_IPV4) {
		struct ct4_key key = ct4_key_of(tuple, source_is_high);

		return bpf_map_lookup_elem(&ct4, &key);
	} else {
		struct ct6_key key = ct6_key_of(tuple, source_is_high);

		return bpf_map_lookup_elem(&ct6, &key);
	}
}

static __always_inline void ct_remove(const struct tuple *tuple, __u8 family)
{
	bool source_is_high = tuple_source_is_high(tuple, family);

	if (family == FAMILY_IPV4) {
		struct ct4_key key = ct4_key_of(tuple, source_is_high);

		bpf_map_delete_elem(&ct4, &key);
	} else {
		struct ct6_key key = ct6_key_of(tuple, source_is_high);

		bpf_map_delete_elem(&ct6, &key);
	}
}
