/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Entries of nat4 and nat6. Keys are put together in the form of IPv6, with IPv4 addresses mapped; only the last step
 * tells the families apart.
 */
#pragma once

#include "../maps/nat.h"
#include "clock.h"
#include "flow.h"
#include "parse.h"

static __always_inline bool nat_has_ports(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP;
}

/* The flow's own source, as its sender has it, is the local end. */
static __always_inline void nat_key_out(struct nat6_key *key, const struct tuple *tuple)
{
	key->local = tuple->source;
	key->remote = tuple->destination;
	key->local_port = tuple->source_port;
	key->remote_port = tuple->destination_port;
	key->protocol = tuple->protocol;
	key->direction = NAT_OUT;
	key->pad = 0;
}

/* What comes in: the destination is the local end, as the network has it. */
static __always_inline void nat_key_in(struct nat6_key *key, const struct tuple *tuple)
{
	key->local = tuple->destination;
	key->remote = tuple->source;
	key->local_port = tuple->destination_port;
	key->remote_port = tuple->source_port;
	key->protocol = tuple->protocol;
	key->direction = NAT_IN;
	key->pad = 0;
}

static __always_inline struct nat4_key nat4_key_of(const struct nat6_key *key)
{
	return (struct nat4_key){
	    .local = key->local.words[3],
	    .remote = key->remote.words[3],
	    .local_port = key->local_port,
	    .remote_port = key->remote_port,
	    .protocol = key->protocol,
	    .direction = key->direction,
	};
}

static __always_inline struct nat_entry *nat_find(const struct nat6_key *key, __u8 family)
{
	if (family == FAMILY_IPV4) {
		struct nat4_key key4 = nat4_key_of(key);

		return bpf_map_lookup_elem(&nat4, &key4);
	}
	return bpf_map_lookup_elem(&nat6, key);
}

/* Never over an entry that is there: of two CPUs that want one port, one gets it. */
static __always_inline long nat_add(const struct nat6_key *key, const struct nat_entry *entry, __u8 family)
{
	if (family == FAMILY_IPV4) {
		struct nat4_key key4 = nat4_key_of(key);

		return bpf_map_update_elem(&nat4, &key4, entry, BPF_NOEXIST);
	}
	return bpf_map_update_elem(&nat6, key, entry, BPF_NOEXIST);
}

static __always_inline void nat_remove(const struct nat6_key *key, __u8 family)
{
	if (family == FAMILY_IPV4) {
		struct nat4_key key4 = nat4_key_of(key);

		bpf_map_delete_elem(&nat4, &key4);
	} else {
		bpf_map_delete_elem(&nat6, key);
	}
}

static __always_inline void nat_touch(struct nat_entry *entry, __u32 now_s)
{
	if (unlikely(entry->used_s != now_s))
		entry->used_s = now_s;
}

static __always_inline bool nat_entry_names(const struct nat_entry *entry, const struct ipv6_addr *address, __be16 port)
{
	return entry->port == port && address_equal(&entry->address, address);
}
