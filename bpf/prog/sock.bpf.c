// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* Sockets of pods and of the node: attached to a cgroup. A socket that is for a service is connected to one of its
 * backends, so that none of its packets needs to be translated.
 */
#include "../lib/service.h"

enum sock_verdict { SOCK_REFUSE = 0, SOCK_ALLOW = 1 };

SEC("cgroup/connect4")
int sock_connect4(struct bpf_sock_addr *context)
{
	(void)context;
	return SOCK_ALLOW;
}

const char LICENSE[] SEC("license") = "Dual BSD/GPL";
