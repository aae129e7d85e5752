/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* MAC addresses and the last step of every packet: out of the door. */
#pragma once

#include <linux/if_packet.h>

#include "../abi/config.h"
#include "endpoint.h"
#include "parse.h"

CONFIG(struct mac_addr, config_host_mac);

typedef __u32 __attribute__((may_alias)) unaligned_u32;
typedef __u16 __attribute__((may_alias)) unaligned_u16;

/* Between packets and maps, in two steps each: the verifier knows where unaligned access is cheap and allows it there.
 * On the stack it never does: __builtin_memcpy is for that.
 */
static __always_inline void mac_copy(void *to, const void *from)
{
	*(unaligned_u32 *)to = *(const unaligned_u32 *)from;
	*(unaligned_u16 *)(to + 4) = *(const unaligned_u16 *)(from + 4);
}

static __always_inline bool mac_equal(const void *a, const void *b)
{
	return *(const unaligned_u32 *)a == *(const unaligned_u32 *)b &&
	       *(const unaligned_u16 *)(a + 4) == *(const unaligned_u16 *)(b + 4);
}

/* What comes for us under a wrong MAC would be passed over by the next stack; as the gateway we take it. */
static __always_inline void packet_take(struct __sk_buff *skb)
{
	if (unlikely(skb->pkt_type != PACKET_HOST))
		bpf_skb_change_type(skb, PACKET_HOST);
}

/* Addresses the frame to an endpoint, from the host side of its interface; 0 or a drop reason. */
static __always_inline int ethernet_to_endpoint(struct __sk_buff *skb, const struct mac_addr *mac,
						const struct mac_addr *host_mac)
{
	struct ethhdr *ethernet = packet_bytes(skb, 0, ETH_HLEN);

	if (!ethernet)
		return DROP_WRITE_ERROR;
	mac_copy(ethernet->h_dest, mac);
	mac_copy(ethernet->h_source, host_mac);
	return 0;
}

static __always_inline struct mac_addr mac_of_host(void)
{
	struct mac_addr mac;

	for (int i = 0; i < ETH_ALEN; i++)
		mac.bytes[i] = config_host_mac.bytes[i];
	return mac;
}

/* Addresses the frame to the node's gateway device. */
static __always_inline int ethernet_to_host(struct __sk_buff *skb)
{
	struct ethhdr *ethernet = packet_bytes(skb, 0, ETH_HLEN);
	struct mac_addr mac;

	if (!ethernet)
		return DROP_WRITE_ERROR;
	mac = mac_of_host();
	__builtin_memcpy(ethernet->h_dest, &mac, ETH_ALEN);
	return 0;
}
