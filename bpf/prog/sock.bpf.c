// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* Sockets of pods and of the node, attached to a cgroup: what is for a service goes to one of its backends from
 * the start, so that no packet needs to be translated.
 *
 *   connect, sendmsg      the frontend that the process names becomes a backend
 *   recvmsg, getpeername  the process sees the frontend again
 *   post_bind             no process of the node takes a port of the node that a service has
 *   sock_release          what was remembered of a connected socket is forgotten
 *
 * A frontend without backends is left as it is: the packet is refused where packets are translated, and the process
 * learns of it at once. The kernel asks nobody about SCTP, which is translated there too.
 */
#include "../lib/sock.h"

enum sock_verdict {
	SOCK_REFUSE = 0, /* EPERM */
	SOCK_ALLOW = 1,
};

static __always_inline void sock_name4(const struct bpf_sock_addr *context, struct sock_name *name)
{
	ipv4_mapped(&name->address, context->user_ip4);
	name->port = context->user_port;
	name->family = FAMILY_IPV4;
	name->protocol = sock_protocol(context->protocol);
}

static __always_inline void sock_name6(const struct bpf_sock_addr *context, struct sock_name *name)
{
	name->address.words[0] = context->user_ip6[0];
	name->address.words[1] = context->user_ip6[1];
	name->address.words[2] = context->user_ip6[2];
	name->address.words[3] = context->user_ip6[3];
	name->port = context->user_port;
	name->family = address_is_mapped(&name->address) ? FAMILY_IPV4 : FAMILY_IPV6;
	name->protocol = sock_protocol(context->protocol);
}

static __always_inline int sock_rename4(struct bpf_sock_addr *context, const struct socket_flow_entry *to)
{
	context->user_ip4 = to->address.words[3];
	context->user_port = to->port;
	return SOCK_ALLOW;
}

static __always_inline int sock_rename6(struct bpf_sock_addr *context, const struct socket_flow_entry *to)
{
	context->user_ip6[0] = to->address.words[0];
	context->user_ip6[1] = to->address.words[1];
	context->user_ip6[2] = to->address.words[2];
	context->user_ip6[3] = to->address.words[3];
	context->user_port = to->port;
	return SOCK_ALLOW;
}

/* Chooses a backend; false: there is none. */
static __always_inline bool sock_choose(const struct sock_name *name, const struct service_entry *service,
					__u64 netns_cookie, struct socket_flow_entry *chosen)
{
	const struct backend_entry *backend;
	struct service_client client;

	service_client_of_netns(&client, netns_cookie);
	backend = service_choose(service, &client, name->protocol, false, &chosen->backend_id);
	if (!backend)
		return false;
	chosen->address = backend->address;
	chosen->port = backend->port;
	chosen->service_id = service->service_id;
	return true;
}

/* Where a socket that is being connected goes instead; false: where it says. Not inlined for the sake of the stack. */
static __noinline int sock_connect(struct bpf_sock_addr *context, const struct sock_name *name,
				   struct socket_flow_entry *chosen)
{
	__u64 netns_cookie = bpf_get_netns_cookie(context);
	const struct service_entry *service = sock_service(name, netns_cookie);

	if (!service || !sock_choose(name, service, netns_cookie, chosen))
		return false;
	socket_flow_set_reverse(bpf_get_socket_cookie(context), name, chosen);
	sock_report(context, name, chosen, TRANSLATION_FORWARD);
	return true;
}

/* The same for one datagram: all of a socket's to one frontend go to one backend while that stands, so that what is sent
 * again goes where it went before.
 */
static __noinline int sock_send(struct bpf_sock_addr *context, const struct sock_name *name,
				struct socket_flow_entry *chosen)
{
	__u64 netns_cookie = bpf_get_netns_cookie(context), socket_cookie;
	const struct service_entry *service = sock_service(name, netns_cookie);
	struct socket_flow_entry *known;
	struct socket_flow_key key;

