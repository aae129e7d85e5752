"""One source per kind of resource that decides something on this node."""

from __future__ import annotations

from functools import partial
from typing import Any

from pycilium.agent.config import AgentConfig
from pycilium.agent.endpoints.identities import is_cluster_identity
from pycilium.agent.endpoints.identity_marks import IdentityMarks
from pycilium.agent.intent import Intent
from pycilium.agent.nodes.slice_sources import slice_sources
from pycilium.agent.sources import Source
from pycilium.model.identity import cluster_identity_number
from pycilium.model.node import Node, node_of
from pycilium.model.policy import Policy
from pycilium.model.remote_endpoint import remote_endpoint_of
from pycilium.model.resources import (
    CiliumClusterwideNetworkPolicy,
    CiliumEndpoint,
    CiliumIdentity,
    CiliumNetworkPolicy,
    CiliumNode,
    EndpointSlice,
    Namespace,
    NetworkPolicy,
    Pod,
    ResourceKey,
    Service,
)
from pycilium.policy import parse_policy
from pycilium.services import slice_view

_HEEDED = ("service.cilium.io/", "service.kubernetes.io/")
POLICY_KINDS = (NetworkPolicy, CiliumNetworkPolicy, CiliumClusterwideNetworkPolicy)


def selects_endpoints(config: AgentConfig) -> bool:
    """Whether nobody makes EndpointSlices of what Services select: true but where Kubernetes' controllers run."""
    return not config.store.startswith("kubernetes")


def make_sources(
    intent: Intent, resources: dict[ResourceKey, Any], marks: IdentityMarks, config: AgentConfig
) -> list[Source[Any, Any]]:
    """One source per kind that decides something here."""
    cluster, node_name, services = config.cluster_name, config.node_name, config.services

    def other_node(resource: CiliumNode) -> Node | None:
        return node_of(resource) if resource.metadata.name != node_name else None

    def own_node(resource: CiliumNode) -> Node | None:
        return node_of(resource) if resource.metadata.name == node_name else None

    def policy(resource: Any) -> Policy:
        parsed = parse_policy(resource, cluster=cluster)
        resources[resource.key] = resource
        return parsed

    return [
        *(
            Source(
                kind=kind,
                table=intent.policies,
                convert=policy,
                owns=partial(_is_of_kind, kind.__name__),
            )
            for kind in POLICY_KINDS
        ),
        Source(Namespace, intent.namespaces, lambda resource: resource),
        Source(Pod, intent.pods, lambda resource: resource),
        Source(
            CiliumIdentity,
            intent.identities,
            marks.identity,
            lambda key: cluster_identity_number(key.name) or key.name,
            is_cluster_identity,
        ),
        Source(
            CiliumNode,
            intent.nodes,
            other_node,
            _name,
            beside=(Source(CiliumNode, intent.own_node, own_node, _name),),
        ),
        *_remote_endpoints(intent, config),
        *(service_sources(intent) if services else ()),
    ]


def _remote_endpoints(intent: Intent, config: AgentConfig) -> list[Source[Any, Any]]:
    if config.endpoint_slices:
        return slice_sources(intent.remote_endpoints)
    convert = partial(remote_endpoint_of, selectable=config.services and selects_endpoints(config))
    return [Source(CiliumEndpoint, intent.remote_endpoints, convert)]


def service_sources(intent: Intent) -> list[Source[Any, Any]]:
    """What Services are made of, but for the endpoints of pods."""
    return [
        Source(Service, intent.services, slim_service, _namespace_and_name),
        Source(EndpointSlice, intent.slices, slice_view, _namespace_and_name),
    ]


def slim_service(resource: Service) -> Service:
    """A Service without the annotations that nothing here heeds: tools keep whole resources in them."""
    heeded = {key: text for key, text in resource.metadata.annotations.items() if key.startswith(_HEEDED)}
    return resource.with_metadata(annotations=heeded)


def _name(key: ResourceKey) -> str:
    return key.name


def _namespace_and_name(key: ResourceKey) -> tuple[str, str]:
    return key.namespace, key.name


def _is_of_kind(kind: str, policy: Policy) -> bool:
    return policy.key.kind == kind
