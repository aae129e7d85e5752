/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Which address families the node runs. */
#pragma once

#include "../abi/config.h"
#include "flow.h"

CONFIG(__be32, config_gateway_ipv4);
CONFIG(struct ipv6_addr, config_gateway_ipv6);

static __always_inline bool family_is_on(__u8 family)
{
	const volatile struct ipv6_addr *gateway = &config_gateway_ipv6;

	if (family == FAMILY_IPV4)
		return config_gateway_ipv4;
	return gateway->words[0] | gateway->words[1] | gateway->words[2] | gateway->words[3];
}
