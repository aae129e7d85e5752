"""What types alone cannot say of a Service: the API's own rules. Nothing is changed or filled in.

Whether a node port lies in the configured range, or an address is taken, is not a rule of one Service alone and is
judged where all of them are known.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from pycilium.model.resources import checks
from pycilium.model.resources.checks import refuse
from pycilium.model.resources.service import HEADLESS, Service, ServicePort, ServiceSpec

MAX_AFFINITY_S = 86400
"""Kubernetes' bound on a session affinity's timeout: one day."""
KUBELET_PORT = 10250
"""Never opened to the outside by a load balancer."""


def check_service(service: Service) -> None:
    """InvalidResource at the first fault."""
    checks.check_dns_label(service.metadata.name, "metadata.name")
    spec = service.spec
    checks.check_labels(spec.selector or {}, "spec.selector")
    _check_ports(spec)
    _check_cluster_ips(spec)
    _check_affinity(spec)
    for index, address in enumerate(spec.external_ips):
        checks.check_reachable_address(address, f"spec.externalIPs[{index}]")
    _check_policies(spec)
    _check_load_balancer(spec)
    if spec.type == "ExternalName":
        _check_external_name(spec)
    for index, ingress in enumerate(service.status.load_balancer.ingress):
        if ingress.ip:
            checks.check_address(ingress.ip, f"status.loadBalancer.ingress[{index}].ip")


def _check_ports(spec: ServiceSpec) -> None:
    if not spec.ports and not spec.headless and spec.type != "ExternalName":
        refuse("spec.ports", "a Service needs at least one port, unless it is headless (clusterIP: None)")
    for index, port in enumerate(spec.ports):
        _check_port(port, f"spec.ports[{index}]", spec)
    _refuse_twice(((port.name or None) for port in spec.ports), "name", "each port needs a name of its own")
    _refuse_twice(
        ((port.port, port.protocol) for port in spec.ports), "port", "each port may stand once for each protocol"
    )
    _refuse_twice(
        ((port.node_port, port.protocol) if port.node_port else None for port in spec.ports),
        "nodePort",
        "two ports of one protocol cannot share a node port",
    )


def _check_port(port: ServicePort, path: str, spec: ServiceSpec) -> None:
    checks.check_port(port.port, f"{path}.port", least=1)
    if port.name:
        checks.check_dns_label(port.name, f"{path}.name")
    elif len(spec.ports) > 1:
        refuse(f"{path}.name", "is missing: of several ports each needs a name")
    if isinstance(port.target_port, int):
        checks.check_port(port.target_port, f"{path}.targetPort", least=1)
    elif port.target_port is not None:
        if port.target_port.isascii() and port.target_port.isdigit():
            refuse(f"{path}.targetPort", f"write the number without quotes: {port.target_port}")
        checks.check_port_name(port.target_port, f"{path}.targetPort")
    if port.node_port:
        checks.check_port(port.node_port, f"{path}.nodePort", least=1)
        if spec.type not in ("NodePort", "LoadBalancer"):
            refuse(f"{path}.nodePort", f"only the types NodePort and LoadBalancer have node ports, not {spec.type}")
    if spec.type == "LoadBalancer" and port.port == KUBELET_PORT:
        refuse(f"{path}.port", f"a load balancer cannot expose port {KUBELET_PORT}: it is the kubelet's")


def _refuse_twice(values: Iterable[Hashable | None], field: str, reason: str) -> None:
    """Refuses what stands twice; None may stand as often as it likes."""
    seen: set[Hashable] = set()
    for index, value in enumerate(values):
        if value is not None and value in seen:
            refuse(f"spec.ports[{index}].{field}", reason)
        seen.add(value)


def _check_cluster_ips(spec: ServiceSpec) -> None:
    addresses = spec.all_cluster_ips
    if spec.cluster_ip and spec.cluster_ips and spec.cluster_ips[0] != spec.cluster_ip:
        refuse("spec.clusterIPs", f"the first of them must be the clusterIP, {spec.cluster_ip}")
    if len(spec.ip_families) != len(set(spec.ip_families)):
        refuse("spec.ipFamilies", "each family may stand there once")
    if HEADLESS in addresses:
        if addresses != (HEADLESS,):
            refuse("spec.clusterIPs", f"{HEADLESS} cannot stand beside an address")
        if spec.type != "ClusterIP":
            refuse("spec.clusterIP", f"a Service of type {spec.type} cannot be headless: it needs an address")
        return
    families = tuple(
        f"IPv{checks.check_reachable_address(address, _cluster_ip_path(spec, index)).version}"
        for index, address in enumerate(addresses)
    )
    if len(families) > 2 or len(families) != len(set(families)):
        refuse("spec.clusterIPs", "at most one address of each family is possible")
    for index, (given, asked) in enumerate(zip(families, spec.ip_families, strict=False)):
        if given != asked:
            refuse(_cluster_ip_path(spec, index), f"{addresses[index]} is {given}, but ipFamilies says {asked}")
    if spec.ip_family_policy in (None, "SingleStack") and len(families) > 1:
        refuse("spec.clusterIPs", "two addresses need ipFamilyPolicy PreferDualStack or RequireDualStack")
    if spec.ip_family_policy == "SingleStack" and len(spec.ip_families) > 1:
        refuse("spec.ipFamilies", "two families need ipFamilyPolicy PreferDualStack or RequireDualStack")


def _cluster_ip_path(spec: ServiceSpec, index: int) -> str:
    return f"spec.clusterIPs[{index}]" if spec.cluster_ips else "spec.clusterIP"


def _check_affinity(spec: ServiceSpec) -> None:
    if spec.session_affinity != "ClientIP":
        if spec.session_affinity_config is not None:
            refuse("spec.sessionAffinityConfig", "needs sessionAffinity: ClientIP")
    elif not 1 <= spec.affinity_s <= MAX_AFFINITY_S:
        refuse(
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
            f"must be 1 to {MAX_AFFINITY_S}, not {spec.affinity_s}",
        )


def _check_policies(spec: ServiceSpec) -> None:
    outward = spec.type in ("NodePort", "LoadBalancer") or (spec.type == "ClusterIP" and bool(spec.external_ips))
    if spec.external_traffic_policy is not None and not outward:
        refuse(
            "spec.externalTrafficPolicy",
            "needs type NodePort or LoadBalancer, or externalIPs: nothing else is reached from outside",
        )
    if spec.health_check_node_port:
        checks.check_port(spec.health_check_node_port, "spec.healthCheckNodePort", least=1)
        if spec.type != "LoadBalancer" or not spec.external_local:
            refuse("spec.healthCheckNodePort", "needs type LoadBalancer and externalTrafficPolicy: Local")


def _check_load_balancer(spec: ServiceSpec) -> None:
    if spec.type != "LoadBalancer":
        for field, value in (
            ("loadBalancerClass", spec.load_balancer_class),
            ("allocateLoadBalancerNodePorts", spec.allocate_load_balancer_node_ports),
            ("loadBalancerSourceRanges", spec.load_balancer_source_ranges or None),
        ):
            if value is not None:
                refuse(f"spec.{field}", f"needs type LoadBalancer, not {spec.type}")
    if spec.load_balancer_class is not None:
        checks.check_label_key(spec.load_balancer_class, "spec.loadBalancerClass")
    if spec.load_balancer_ip:
        checks.check_reachable_address(spec.load_balancer_ip, "spec.loadBalancerIP")
    for index, cidr in enumerate(spec.load_balancer_source_ranges):
        checks.network_of(cidr.strip(), f"spec.loadBalancerSourceRanges[{index}]")


def _check_external_name(spec: ServiceSpec) -> None:
    if not spec.external_name:
        refuse("spec.externalName", "is missing: type ExternalName needs the DNS name that it stands for")
    checks.check_dns_subdomain(spec.external_name.removesuffix("."), "spec.externalName")
    if spec.all_cluster_ips:
        refuse("spec.clusterIP", "a Service of type ExternalName has no address: leave it out")
    if spec.ip_families or spec.ip_family_policy is not None:
        refuse("spec.ipFamilies", "a Service of type ExternalName has no family: leave ipFamilies and its policy out")
