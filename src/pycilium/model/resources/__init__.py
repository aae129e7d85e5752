"""Kubernetes-shaped resources and their strict decoding.

A resource is a frozen struct with Kubernetes' names on the wire and Python's in code. Decoding checks structure, values
and the API's own rules; what this version has not built is refused later, where policies are parsed.
"""

from pycilium.model.resources.base import Condition, ObjectMeta, OwnerReference, Resource, ResourceKey
from pycilium.model.resources.cilium_objects import CiliumEndpoint, CiliumEndpointSlice, CiliumIdentity, CiliumNode
from pycilium.model.resources.cilium_policy import CiliumClusterwideNetworkPolicy, CiliumNetworkPolicy
from pycilium.model.resources.core import Lease, LeaseSpec, Namespace, Pod
from pycilium.model.resources.decode import (
    DEFAULT_NAMESPACE,
    decode_documents,
    decode_object,
    decode_stored,
    encode_json,
    encode_yaml,
    to_plain,
    validate,
)
from pycilium.model.resources.endpoint_slice import EndpointSlice
from pycilium.model.resources.kinds import KINDS, Kind, kind_for_word, kind_of, kind_on_wire
from pycilium.model.resources.load_balancing import CiliumL2AnnouncementPolicy, CiliumLoadBalancerIPPool
from pycilium.model.resources.network_policy import NetworkPolicy
from pycilium.model.resources.selector import LabelSelector, LabelSelectorRequirement
from pycilium.model.resources.service import Service
from pycilium.model.resources.service_cidr import DEFAULT_SERVICE_CIDR, ServiceCIDR

__all__ = [
    "DEFAULT_NAMESPACE",
    "DEFAULT_SERVICE_CIDR",
    "KINDS",
    "CiliumClusterwideNetworkPolicy",
    "CiliumEndpoint",
    "CiliumEndpointSlice",
    "CiliumIdentity",
    "CiliumL2AnnouncementPolicy",
    "CiliumLoadBalancerIPPool",
    "CiliumNetworkPolicy",
    "CiliumNode",
    "Condition",
    "EndpointSlice",
    "Kind",
    "LabelSelector",
    "LabelSelectorRequirement",
    "Lease",
    "LeaseSpec",
    "Namespace",
    "NetworkPolicy",
    "ObjectMeta",
    "OwnerReference",
    "Pod",
    "Resource",
    "ResourceKey",
    "Service",
    "ServiceCIDR",
    "decode_documents",
    "decode_object",
    "decode_stored",
    "encode_json",
    "encode_yaml",
    "kind_for_word",
    "kind_of",
    "kind_on_wire",
    "to_plain",
    "validate",
]
