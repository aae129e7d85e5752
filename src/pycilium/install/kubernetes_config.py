"""The ConfigMap cilium-config: Cilium's keys where the meaning is the same, each from one value or fixed.

Keys that are fixed stand there for Cilium's clients, which ask them what an installation can do.
`agent/config_folder.py` and `operator/config_folder.py` read them; a test holds that every key has a reader.
"""

from __future__ import annotations

from typing import Any

from pycilium import __version__
from pycilium.install.kubernetes_names import CONFIG, named
from pycilium.install.templates import Joined, Json, Text, When

CNI_CONFIGURATION = "/host/etc/cni/net.d/05-cilium.conflist"
"""Where an agent in its container writes what the node's runtime reads."""
RELEASE = "pycilium-version"
"""The release whose chart wrote the keys: an agent of another one sets aside those that it does not know."""
NOT_BUILT = (
    "clustermesh-enable-endpoint-sync",
    "enable-bgp-control-plane",
    "enable-egress-gateway",
    "enable-encryption-strict-mode",
    "enable-endpoint-routes",
    "enable-envoy-config",
    "enable-gateway-api",
    "enable-ingress-controller",
    "enable-ipsec",
    "enable-l7-proxy",
    "enable-local-redirect-policy",
    "enable-policy-secrets-sync",
    "enable-wireguard",
    "enable-ztunnel",
    "bpf-lb-external-clusterip",
    "mesh-auth-mutual-enabled",
    "multicast-enabled",
)
"""What Cilium can do and we cannot yet: false, and nothing else is taken."""
FIXED: dict[str, str] = {
    **dict.fromkeys(NOT_BUILT, "false"),
    "clustermesh-default-global-namespace": "true",
    "cni-chaining-mode": "none",
    "enable-bpf-masquerade": "true",
    "enable-policy": "default",
    "identity-allocation-mode": "crd",
    "policy-default-local-cluster": "true",
    "tunnel-protocol": "vxlan",
}
"""What has one meaning here."""


def config_map() -> Any:
    """What agents and operators read at their start."""
    return {**named("ConfigMap", "v1", CONFIG), "data": dict(sorted((FIXED | _set()).items()))}


def _set() -> dict[str, Any]:
    v6 = {
        "cluster-pool-ipv6-cidr": Joined("ipam.operator.clusterPoolIPv6PodCIDRList"),
        "cluster-pool-ipv6-mask-size": Text("ipam.operator.clusterPoolIPv6MaskSize"),
    }
    return {
        "agent-not-ready-taint-key": "node.cilium.io/agent-not-ready",
        "auto-direct-node-routes": Text("autoDirectNodeRoutes"),
        "bpf-ct-global-any-max": Text("bpf.ctAnyMax"),
        "bpf-ct-global-tcp-max": Text("bpf.ctTcpMax"),
        "bpf-lb-acceleration": Text("loadBalancer.acceleration"),
        "bpf-lb-algorithm": Text("loadBalancer.algorithm"),
        "bpf-lb-dsr-dispatch": Text("loadBalancer.dsrDispatch"),
        "bpf-lb-maglev-table-size": Text("maglev.tableSize"),
        "bpf-lb-map-max": Text("bpf.lbMapMax"),
        "bpf-lb-mode": Text("loadBalancer.mode"),
        "bpf-lb-sock-hostns-only": Text("socketLB.hostNamespaceOnly"),
        "bpf-nat-global-max": Text("bpf.natMax"),
        "bpf-root": Text("bpf.root"),
        "ces-rate-limits": Json("ciliumEndpointSlice.rateLimits"),
        "cgroup-root": Text("cgroup.hostRoot"),
        "cluster-id": Text("cluster.id"),
        "cluster-name": Text("cluster.name"),
        "cluster-pool-ipv4-cidr": Joined("ipam.operator.clusterPoolIPv4PodCIDRList"),
        "cluster-pool-ipv4-mask-size": Text("ipam.operator.clusterPoolIPv4MaskSize"),
        **{key: When("ipv6.enabled", hole) for key, hole in v6.items()},
        "cni-exclusive": Text("cni.exclusive"),
        "custom-cni-conf": When("cni.install", "false", "true"),
        "debug": Text("debug.enabled"),
        "devices": Joined("devices"),
        "enable-cilium-endpoint-slice": Text("ciliumEndpointSlice.enabled"),
        "enable-endpoint-health-checking": Text("endpointHealthChecking.enabled"),
        "enable-health-checking": Text("healthChecking"),
        "enable-hubble": Text("hubble.enabled"),
        "enable-ipv4": Text("ipv4.enabled"),
        "enable-ipv4-masquerade": Text("enableIPv4Masquerade"),
        "enable-ipv6": Text("ipv6.enabled"),
        "enable-ipv6-masquerade": Text("enableIPv6Masquerade"),
        "hubble-event-buffer-capacity": Text("hubble.eventBufferCapacity"),
        "hubble-listen-address": Text("hubble.listenAddress"),
        "identity-change-grace-period": Text("identityChangeGracePeriod"),
        "identity-gc-interval": Text("operator.identityGCInterval"),
        "ipam": Text("ipam.mode"),
        "ipv4-native-routing-cidr": Text("ipv4NativeRoutingCIDR"),
        "ipv6-native-routing-cidr": Text("ipv6NativeRoutingCIDR"),
        "k8s-service-cidrs": Joined("k8s.serviceCIDRs"),
        "kube-proxy-replacement": Text("kubeProxyReplacement"),
        "loadbalancer-l7": "",
        "monitor-aggregation": Text("bpf.monitorAggregation"),
        "mtu": Text("MTU"),
        "node-port-range": Text("nodePort.range"),
        RELEASE: __version__,
        "pod-restart-selector": Text("operator.unmanagedPodWatcher.selector"),
        "policy-cidr-match-mode": Joined("policyCIDRMatchMode"),
        "routing-mode": Text("routingMode"),
        "tunnel-port": Text("tunnelPort"),
        "unmanaged-pod-watcher-interval": When(
            "operator.unmanagedPodWatcher.restart", Text("operator.unmanagedPodWatcher.intervalSeconds"), "0"
        ),
        "write-cni-conf-when-ready": When("cni.install", CNI_CONFIGURATION, ""),
    }
