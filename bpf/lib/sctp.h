/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* SCTP's common header (RFC 9260, 3.1). Its checksum covers the whole packet, and of IP nothing: another address changes
 * nothing in it, another port is made up for (crc32c.h). As long as a device is still to compute it, it is 0 and stays so:
 * the device's sum is of the whole packet, with whatever stands there. One that is 0 by itself, of 4 billion packets one,
 * is taken for that.
 */
#pragma once

#include "../abi/drop_reason.h"
#include "crc32c.h"
#include "parse.h"

enum sctp_rewrite {
	SCTP_SOURCE = 1, /* else the destination's port */
	SCTP_FIRST_FRAGMENT = 2,
};

enum sctp_limits {
	SCTP_CHUNKS_MAX = 8, /* in front of the one that a packet is cut for */
};

struct sctp_header {
	union {
		struct {
			__be16 source_port;
			__be16 destination_port;
		};
		__u32 both_ports;
	};
	__be32 verification_tag;
	__u32 checksum; /* the lowest byte first (RFC 9260, appendix A) */
};

/* Of the SCTP packet, from its header on, as the IP header says: a frame may be padded. 0: it cannot be read. */
static __always_inline __u32 sctp_bytes(struct __sk_buff *skb, __u32 l4_offset)
{
	const bool is_ipv4 = skb->protocol == be16(ETH_P_IP);
	const __u32 offset = is_ipv4 ? offsetof(struct iphdr, tot_len) : offsetof(struct ipv6hdr, payload_len);
	__u32 end = is_ipv4 ? ETH_HLEN : ETH_HLEN + sizeof(struct ipv6hdr);
	__be16 length;

	if (bpf_skb_load_bytes(skb, ETH_HLEN + offset, &length, sizeof(length)))
		return 0;
	end += be16(length);
	return end > l4_offset ? end - l4_offset : 0;
}

struct sctp_chunk_header {
	__u8 type;
	__u8 flags;
	__be16 length; /* without what fills it up to a multiple of four */
};

/* Of the packet whose first fragment has `here` bytes of it: what its chunks say. The last one that begins here is taken for
 * its last: senders cut what a single chunk has made too long. 0: it cannot be told.
 */
static __always_inline __u32 sctp_bytes_of_chunks(struct __sk_buff *skb, __u32 l4_offset, __u32 here)
{
	__u32 bytes = sizeof(struct sctp_header);
	struct sctp_chunk_header chunk;

	for (int i = 0; i < SCTP_CHUNKS_MAX && bytes < here; i++) {
		if (bpf_skb_load_bytes(skb, l4_offset + bytes, &chunk, sizeof(chunk)) ||
		    be16(chunk.length) < sizeof(chunk))
			return 0;
		bytes += (be16(chunk.length) + 3) & ~3;
	}
	return bytes >= here && bytes <= IP_LENGTH_MAX ? bytes : 0;
}

/* `what`: enum sctp_rewrite. 0 or a drop reason. */
__noinline int sctp_rewrite_port(struct __sk_buff *skb, __u32 l4_offset, __u32 what, __u32 port)
{
	__u32 bytes = sctp_bytes(skb, l4_offset), old_ports;
	struct sctp_header header;

	if (what & SCTP_FIRST_FRAGMENT)
		bytes = sctp_bytes_of_chunks(skb, l4_offset, bytes);
	if (bytes < sizeof(header) || bpf_skb_load_bytes(skb, l4_offset, &header, sizeof(header)))
		return DROP_CT_INVALID_HEADER;
	old_ports = header.both_ports;
	if (what & SCTP_SOURCE)
		header.source_port = port;
	else
		header.destination_port = port;
	if (likely(header.checksum))
		header.checksum ^= crc32c_change(old_ports ^ header.both_ports, bytes);
	return bpf_skb_store_bytes(skb, l4_offset, &header, sizeof(header), 0) ? DROP_WRITE_ERROR : 0;
}
