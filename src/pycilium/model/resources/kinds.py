"""The registry of kinds: what each is called on the wire and on the command line, its scope, its struct, its checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from pycilium.errors import InvalidResource
from pycilium.model.resources import validate
from pycilium.model.resources.base import Resource
from pycilium.model.resources.checks import did_you_mean
from pycilium.model.resources.cilium_objects import CiliumEndpoint, CiliumEndpointSlice, CiliumIdentity, CiliumNode
from pycilium.model.resources.cilium_policy import CiliumClusterwideNetworkPolicy, CiliumNetworkPolicy
from pycilium.model.resources.core import Lease, Namespace, Pod
from pycilium.model.resources.endpoint_slice import EndpointSlice
from pycilium.model.resources.load_balancing import CiliumL2AnnouncementPolicy, CiliumLoadBalancerIPPool
from pycilium.model.resources.network_policy import NetworkPolicy
from pycilium.model.resources.service import Service
from pycilium.model.resources.service_cidr import ServiceCIDR
from pycilium.model.resources.validate_load_balancing import check_l2_policy, check_pool, check_service_cidr
from pycilium.model.resources.validate_policy import check_cilium_policy
from pycilium.model.resources.validate_service import check_service
from pycilium.model.resources.validate_slice import check_slice

R = TypeVar("R", bound=Resource)


@dataclass(frozen=True, slots=True)
class Kind(Generic[R]):
    """One kind of resource."""

    name: str
    api_version: str
    plural: str
    namespaced: bool
    resource: type[R]
    check: Callable[[R], None]
    """Raises InvalidResource for what the types alone allow; metadata is checked besides, for every kind."""
    short_names: tuple[str, ...] = ()
    status_apart: bool = True
    """Whether the status is a subresource: only patch_status changes it then, and replace leaves it as it is."""
    older_versions: tuple[str, ...] = ()
    """Versions of the API that say the same; users' files may use them, and are kept as `api_version`."""

    def validate(self, resource: R) -> None:
        """InvalidResource, with the path of the fault, if `resource` breaks a rule of its kind."""
        validate.check_metadata(resource.metadata, namespaced=self.namespaced, kind=self.name)
        self.check(resource)


KINDS: Final[tuple[Kind[Any], ...]] = (
    Kind("Pod", "v1", "pods", True, Pod, validate.check_pod, ("po",)),
    Kind("Namespace", "v1", "namespaces", False, Namespace, validate.check_namespace, ("ns",)),
    Kind("Lease", "coordination.k8s.io/v1", "leases", True, Lease, validate.check_lease, status_apart=False),
    Kind(
        "NetworkPolicy",
        "networking.k8s.io/v1",
        "networkpolicies",
        True,
        NetworkPolicy,
        validate.check_network_policy,
        ("netpol",),
    ),
    Kind(
        "CiliumNetworkPolicy",
        "cilium.io/v2",
        "ciliumnetworkpolicies",
        True,
        CiliumNetworkPolicy,
        check_cilium_policy,
        ("cnp", "ciliumnp"),
    ),
    Kind(
        "CiliumClusterwideNetworkPolicy",
        "cilium.io/v2",
        "ciliumclusterwidenetworkpolicies",
        False,
        CiliumClusterwideNetworkPolicy,
        check_cilium_policy,
        ("ccnp",),
    ),
    Kind(
        "CiliumIdentity",
        "cilium.io/v2",
        "ciliumidentities",
        False,
        CiliumIdentity,
        validate.check_identity,
        ("ciliumid",),
    ),
    Kind(
        "CiliumEndpoint",
        "cilium.io/v2",
        "ciliumendpoints",
        True,
        CiliumEndpoint,
        validate.check_endpoint,
        ("cep", "ciliumep"),
        status_apart=False,
    ),
    Kind(
        "CiliumEndpointSlice",
        "cilium.io/v2alpha1",
        "ciliumendpointslices",
        False,
        CiliumEndpointSlice,
        validate.check_endpoint_slice,
        ("ces",),
        status_apart=False,
    ),
    Kind("CiliumNode", "cilium.io/v2", "ciliumnodes", False, CiliumNode, validate.check_node, ("cn", "ciliumn")),
    Kind("Service", "v1", "services", True, Service, check_service, ("svc",)),
    Kind(
        "EndpointSlice",
        "discovery.k8s.io/v1",
        "endpointslices",
        True,
        EndpointSlice,
        check_slice,
        status_apart=False,
    ),
    Kind("ServiceCIDR", "networking.k8s.io/v1", "servicecidrs", False, ServiceCIDR, check_service_cidr),
    Kind(
        "CiliumLoadBalancerIPPool",
        "cilium.io/v2",
        "ciliumloadbalancerippools",
        False,
        CiliumLoadBalancerIPPool,
        check_pool,
        ("ippools", "ippool", "lbippool", "lbippools"),
        older_versions=("cilium.io/v2alpha1",),
    ),
    Kind(
        "CiliumL2AnnouncementPolicy",
        "cilium.io/v2alpha1",
        "ciliuml2announcementpolicies",
        False,
        CiliumL2AnnouncementPolicy,
        check_l2_policy,
        ("l2announcement",),
    ),
)

_BY_NAME: Final[dict[str, Kind[Any]]] = {kind.name: kind for kind in KINDS}
_BY_TYPE: Final[dict[type[Resource], Kind[Any]]] = {kind.resource: kind for kind in KINDS}
_BY_WORD: Final[dict[str, Kind[Any]]] = {
    word: kind for kind in KINDS for word in (kind.name.lower(), kind.plural, *kind.short_names)
}


def kind_of(resource: type[R] | R) -> Kind[R]:
    """The kind of a resource, or of its type."""
    return _BY_TYPE[resource if isinstance(resource, type) else type(resource)]


def kind_on_wire(api_version: str, name: str) -> Kind[Any]:
    """The kind that a document names; InvalidResource says which kinds are known."""
    kind = _BY_NAME.get(name)
    if kind is None:
        raise InvalidResource(f"unknown kind {name!r}{did_you_mean(name, _BY_NAME)}; {known_kinds()}", path="kind")
    if api_version not in (kind.api_version, *kind.older_versions):
        raise InvalidResource(f"{name} is known as {kind.api_version}, not as {api_version!r}", path="apiVersion")
    return kind


def kind_for_word(word: str) -> Kind[Any]:
    """The kind that a user means: by its name, plural or short name (`cnp`), in any case; else InvalidResource."""
    kind = _BY_WORD.get(word.lower())
    if kind is None:
        raise InvalidResource(f"unknown kind {word!r}{did_you_mean(word.lower(), _BY_WORD)}; {known_kinds()}")
    return kind


def known_kinds() -> str:
    listed = (f"{kind.name} ({', '.join(kind.short_names)})" if kind.short_names else kind.name for kind in KINDS)
    return f"known kinds are {', '.join(listed)}"
