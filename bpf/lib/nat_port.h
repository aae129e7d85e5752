/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* A new mapping: a port of the node for a flow, which no other flow to the same remote end has.
 *
 * The flow's own port, or the one that stands for it, if that is free, else one found by a search in rounds, each from a
 * random port on in random equal steps: fewer random numbers than ports are looked at, no run of taken ports is followed
 * for long, and no two flows take the same way. A search looks at 1024 ports at most: of 64512 with 300 left it finds one 99 times in 100, and it
 * costs some 100 us when there is none; the next packet, as of a SYN that is sent again, starts a new one.
 *
 * The gateway's ports for services are none that the kernel would choose for the node's own sockets: those have the same
 * address towards pods, and nothing turns their packets. A socket that was bound to such a port by name has it for itself
 * if it was first, and else takes it (service_yield()).
 *
 * NAT_IN comes first, for it is what two flows would fight for, then NAT_OUT; if that fails the first is taken back.
 */
#pragma once

#include "conntrack.h"
#include "nat.h"

enum nat_step {
	NAT_STEP_FACTOR =
	    42, /* 64512 is 2^10 * 3^2 * 7: a multiple of 42, and one, shares no factor with it, so that its
				 steps come to no port twice; with 31744, 2^10 * 31, none but 31: not in a round */
};

static __always_inline struct nat_draft *nat_draft_here(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&nat_draft, &zero);
}

static __always_inline void nat_draft_key(const struct nat_draft *draft, struct nat6_key *key, __u8 direction)
{
	key->local = direction == NAT_OUT ? draft->inside : draft->outside;
	key->remote = draft->remote;
	key->local_port = direction == NAT_OUT ? draft->inside_port : draft->outside_port;
	key->remote_port = draft->remote_port;
	key->protocol = draft->protocol;
	key->direction = direction;
	key->pad = 0;
}

/* Has the node itself a socket that this port of the remote end's packets would go to? A listening one counts too. */
static __always_inline bool nat_socket_has(PACKET_CONTEXT *context, const struct nat_draft *draft, __be16 port)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *socket = 0;
	__u32 bytes;

	if (draft->family == FAMILY_IPV4) {
		tuple.ipv4.saddr = draft->remote.words[3];
		tuple.ipv4.daddr = draft->outside.words[3];
		tuple.ipv4.sport = draft->remote_port;
		tuple.ipv4.dport = port;
		bytes = sizeof(tuple.ipv4);
	} else {
		__builtin_memcpy(tuple.ipv6.saddr, &draft->remote, sizeof(tuple.ipv6.saddr));
		__builtin_memcpy(tuple.ipv6.daddr, &draft->outside, sizeof(tuple.ipv6.daddr));
		tuple.ipv6.sport = draft->remote_port;
		tuple.ipv6.dport = port;
		bytes = sizeof(tuple.ipv6);
	}
	if (draft->protocol == IPPROTO_TCP)
		socket = bpf_skc_lookup_tcp(context, &tuple, bytes, BPF_F_CURRENT_NETNS, 0);
	else if (draft->protocol == IPPROTO_UDP)
		socket = bpf_sk_lookup_udp(context, &tuple, bytes, BPF_F_CURRENT_NETNS, 0);
	if (!socket)
		return false;
	bpf_sk_release(socket);
	return true;
}

static __always_inline __u32 nat_ports(const struct nat_draft *draft)
{
	return draft->flags & NAT_SERVICE ? NAT_SERVICE_PORTS : NAT_PORTS;
}

/* Claims the port for the draft: 0, -EEXIST if it is another's, or -E2BIG if the map is full. A mapping of this flow that
 * has lost its other half is taken up again.
 */
__noinline int nat_claim(PACKET_CONTEXT *context, __u32 port)
{
	struct nat_draft *draft = nat_draft_here();
	const struct nat_entry *found;
	struct nat_entry entry = {};
	struct nat6_key key;

	if (!draft)
		return -EEXIST;
	draft->outside_port = be16(port);
	nat_draft_key(draft, &key, NAT_IN);
	found = nat_find(&key, draft->family);
	if (found)
		return nat_entry_names(found, &draft->inside, draft->inside_port) ? 0 : -EEXIST;
	if (nat_socket_has(context, draft, draft->outside_port))
		return -EEXIST;
	entry.address = draft->inside;
	entry.port = draft->inside_port;
	entry.used_s = draft->now_s;
	entry.flags = draft->flags;
	return nat_add(&key, &entry, draft->family);
}

/* Has the node itself a connection with this port of the gateway? Conntrack knows those that it has with pods. Or, if the
 * client keeps its address and only gets another port, has the client one, to whatever frontend? Not part of nat_claim(),
 * which has no stack left for it.
 */
