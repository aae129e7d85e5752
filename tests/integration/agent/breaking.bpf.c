/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Programs that a node's device can and cannot live with. */
#include "lib/helpers.h"

SEC("tc") int pass_all(struct __sk_buff *skb __attribute__((unused)))
{
	return TC_ACT_OK;
}

SEC("tc") int drop_all(struct __sk_buff *skb __attribute__((unused)))
{
	return TC_ACT_SHOT;
}

SEC("tc") int drop_tcp(struct __sk_buff *skb)
{
	__u8 *bytes = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;

	return bytes + 24 <= end && bytes[12] == 8 && !bytes[13] && bytes[23] == 6 ? TC_ACT_SHOT : TC_ACT_OK;
}

const char LICENSE[] SEC("license") = "Dual BSD/GPL";
