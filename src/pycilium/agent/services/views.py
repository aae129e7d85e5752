"""Services as the agent's API shows them: frontends with their numbers, how they are translated, and counts. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pycilium.agent.config import AgentConfig
from pycilium.api.service_messages import (
    BackendAddress,
    Feature,
    FrontendAddress,
    KubeProxyReplacement,
    NodePortFeature,
    Scope,
    ServiceCounts,
    ServiceFeatures,
    ServiceFlags,
    ServiceSpec,
    ServiceStatus,
    ServiceView,
    SocketFeature,
)
from pycilium.model.service import Backend, BackendState, Frontend, FrontendKind

_TRANSLATED = ("TCP", "UDP")


def service_views(frontend: Frontend, service_id: int, *, realized: bool) -> Iterator[ServiceView]:
    """GET /service: one, or two where clients outside get other backends than those of the cluster."""
    clusterwide = frontend.kind is FrontendKind.CLUSTER_IP
    if clusterwide or frontend.inside == frontend.outside:
        yield _view(frontend, service_id, "external", frontend.inside, realized=realized)
        return
    yield _view(frontend, service_id, "external", frontend.outside, realized=realized)
    yield _view(frontend, service_id, "internal", frontend.inside, realized=realized)


def _view(
    frontend: Frontend, service_id: int, scope: Scope, backends: Iterable[Backend], *, realized: bool
) -> ServiceView:
    at = frontend.at
    spec = ServiceSpec(
        id=service_id,
        frontend_address=FrontendAddress(ip=str(at.address), port=at.port, protocol=at.protocol.name, scope=scope),
        backend_addresses=[_backend(backend) for backend in backends],
        flags=ServiceFlags(
            name=frontend.service,
            namespace=frontend.namespace,
            type=frontend.kind.value,
            ext_traffic_policy="Local" if frontend.external_local else "Cluster",
            int_traffic_policy="Local" if frontend.internal_local else "Cluster",
            health_check_node_port=frontend.health_check_node_port,
        ),
    )
    return ServiceView(spec=spec, status=ServiceStatus(realized=spec) if realized else None)


def _backend(backend: Backend) -> BackendAddress:
    return BackendAddress(
        ip=str(backend.at.address),
        port=backend.at.port,
        protocol=backend.at.protocol.name,
        state=_state(backend),
        weight=backend.weight,
        node_name=backend.node,
        zone=backend.zone,
    )


def _state(backend: Backend) -> str:
    """In Cilium's words; what is in another zone, or not ready, keeps the connections that it has."""
    if backend.state is BackendState.TERMINATING:
        return "terminating" if backend.weight else "quarantined"
    return "active" if backend.weight else "maintenance"


def kube_proxy_replacement(config: AgentConfig) -> KubeProxyReplacement:
    """The part of GET /healthz; False with features: what pods send is translated all the same."""
    if not config.services:
        return KubeProxyReplacement(mode="False")
    if not config.kube_proxy_replacement:
        on = Feature(enabled=True)
        return KubeProxyReplacement(
            mode="False",
            devices=list(config.devices),
            features=ServiceFeatures(
                graceful_termination=on,
                node_port=NodePortFeature(algorithm=config.load_balancer_algorithm.title()),
                session_affinity=on,
            ),
        )
    sockets = SocketFeature(enabled=config.cgroup_root is not None, protocols=list(_TRANSLATED))
    node_ports = config.node_port_range.partition("-")
    return KubeProxyReplacement(
        mode="True",
        devices=list(config.devices),
        features=ServiceFeatures(
            external_ips=Feature(enabled=True),
            graceful_termination=Feature(enabled=True),
            host_port=Feature(enabled=True),
            host_reachable_services=sockets,
            node_port=NodePortFeature(
                enabled=True,
                mode=config.load_balancer_mode.upper() if config.load_balancer_mode != "hybrid" else "Hybrid",
                algorithm=config.load_balancer_algorithm.title(),
                acceleration=config.load_balancer_acceleration.title(),
                port_min=int(node_ports[0]),
                port_max=int(node_ports[2]),
                lut_size=config.maglev_table_size if config.load_balancer_algorithm == "maglev" else 0,
            ),
            session_affinity=Feature(enabled=True),
            socket_lb=sockets,
            bpf_socket_lb_hostns_only=config.socket_lb_host_only,
        ),
    )


def counts(frontends: Iterable[Frontend], backends: int, problems: Iterable[str]) -> ServiceCounts:
    """The part of GET /healthz."""
    names: set[str] = set()
    number = without = 0
    for frontend in frontends:
        names.add(frontend.name)
        number += 1
        without += not frontend.inside and not frontend.outside
    return ServiceCounts(
        services=len(names), frontends=number, backends=backends, without_backends=without, problems=list(problems)
    )