__noinline int nat_connection_has(__u32 port)
{
	const struct nat_draft *draft = nat_draft_here();
	const struct ct_entry *connection;
	struct tuple tuple = {};
	bool is_reply;

	if (!draft || !(draft->flags & NAT_SERVICE))
		return 0;
	tuple.source = draft->outside;
	tuple.destination = draft->remote;
	tuple.source_port = be16(port);
	tuple.destination_port = draft->remote_port;
	tuple.protocol = draft->protocol;
	connection = ct_lookup(&tuple, draft->family, draft->now_s, &is_reply);
	if (!connection)
		return 0;
	return !(connection->flags & CT_TRANSLATED) || address_equal(&draft->inside, &draft->outside);
}

static __always_inline int nat_take(PACKET_CONTEXT *context, __u32 port)
{
	return nat_connection_has(port) ? -EEXIST : nat_claim(context, port);
}

/* The first free port of some, by two random numbers; 0 if there is none. */
__noinline int nat_scan(__u32 start, __u32 step)
{
	const struct nat_draft *draft = nat_draft_here();
	struct nat6_key key;
	__u32 ports, at; /* counted from NAT_PORT_MIN */

	if (!draft)
		return 0;
	nat_draft_key(draft, &key, NAT_IN);
	ports = nat_ports(draft);
	at = start % ports;
	step = step % (ports / NAT_STEP_FACTOR) * NAT_STEP_FACTOR + 1;
	for (int i = 0; i < NAT_PROBES; i++) {
		key.local_port = be16(NAT_PORT_MIN + at);
		if (!nat_find(&key, draft->family))
			return NAT_PORT_MIN + at;
		at += step;
		if (at >= ports)
			at -= ports;
	}
	return 0;
}

/* The port that is tried before the search: the flow's own, or where that is above those that it may have, one as many below
 * it for all such. So a client that takes a port again gets the one that it had, by which a backend that still waits for
 * strays of the connection before (TIME-WAIT) knows the new one as later: by the numbers and times of another port it
 * refuses many (RFC 6191, RFC 7323). No two ports that a kernel chooses for one client fall on one.
 * Ports below NAT_PORT_MIN stay the node's own: 0. Identifiers of pings have no owners.
 */
static __always_inline __u32 nat_first_port(const struct nat_draft *draft)
{
	__u32 port = be16(draft->inside_port);

	if (!nat_has_ports(draft->protocol))
		return port;
	return port >= NAT_PORT_MIN ? NAT_PORT_MIN + (port - NAT_PORT_MIN) % nat_ports(draft) : 0;
}

/* As nat_claim(): 0 once the draft has a port that is its own. */
__noinline int nat_search_port(PACKET_CONTEXT *context)
{
	const struct nat_draft *draft = nat_draft_here();
	int port, error = -EEXIST;

	if (!draft)
		return error;
	port = nat_first_port(draft);
	if (port || !nat_has_ports(draft->protocol))
		error = nat_take(context, port);
	if (error != -EEXIST)
		return error;
	for (int i = 0; i < NAT_ROUNDS; i++) {
		port = nat_scan(bpf_get_prandom_u32(), bpf_get_prandom_u32());
		if (!port)
			continue;
		error = nat_take(context, port);
		if (error != -EEXIST)
			return error;
	}
	return error;
}

/* 0 once the draft has a port that is its own, by NAT_IN; else DROP_NAT_NO_MAPPING. */
__noinline int nat_find_port(PACKET_CONTEXT *context)
{
	int error = nat_search_port(context);

	if (unlikely(error == -E2BIG)) {
		ct_make_room();
		error = nat_search_port(context);
	}
	return error ? DROP_NAT_NO_MAPPING : 0;
}

/* Makes the other half of the mapping of this CPU's draft. Which one stands says NAT_OUT: another CPU may have made one for
 * the same flow meanwhile, or a full map have refused ours; then the port is given back.
 */
__noinline int nat_commit(__u32 now_s)
{
	const struct nat_draft *draft = nat_draft_here();
	const struct nat_entry *found;
	struct nat_entry entry = {.used_s = now_s};
	struct nat6_key key;

	if (!draft)
		return 0;
	entry.address = draft->outside;
	entry.port = draft->outside_port;
	nat_draft_key(draft, &key, NAT_OUT);
	if (!nat_add(&key, &entry, draft->family))
		return 0;
	found = nat_find(&key, draft->family);
	if (found && nat_entry_names(found, &draft->outside, draft->outside_port))
		return 0;
	nat_draft_key(draft, &key, NAT_IN);
	nat_remove(&key, draft->family);
	return 0;
}
