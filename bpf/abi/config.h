/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Per-node configuration: constants in .rodata.config, written by the loader before the object is loaded,
 * frozen by the kernel, so that dead branches disappear. The one way to configure a program.
 * A program declares only those it reads, with CONFIG().
 *
 *   config_gateway_ipv4   __be32            address that workloads use as gateway; 0: IPv4 is off
 *   config_gateway_ipv6   struct ipv6_addr  the same; all zero: IPv6 is off
 *   config_host_ifindex   __u32             the node's gateway device (cilium_host)
 *   config_host_mac       struct mac_addr   its MAC
 *   config_overlay_ifindex __u32            the node's VXLAN device (cilium_vxlan); 0: there is none
 *   config_tunnel_port    __u32             UDP port of the overlay
 *   config_aggregation    __u32             enum aggregation
 *   config_report_interval_s __u32          medium: one event per connection, direction and this interval
 *   config_event_wakeup_ns   __u64          the reader is woken at most once per CPU in this time
 *   config_services       __u32             0: packets are not translated for services
 *   config_beside_kube_proxy __u32          only what pods send is translated for services; kube-proxy does the rest in the stack
 *   config_host_netns_cookie __u64          the node's network namespace; 0: the machine's first one
 *   config_socket_host_only  __u32          only sockets of that namespace are translated
 *   config_cpus           __u32             how many CPUs the machine may have
 *   config_dsr_outer_family  __u32          natively packets of this family say what a client has called in an outer header; 0: none does
 */
#pragma once

#include "types.h"

#define CONFIG(type, name) const volatile type name __attribute__((section(".rodata.config"), used))