	if (!service)
		return false;
	socket_cookie = bpf_get_socket_cookie(context);
	socket_flow_key_of(&key, socket_cookie, &name->address, name->port, SOCKET_FLOW_FORWARD);
	known = bpf_map_lookup_elem(&socket_flows, &key);
	if (likely(known && socket_flow_stands(known, service))) {
		*chosen = *known;
		if (unlikely(!socket_flow_has_reverse(socket_cookie, chosen)))
			socket_flow_set_reverse(socket_cookie, name, chosen);
		if (socket_flow_is_news(known))
			sock_report(context, name, chosen, TRANSLATION_FORWARD);
		return true;
	}
	if (!sock_choose(name, service, netns_cookie, chosen))
		return false;
	chosen->reported_s = clock_now_s();
	bpf_map_update_elem(&socket_flows, &key, chosen, BPF_ANY);
	socket_flow_set_reverse(socket_cookie, name, chosen);
	sock_report(context, name, chosen, TRANSLATION_FORWARD);
	return true;
}

/* What the process is to see of a peer; false: the peer itself. */
static __noinline int sock_show(struct bpf_sock_addr *context, const struct sock_name *name,
				struct socket_flow_entry *shown)
{
	struct socket_flow_entry *known;
	struct socket_flow_key key;

	socket_flow_key_of(&key, bpf_get_socket_cookie(context), &name->address, name->port, SOCKET_FLOW_REVERSE);
	known = bpf_map_lookup_elem(&socket_flows, &key);
	if (!known)
		return false;
	*shown = *known;
	if (socket_flow_is_news(known))
		sock_report(context, name, shown, TRANSLATION_REVERSE);
	return true;
}

SEC("cgroup/connect4")
int sock_connect4(struct bpf_sock_addr *context)
{
	struct socket_flow_entry chosen = {};
	struct sock_name name = {};

	sock_name4(context, &name);
	return sock_connect(context, &name, &chosen) ? sock_rename4(context, &chosen) : SOCK_ALLOW;
}

SEC("cgroup/connect6")
int sock_connect6(struct bpf_sock_addr *context)
{
	struct socket_flow_entry chosen = {};
	struct sock_name name = {};

	sock_name6(context, &name);
	return sock_connect(context, &name, &chosen) ? sock_rename6(context, &chosen) : SOCK_ALLOW;
}

SEC("cgroup/sendmsg4")
int sock_sendmsg4(struct bpf_sock_addr *context)
{
	struct socket_flow_entry chosen = {};
	struct sock_name name = {};

	sock_name4(context, &name);
	return sock_send(context, &name, &chosen) ? sock_rename4(context, &chosen) : SOCK_ALLOW;
}

SEC("cgroup/sendmsg6")
int sock_sendmsg6(struct bpf_sock_addr *context)
{
	struct socket_flow_entry chosen = {};
	struct sock_name name = {};

	sock_name6(context, &name);
	return sock_send(context, &name, &chosen) ? sock_rename6(context, &chosen) : SOCK_ALLOW;
}

SEC("cgroup/recvmsg4")
int sock_recvmsg4(struct bpf_sock_addr *context)
{
	struct socket_flow_entry shown = {};
	struct sock_name name = {};

	sock_name4(context, &name);
	return sock_show(context, &name, &shown) ? sock_rename4(context, &shown) : SOCK_ALLOW;
}

SEC("cgroup/recvmsg6")
int sock_recvmsg6(struct bpf_sock_addr *context)
{
	struct socket_flow_entry shown = {};
	struct sock_name name = {};

	sock_name6(context, &name);
	return sock_show(context, &name, &shown) ? sock_rename6(context, &shown) : SOCK_ALLOW;
}

SEC("cgroup/getpeername4")
int sock_peername4(struct bpf_sock_addr *context)
{
	struct socket_flow_entry shown = {};
	struct sock_name name = {};

	sock_name4(context, &name);
	return sock_show(context, &name, &shown) ? sock_rename4(context, &shown) : SOCK_ALLOW;
}

