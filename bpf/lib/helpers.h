/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What a BPF program needs before it can say anything: sections, map definitions, byte order and the kernel's
 * helpers that we use. Self-contained on purpose: only Linux's own headers below. All of it exists in Linux 5.10.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <linux/types.h>
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#define SEC(name) __attribute__((section(name), used))

#undef __always_inline /* linux/stddef.h has a weaker one */
#define __always_inline inline __attribute__((always_inline))
/* For what is seldom: its own frame, and verified apart from the path that matters. */
#define __noinline __attribute__((noinline))

/* What the kernel calls a packet where the program runs; that of XDP has another. */
#ifndef PACKET_CONTEXT
#define PACKET_CONTEXT struct __sk_buff
#endif

#define likely(condition)   __builtin_expect(!!(condition), 1)
#define unlikely(condition) __builtin_expect(!!(condition), 0)

/* Members of a map's definition; the names are libbpf's. */
#define __uint(name, value) int (*name)[value]
#define __type(name, value) typeof(value) *name

/* Gives .rodata, in which clang keeps initial values of local variables, a name that BTF knows. Linux before 5.11 refuses
 * the BTF of an object whose .rodata has none, and what has no BTF it verifies anew for each call, static or not.
 */
const __u32 rodata_named SEC(".rodata") = 1;

/* Keeps a type that is in no map in the object's BTF. The section is loaded by nobody. */
#define EXPORT_TYPE(kind, name) const kind name *const export_##name SEC("export_types")

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define be16(value) ((__u16)__builtin_bswap16(value))
#define be32(value) __builtin_bswap32(value)
#define be64(value) __builtin_bswap64(value)
#else
#define be16(value) ((__u16)(value))
#define be32(value) ((__u32)(value))
#define be64(value) ((__u64)(value))
#endif

static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*const bpf_map_update_elem)(void *map, const void *key, const void *value,
					 __u64 flags) = (void *)BPF_FUNC_map_update_elem;
static long (*const bpf_map_delete_elem)(void *map, const void *key) = (void *)BPF_FUNC_map_delete_elem;
static __u64 (*const bpf_ktime_get_ns)(void) = (void *)BPF_FUNC_ktime_get_ns;
static __u64 (*const bpf_ktime_get_boot_ns)(void) = (void *)BPF_FUNC_ktime_get_boot_ns;
static __u64 (*const bpf_jiffies64)(void) = (void *)BPF_FUNC_jiffies64;
static __u32 (*const bpf_get_prandom_u32)(void) = (void *)BPF_FUNC_get_prandom_u32;
static __u32 (*const bpf_get_smp_processor_id)(void) = (void *)BPF_FUNC_get_smp_processor_id;

static __u64 (*const bpf_get_socket_cookie)(void *context) = (void *)BPF_FUNC_get_socket_cookie;
static __u64 (*const bpf_get_netns_cookie)(void *context) = (void *)BPF_FUNC_get_netns_cookie;
static __u64 (*const bpf_get_current_cgroup_id)(void) = (void *)BPF_FUNC_get_current_cgroup_id;
static __u64 (*const bpf_skb_ancestor_cgroup_id)(struct __sk_buff *skb,
						 int level) = (void *)BPF_FUNC_skb_ancestor_cgroup_id;
static __u64 (*const bpf_sk_ancestor_cgroup_id)(void *socket, int level) = (void *)BPF_FUNC_sk_ancestor_cgroup_id;
static struct bpf_sock *(*const bpf_sk_fullsock)(struct bpf_sock *socket) = (void *)BPF_FUNC_sk_fullsock;

static long (*const bpf_redirect)(__u32 ifindex, __u64 flags) = (void *)BPF_FUNC_redirect;
static long (*const bpf_redirect_peer)(__u32 ifindex, __u64 flags) = (void *)BPF_FUNC_redirect_peer;

