/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* CRC32c (RFC 9260, appendix A) of a packet of which some bytes change, without a look at the others: the sum is linear, so
 * that the old one and the new one differ by the sum of what changed and of as many zeros as there are bytes behind it.
 * A zero byte multiplies a sum by x^8 modulo the polynomial, and any number of them takes 16 multiplications at most.
 *
 * What was wrong before stays wrong.
 */
#pragma once

#include "helpers.h"

/* The lowest bit stands for the highest power, here and below. */
#define CRC32C_POLYNOMIAL 0x82f63b78

/* x^(8 * 2^i), for as many bytes as an IP packet can have. */
static const __u32 crc32c_powers[16] = {
    0x00800000, 0x00008000, 0x82f63b78, 0x6ea2d55c, 0x18b8ea18, 0x510ac59a, 0xb82be955, 0xb8fdb1e7,
    0x88e56f72, 0x74c360a4, 0xe4172b16, 0x0d65762a, 0x35d73a62, 0x28461564, 0xbf455269, 0xe2ea32dc,
};

/* Without branches, each of which verifiers would follow both ways, and not static, so that they follow it once. */
__noinline __u32 crc32c_multiply(__u32 factor, __u32 value)
{
	__u32 product = 0;

	for (int i = 0; i < 32; i++) {
		product ^= value & -(factor >> 31);
		factor <<= 1;
		value = value >> 1 ^ (CRC32C_POLYNOMIAL & -(value & 1));
	}
	return product;
}

/* By what the sum changes when the last word before `bytes` - 4 others is another: `change` is old ^ new, as the CPU reads
 * it from the packet.
 */
static __always_inline __u32 crc32c_change(__u32 change, __u32 bytes)
{
	for (int i = 0; i < 16; i++)
		if (bytes >> i & 1)
			change = crc32c_multiply(crc32c_powers[i], change);
	return change;
}
