/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The smallest programs that touch every map as the real ones declare them: what the loader's tests load. */
#include "abi/config.h"
#include "maps/conntrack.h"
#include "maps/endpoint.h"
#include "maps/events.h"
#include "maps/fragment.h"
#include "maps/ipcache.h"
#include "maps/policy.h"

CONFIG(__u32, config_host_ifindex);
CONFIG(__be32, config_gateway_ipv4);

static void (*const bpf_ringbuf_discard)(void *data, __u64 flags) = (void *)BPF_FUNC_ringbuf_discard;

#ifndef VERDICT
#define VERDICT TC_ACT_OK
#endif

/* Sends one event, numbered by the packet's mark, and counts the mark up: repeated runs number their events.
 * An event whose number is a multiple of the packet's priority is discarded, if that is not 0.
 */
SEC("tc") int probe_events(struct __sk_buff *skb)
{
	__u32 number = skb->mark, zero = 0;
	struct flow_event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);

	skb->mark = number + 1;
	if (!event) {
		__u64 *lost = bpf_map_lookup_elem(&events_lost, &zero);
		if (lost)
			*lost += 1;
		return TC_ACT_SHOT;
	}
	__builtin_memset(event, 0, sizeof(*event));
	event->time_ns = bpf_ktime_get_ns();
	event->source_port = be16(number);
	event->source_identity = number;
	if (skb->priority && number % skb->priority == 0)
		bpf_ringbuf_discard(event, 0);
	else
		bpf_ringbuf_submit(event, 0);
	return VERDICT;
}

/* The configuration, as the program sees it. */
SEC("tc") int probe_config(struct __sk_buff *skb)
{
	skb->mark = config_gateway_ipv4 == be32(0x0a000001);
	return (int)config_host_ifindex;
}

/* Whether the maps have what the agent wrote under the key that the packet's cb names. */
SEC("tc") int probe_lookup(struct __sk_buff *skb)
{
	struct ipcache4_key key = {.prefix_len = 32, .address = be32(skb->cb[0])};
	struct ipcache_entry *found = bpf_map_lookup_elem(&ipcache4, &key);
	struct endpoint4_key address = {.address = be32(skb->cb[0])};
	struct endpoint_entry *endpoint = bpf_map_lookup_elem(&endpoints4, &address);
	struct ct4_key connection = {.address_low = be32(skb->cb[0]), .port_low = be16(80)};
	struct ct_entry *entry = bpf_map_lookup_elem(&ct4, &connection);

	skb->cb[1] = found ? found->sec_identity : 0;
	skb->cb[2] = endpoint ? endpoint->policy_id : 0;
	skb->cb[3] = entry ? entry->expires_s : 0;
	return VERDICT;
}

const char LICENSE[] SEC("license") = "Dual BSD/GPL";