SEC("cgroup/getpeername6")
int sock_peername6(struct bpf_sock_addr *context)
{
	struct socket_flow_entry shown = {};
	struct sock_name name = {};

	sock_name6(context, &name);
	return sock_show(context, &name, &shown) ? sock_rename6(context, &shown) : SOCK_ALLOW;
}

/* Is the port one by which a service is reached on this address of the node? Not a HostPort: it is the runtime's to keep,
 * and podman holds it by a socket of its own. */
static __always_inline bool sock_port_is_served(const struct sock_name *name)
{
	const struct service_entry *service =
	    address_is_unroutable(&name->address, name->family)
		? service_lookup_node(name->port, name->protocol, name->family)
		: service_lookup(&name->address, name->port, name->protocol, name->family);

	return service && (service->flags & (SERVICE_EXTERNAL | SERVICE_OWN_NODE)) == SERVICE_EXTERNAL;
}

SEC("cgroup/post_bind4")
int sock_bound4(struct bpf_sock *socket)
{
	struct sock_name name = {.family = FAMILY_IPV4};

	if (!netns_is_host(bpf_get_netns_cookie(socket)))
		return SOCK_ALLOW;
	ipv4_mapped(&name.address, socket->src_ip4);
	name.port = be16(socket->src_port);
	name.protocol = sock_protocol(socket->protocol);
	return sock_port_is_served(&name) ? SOCK_REFUSE : SOCK_ALLOW;
}

/* A socket that takes IPv6 on all addresses takes IPv4 as well, unless it says otherwise, which cannot be seen here. */
SEC("cgroup/post_bind6")
int sock_bound6(struct bpf_sock *socket)
{
	struct sock_name name = {.family = FAMILY_IPV6};

	if (!netns_is_host(bpf_get_netns_cookie(socket)))
		return SOCK_ALLOW;
	name.address.words[0] = socket->src_ip6[0];
	name.address.words[1] = socket->src_ip6[1];
	name.address.words[2] = socket->src_ip6[2];
	name.address.words[3] = socket->src_ip6[3];
	name.port = be16(socket->src_port);
	name.protocol = sock_protocol(socket->protocol);
	if (address_is_mapped(&name.address))
		name.family = FAMILY_IPV4;
	else if (sock_port_is_served(&name))
		return SOCK_REFUSE;
	else if (address_is_any(&name.address))
		name.family = FAMILY_IPV4;
	return name.family == FAMILY_IPV4 && sock_port_is_served(&name) ? SOCK_REFUSE : SOCK_ALLOW;
}

/* Of an unconnected socket nobody knows whom it was for: that grows old in the map. Both forms of the peer's address
 * are read, for of a choice between them clang makes a pointer that the verifier refuses (seen with clang 20).
 */
SEC("cgroup/sock_release")
int sock_release(struct bpf_sock *socket)
{
	const volatile struct bpf_sock *fields = socket;
	__be32 ipv4 = fields->dst_ip4;
	struct ipv6_addr peer = {{fields->dst_ip6[0], fields->dst_ip6[1], fields->dst_ip6[2], fields->dst_ip6[3]}};
	__be16 port = fields->dst_port;
	struct socket_flow_key key;

	if (!port)
		return SOCK_ALLOW;
	if (fields->family == SOCK_INET4)
		ipv4_mapped(&peer, ipv4);
	socket_flow_key_of(&key, bpf_get_socket_cookie(socket), &peer, port, SOCKET_FLOW_REVERSE);
	if (unlikely(bpf_map_lookup_elem(&socket_flows, &key)))
		bpf_map_delete_elem(&socket_flows, &key);
	return SOCK_ALLOW;
}

const char LICENSE[] SEC("license") = "Dual BSD/GPL";
