/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* lib/service.h asked from packets' programs: the packet says what to ask, the return value is the answer. */
#include "lib/service.h"

struct question {
	struct ipv6_addr client;
	struct ipv6_addr address;
	__be16 client_port;
	__be16 port;
	__u8 protocol;
	__u8 family;
	__u8 outside;
	__u8 pad;
};

SEC("tc") int probe_hash(struct __sk_buff *skb)
{
	struct question asked = {};

	if (bpf_skb_load_bytes(skb, 0, &asked, sizeof(asked)))
		return 0;
	return service_hash(&asked.client, asked.client_port, asked.protocol);
}

/* The id of the backend that is chosen; 0: none. */
SEC("tc") int probe_choose(struct __sk_buff *skb)
{
	const struct service_entry *service;
	struct service_client client = {};
	struct question asked = {};
	__u32 backend_id = 0;

	if (bpf_skb_load_bytes(skb, 0, &asked, sizeof(asked)))
		return 0;
	client.address = asked.client;
	client.port = asked.client_port;
	service = service_lookup(&asked.address, asked.port, asked.protocol, asked.family);
	if (!service || !service_choose(service, &client, asked.protocol, asked.outside, &backend_id))
		return 0;
	return backend_id;
}

/* 1: the client may use the service. */
SEC("tc") int probe_admits(struct __sk_buff *skb)
{
	const struct service_entry *service;
	struct question asked = {};

	if (bpf_skb_load_bytes(skb, 0, &asked, sizeof(asked)))
		return 0;
	service = service_lookup(&asked.address, asked.port, asked.protocol, asked.family);
	return service && service_admits(service, &asked.client, asked.family);
}

const char LICENSE[] SEC("license") = "Dual BSD/GPL";
