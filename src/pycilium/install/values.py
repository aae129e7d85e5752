"""What can be set: Cilium's names and defaults where the meaning is the same, each with its type and what it means.

`Values` is the only list of them: from it come the defaults, `values.yaml`, `values.schema.json` and the check of what
users set. Invariant: what is not in it is refused, with the nearest name that is.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from pycilium import __version__

Port = Annotated[int, Meta(ge=1, le=65535)]
Quantity = Annotated[int, Meta(ge=0, le=999_999)]
"""Helm writes larger numbers with an exponent where a text is wanted."""
Plain = dict[str, Any]
NotBuilt = Literal[False]


class Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Part of the values."""


class Image(Part, frozen=True):
    repository: str = "localhost/pycilium"
    tag: str = f"v{__version__}"
    digest: str = ""
    pullPolicy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"


class Cluster(Part, frozen=True):
    name: Annotated[str, Meta(pattern="^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=32)] = "default"
    id: Annotated[int, Meta(ge=0, le=0)] = 0


class Switch(Part, frozen=True):
    enabled: bool = True


class OffSwitch(Part, frozen=True):
    enabled: bool = False


class NotBuiltYet(Part, frozen=True):
    enabled: NotBuilt = False


class PoolOperator(Part, frozen=True):
    clusterPoolIPv4PodCIDRList: list[str] = msgspec.field(default_factory=lambda: ["10.0.0.0/8"])
    clusterPoolIPv4MaskSize: Annotated[int, Meta(ge=1, le=30)] = 24
    clusterPoolIPv6PodCIDRList: list[str] = msgspec.field(default_factory=lambda: ["fd00::/104"])
    clusterPoolIPv6MaskSize: Annotated[int, Meta(ge=1, le=126)] = 120


class Ipam(Part, frozen=True):
    mode: Literal["cluster-pool", "kubernetes"] = "cluster-pool"
    operator: PoolOperator = PoolOperator()


class Bpf(Part, frozen=True):
    root: str = "/sys/fs/bpf"
    masquerade: Literal[True] = True
    monitorAggregation: Literal["none", "low", "medium", "maximum"] = "medium"
    lbExternalClusterIP: NotBuilt = False
    ctTcpMax: Annotated[int, Meta(ge=1024, le=999_999)] = 196608
    ctAnyMax: Annotated[int, Meta(ge=1024, le=999_999)] = 65536
    natMax: Annotated[int, Meta(ge=2048, le=999_999)] = 262144
    lbMapMax: Annotated[int, Meta(ge=64, le=1 << 19)] = 65536


class LoadBalancer(Part, frozen=True):
    algorithm: Literal["random", "maglev"] = "random"
    mode: Literal["snat", "dsr", "hybrid"] = "snat"
    dsrDispatch: Literal["opt", "ipip"] = "opt"
    acceleration: Literal["disabled", "native", "best-effort"] = "disabled"


class Maglev(Part, frozen=True):
    tableSize: Annotated[int, Meta(ge=251, le=131071)] = 16381


class NodePort(Part, frozen=True):
    range: Annotated[str, Meta(pattern="^[0-9]+,[0-9]+$")] = "30000,32767"


class SocketLB(Part, frozen=True):
    hostNamespaceOnly: bool = False


class Cni(Part, frozen=True):
    install: bool = True
    exclusive: bool = True
    chainingMode: Literal["none"] = "none"
    confPath: str = "/etc/cni/net.d"
    binPath: str = "/opt/cni/bin"


class AutoMount(Part, frozen=True):
    enabled: bool = True


class Cgroup(Part, frozen=True):
    autoMount: AutoMount = AutoMount()
    hostRoot: str = "/run/cilium/cgroupv2"


class Daemon(Part, frozen=True):
    runPath: str = "/var/run/cilium"


class PeerService(Part, frozen=True):
    clusterDomain: str = "cluster.local"


class Hubble(Part, frozen=True):
    enabled: bool = True
    listenAddress: str = ""
    eventBufferCapacity: Quantity = 65536
    peerService: PeerService = PeerService()
    relay: NotBuiltYet = NotBuiltYet()
    ui: NotBuiltYet = NotBuiltYet()


class RollingUpdate(Part, frozen=True):
    maxUnavailable: Annotated[int, Meta(ge=1, le=9999)] | Annotated[str, Meta(pattern="^[0-9]+%$")] = 2


class UpdateStrategy(Part, frozen=True):
    type: Literal["RollingUpdate"] = "RollingUpdate"
    rollingUpdate: RollingUpdate = RollingUpdate()


class UnmanagedPodWatcher(Part, frozen=True):
    restart: bool = True
    intervalSeconds: Annotated[int, Meta(ge=1, le=3600)] = 15
    selector: str = "k8s-app=kube-dns"


class Operator(Part, frozen=True):
    enabled: bool = True
    replicas: Annotated[int, Meta(ge=0, le=99)] = 2
    identityGCInterval: Annotated[str, Meta(pattern="^([0-9]+[hms])+$")] = "15m"
    unmanagedPodWatcher: UnmanagedPodWatcher = UnmanagedPodWatcher()
    tolerations: list[Plain] = msgspec.field(default_factory=lambda: [{"operator": "Exists"}])
    nodeSelector: dict[str, str] = msgspec.field(default_factory=lambda: {"kubernetes.io/os": "linux"})
    resources: Plain = {}
    podAnnotations: dict[str, str] = {}


class SliceRateLimit(Part, frozen=True):
    nodes: Quantity = 0
    limit: Annotated[int, Meta(ge=1, le=999)] = 10
    burst: Annotated[int, Meta(ge=1, le=9999)] = 20


class CiliumEndpointSlice(Part, frozen=True):
    enabled: bool = False
    rateLimits: Annotated[list[SliceRateLimit], Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: [SliceRateLimit()]
    )


class K8s(Part, frozen=True):
    serviceCIDRs: list[str] = []


class Values(Part, frozen=True):
    """All of them."""

    image: Image = Image()
    imagePullSecrets: list[Plain] = []
    cluster: Cluster = Cluster()
    k8sServiceHost: str = ""
    k8sServicePort: Annotated[str, Meta(pattern="^[0-9]*$")] | Port = ""
    k8s: K8s = K8s()
    debug: OffSwitch = OffSwitch()
    routingMode: Literal["tunnel", "native"] = "tunnel"
    tunnelProtocol: Literal["vxlan"] = "vxlan"
    tunnelPort: Port = 8472
    autoDirectNodeRoutes: bool = False
    ipv4NativeRoutingCIDR: str = ""
    ipv6NativeRoutingCIDR: str = ""
    ipv4: Switch = Switch()
    ipv6: OffSwitch = OffSwitch()
    ipam: Ipam = Ipam()
    enableIPv4Masquerade: bool = True
    enableIPv6Masquerade: bool = True
    MTU: Annotated[int, Meta(ge=0, le=65535)] = 0
    devices: list[str] = []
    kubeProxyReplacement: bool | Literal["true", "false"] = False
    loadBalancer: LoadBalancer = LoadBalancer()
    maglev: Maglev = Maglev()
    nodePort: NodePort = NodePort()
    socketLB: SocketLB = SocketLB()
    bpf: Bpf = Bpf()
    policyEnforcementMode: Literal["default"] = "default"
    policyCIDRMatchMode: list[Literal["nodes"]] = msgspec.field(default_factory=lambda: ["nodes"])
    l7Proxy: NotBuilt = False
    envoy: NotBuiltYet = NotBuiltYet()
    encryption: NotBuiltYet = NotBuiltYet()
    healthChecking: bool = True
    endpointHealthChecking: Switch = Switch()
    identityChangeGracePeriod: Annotated[str, Meta(pattern="^([0-9]{1,4}ms|([0-9]|[1-5][0-9]|60)s)$")] = "500ms"
    hubble: Hubble = Hubble()
    cni: Cni = Cni()
    cgroup: Cgroup = Cgroup()
    daemon: Daemon = Daemon()
    operator: Operator = Operator()
    ciliumEndpointSlice: CiliumEndpointSlice = CiliumEndpointSlice()
    updateStrategy: UpdateStrategy = UpdateStrategy()
    tolerations: list[Plain] = msgspec.field(default_factory=lambda: [{"operator": "Exists"}])
    nodeSelector: dict[str, str] = msgspec.field(default_factory=lambda: {"kubernetes.io/os": "linux"})
    priorityClassName: str = "system-node-critical"
    resources: Plain = {}
    podAnnotations: dict[str, str] = {}


MEANINGS: dict[str, str] = {
    "image": "the image of agent and operator",
    "image.repository": "as the nodes' container runtime knows it",
    "image.tag": "the release",
    "image.digest": "sha256:…, in place of the tag",
    "image.pullPolicy": "when nodes fetch it",
    "imagePullSecrets": "names of Secrets for the registry",
    "cluster": "this cluster among others",
    "cluster.name": "the label io.cilium.k8s.policy.cluster of every pod",
    "cluster.id": "0 until clusters can be joined",
    "k8sServiceHost": "the API server's address for agents, where kube-proxy does not lead to it",
    "k8sServicePort": "and its port",
    "k8s": "facts about the cluster",
    "k8s.serviceCIDRs": "where ClusterIPs are from; empty: found out by `cilium install`, else Kubernetes' defaults",
    "debug": "logs with every detail",
    "routingMode": "tunnel: through an overlay, over any network; native: pods' packets as they are",
    "tunnelProtocol": "of the overlay",
    "tunnelPort": "UDP port of the overlay, the same on all nodes",
    "autoDirectNodeRoutes": "with native routing: routes to the pods of nodes on the same link",
    "ipv4NativeRoutingCIDR": "destinations that see pods' own addresses; others see the node's",
    "ipv6NativeRoutingCIDR": "the same for IPv6",
    "ipv4": "addresses for pods",
    "ipv6": "addresses for pods",
    "ipam": "where pods' addresses are from",
    "ipam.mode": "cluster-pool: the operator divides pools; kubernetes: the Node's spec.podCIDRs",
    "ipam.operator": "the pools",
    "ipam.operator.clusterPoolIPv4PodCIDRList": "append to let the pool grow",
    "ipam.operator.clusterPoolIPv4MaskSize": "how much of it a node gets",
    "ipam.operator.clusterPoolIPv6PodCIDRList": "append to let the pool grow",
    "ipam.operator.clusterPoolIPv6MaskSize": "how much of it a node gets",
    "enableIPv4Masquerade": "pods' packets to the outside leave with the node's address",
    "enableIPv6Masquerade": "the same for IPv6; as for IPv4 where both are on",
    "MTU": "of pods' interfaces; 0: what the devices leave",
    "devices": "the nodes' devices towards the outside; empty: those with a default route or the node's address",
    "kubeProxyReplacement": "translate Services for all; false: for pods alone, and kube-proxy for the rest",
    "loadBalancer": "how Services are translated",
    "loadBalancer.algorithm": "how a backend is chosen",
    "loadBalancer.mode": "how backends on other nodes answer: through this node, straight, or TCP alone straight",
    "loadBalancer.dsrDispatch": "how a backend's node learns what the client called",
    "loadBalancer.acceleration": "translate before the stack, by XDP",
    "maglev": "consistent hashing",
    "maglev.tableSize": "a prime, a hundred times a Service's backends",
    "nodePort": "Services' ports on nodes",
    "nodePort.range": "first,last; as the API server's --service-node-port-range",
    "socketLB": "translation at connect time",
    "socketLB.hostNamespaceOnly": "only for the nodes' own sockets, as service meshes want it",
    "bpf": "the datapath",
    "bpf.root": "where BPF's file system is",
    "bpf.masquerade": "masquerading is the datapath's; there is no other way",
    "bpf.monitorAggregation": "how many flow events of one connection there are",
    "bpf.lbExternalClusterIP": "not built yet",
    "bpf.ctTcpMax": "room for connections of each address family, with what bpf.ctAnyMax says",
    "bpf.ctAnyMax": "room for connections of each address family, with what bpf.ctTcpMax says",
    "bpf.natMax": "room for masqueraded flows and ports for clients outside; each takes two",
    "bpf.lbMapMax": "room for frontends of each address family, four times as many backends and 32 times as many slots",
    "policyEnforcementMode": "a pod is isolated where a policy selects it",
    "policyCIDRMatchMode": "[nodes]: CIDR rules match pods and nodes too, as Kubernetes says; []: the world alone",
    "l7Proxy": "not built yet",
    "envoy": "not built yet",
    "encryption": "not built yet",
    "healthChecking": "agents probe each other",
    "endpointHealthChecking": "and a pod of each other's",
    "identityChangeGracePeriod": "how long a pod with new labels keeps its old identity; at most 60s",
    "hubble": "flows",
    "hubble.enabled": "serve them to other nodes, beside the agent's own socket",
    "hubble.listenAddress": "host:port; not encrypted, so only the node's own address 127.0.0.1 if it is empty",
    "hubble.eventBufferCapacity": "flows that each node keeps",
    "hubble.peerService": "the Service hubble-peer",
    "hubble.peerService.clusterDomain": "of the cluster's DNS",
    "hubble.relay": "not built yet",
    "hubble.ui": "not built yet",
    "cni": "the plugin that kubelet's runtime calls",
    "cni.install": "put it, and its configuration, where the runtime looks",
    "cni.exclusive": "set other plugins' configurations aside, and put them back at the end",
    "cni.chainingMode": "it stands alone",
    "cni.confPath": "k3s: /var/lib/rancher/k3s/agent/etc/cni/net.d",
    "cni.binPath": "k3s: /var/lib/rancher/k3s/data/cni",
    "cgroup": "the cgroup v2 file system",
    "cgroup.autoMount": "where the node has none",
    "cgroup.hostRoot": "where it is mounted then",
    "daemon": "the agent",
    "daemon.runPath": "sockets and state, which do not outlive a reboot",
    "operator": "what is decided once for the cluster",
    "operator.replicas": "one leads, the others wait",
    "operator.identityGCInterval": "how often unused identities are looked for",
    "operator.unmanagedPodWatcher": "pods that started without us, by another plugin",
    "operator.unmanagedPodWatcher.restart": "restart those that somebody makes again, one of an owner at a time",
    "operator.unmanagedPodWatcher.intervalSeconds": "how often it is looked for them",
    "operator.unmanagedPodWatcher.selector": "which may be restarted, by their labels; empty: all",
    "ciliumEndpointSlice": "how nodes learn of each other's pods",
    "ciliumEndpointSlice.enabled": "from slices that the operator gathers: less for the API server, later for nodes",
    "ciliumEndpointSlice.rateLimits": "slices written per second, and at once, from so many nodes on",
    "updateStrategy": "of the agents",
    "updateStrategy.rollingUpdate": "pods' packets flow on meanwhile",
    "tolerations": "agents run everywhere",
    "nodeSelector": "on these nodes",
    "resources": "of the agent's container",
}
"""By path; what stands for itself has none."""


def defaults() -> Plain:
    """All values as they are when nothing is set."""
    plain: Plain = msgspec.to_builtins(Values())
    return plain
