/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Why a packet was dropped; numbers of flow.DropReason (the texts are in pycilium.model.drop_reason). */
#pragma once

enum drop_reason {
	DROP_INVALID_SOURCE_MAC = 130,
	DROP_INVALID_SOURCE_IP = 132,
	DROP_POLICY_DENIED = 133, /* implicit: no rule allows it */
	DROP_INVALID_PACKET = 134,
	DROP_CT_INVALID_HEADER = 135,
	DROP_CT_UNKNOWN_L4 = 137,
	DROP_UNSUPPORTED_L3 = 139,
	DROP_WRITE_ERROR = 141,
	DROP_UNKNOWN_L3_TARGET = 150,
	DROP_STALE_OR_UNROUTABLE_IP = 151,
	DROP_CT_INSERT_FAILED = 155,
	DROP_INVALID_IPV6_EXTENSION = 156,
	DROP_FRAGMENTATION_NEEDED = 157, /* larger than the way to the other node takes; the sender is told */
	DROP_SERVICE_NO_BACKEND = 158,   /* who asked is told by ICMP */
	DROP_NO_TUNNEL_ENDPOINT = 160,   /* the ipcache names a node that is not in nodes, or there is no overlay */
	DROP_NO_CONFIG = 165,
	DROP_UNSUPPORTED_L2 = 166,
	DROP_NAT_NO_MAPPING = 167, /* no port is left, or the device has no address */
	DROP_NAT_UNSUPPORTED = 168,
	DROP_UNKNOWN_SENDER = 172, /* says what a client has called, and is no node of the cluster */
	DROP_IS_CLUSTER_IP = 174,  /* from outside of the cluster */
	DROP_FRAGMENT_NOT_FOUND = 175,
	DROP_FORBIDDEN_ICMPV6 = 176,
	DROP_SERVICE_SOURCE_RANGE = 177,
	DROP_POLICY_DENY = 181, /* explicit: a deny rule */
	DROP_VLAN_FILTERED = 182,
	DROP_INVALID_VNI = 183, /* no identity that travels; or no tunnel that the packet came through */
	DROP_TTL_EXCEEDED = 196,
	DROP_MULTICAST_HANDLED = 201, /* consumed in silence: counted, no event */
	DROP_ENDPOINT_NOT_READY = 203,
};