static long (*const bpf_redirect_neigh)(__u32 ifindex, const struct bpf_redir_neigh *next_hop, int length,
					__u64 flags) = (void *)BPF_FUNC_redirect_neigh;
static long (*const bpf_fib_lookup)(void *skb, struct bpf_fib_lookup *route, int length,
				    __u32 flags) = (void *)BPF_FUNC_fib_lookup;
static long (*const bpf_xdp_adjust_head)(struct xdp_md *xdp, int bytes) = (void *)BPF_FUNC_xdp_adjust_head;
static long (*const bpf_skb_get_tunnel_key)(struct __sk_buff *skb, struct bpf_tunnel_key *key, __u32 length,
					    __u64 flags) = (void *)BPF_FUNC_skb_get_tunnel_key;
static long (*const bpf_skb_set_tunnel_key)(struct __sk_buff *skb, const struct bpf_tunnel_key *key, __u32 length,
					    __u64 flags) = (void *)BPF_FUNC_skb_set_tunnel_key;

static long (*const bpf_skb_load_bytes)(const void *skb, __u32 offset, void *to,
					__u32 length) = (void *)BPF_FUNC_skb_load_bytes;
static long (*const bpf_skb_store_bytes)(struct __sk_buff *skb, __u32 offset, const void *from, __u32 length,
					 __u64 flags) = (void *)BPF_FUNC_skb_store_bytes;
static long (*const bpf_skb_pull_data)(struct __sk_buff *skb, __u32 length) = (void *)BPF_FUNC_skb_pull_data;
static long (*const bpf_skb_change_tail)(struct __sk_buff *skb, __u32 length,
					 __u64 flags) = (void *)BPF_FUNC_skb_change_tail;
static long (*const bpf_skb_adjust_room)(struct __sk_buff *skb, __s32 bytes, __u32 mode,
					 __u64 flags) = (void *)BPF_FUNC_skb_adjust_room;
static long (*const bpf_skb_change_type)(struct __sk_buff *skb, __u32 type) = (void *)BPF_FUNC_skb_change_type;
static __s64 (*const bpf_csum_diff)(const __be32 *from, __u32 from_size, const __be32 *to, __u32 to_size,
				    __u32 seed) = (void *)BPF_FUNC_csum_diff;
static long (*const bpf_l3_csum_replace)(struct __sk_buff *skb, __u32 offset, __u64 from, __u64 to,
					 __u64 size) = (void *)BPF_FUNC_l3_csum_replace;
static long (*const bpf_l4_csum_replace)(struct __sk_buff *skb, __u32 offset, __u64 from, __u64 to,
					 __u64 flags) = (void *)BPF_FUNC_l4_csum_replace;

static struct bpf_sock *(*const bpf_skc_lookup_tcp)(void *skb, struct bpf_sock_tuple *tuple, __u32 tuple_size,
						    __u64 netns, __u64 flags) = (void *)BPF_FUNC_skc_lookup_tcp;
static struct bpf_sock *(*const bpf_sk_lookup_tcp)(void *skb, struct bpf_sock_tuple *tuple, __u32 tuple_size,
						   __u64 netns, __u64 flags) = (void *)BPF_FUNC_sk_lookup_tcp;
static struct bpf_sock *(*const bpf_sk_lookup_udp)(void *skb, struct bpf_sock_tuple *tuple, __u32 tuple_size,
						   __u64 netns, __u64 flags) = (void *)BPF_FUNC_sk_lookup_udp;
static long (*const bpf_sk_release)(void *sock) = (void *)BPF_FUNC_sk_release;

static void *(*const bpf_ringbuf_reserve)(void *ring, __u64 size, __u64 flags) = (void *)BPF_FUNC_ringbuf_reserve;
static void (*const bpf_ringbuf_submit)(void *data, __u64 flags) = (void *)BPF_FUNC_ringbuf_submit;
static __u64 (*const bpf_ringbuf_query)(void *ring, __u64 flags) = (void *)BPF_FUNC_ringbuf_query;
