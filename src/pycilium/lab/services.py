"""What a new lab's store holds so that Services just work in it: their ranges, a pool of addresses, announcements.

They are ordinary resources, there to be looked at, changed and deleted.
"""

from __future__ import annotations

from collections.abc import Iterator

from pycilium.lab.layout import LabRecord
from pycilium.lab.plan import LOAD_BALANCERS, SERVICES
from pycilium.model.resources import (
    DEFAULT_SERVICE_CIDR,
    CiliumL2AnnouncementPolicy,
    CiliumLoadBalancerIPPool,
    ObjectMeta,
    Resource,
    ServiceCIDR,
)
from pycilium.model.resources.load_balancing import IPPoolBlock, L2AnnouncementPolicySpec, LoadBalancerIPPoolSpec
from pycilium.model.resources.service_cidr import ServiceCIDRSpec

NAME = "lab"


def resources(record: LabRecord) -> Iterator[Resource]:
    """In the families that the lab's pods and, for what is reached from outside, its underlay have."""
    yield ServiceCIDR(
        metadata=ObjectMeta(name=DEFAULT_SERVICE_CIDR),
        spec=ServiceCIDRSpec(cidrs=tuple(SERVICES[family] for family in record.ip_families)),
    )
    outside = [family for family in record.ip_families if family in record.underlay_families]
    if outside:
        blocks = tuple(IPPoolBlock(cidr=LOAD_BALANCERS[family]) for family in outside)
        yield CiliumLoadBalancerIPPool(
            metadata=ObjectMeta(name=NAME), spec=LoadBalancerIPPoolSpec(blocks=blocks, allow_first_last_ips="No")
        )
        yield CiliumL2AnnouncementPolicy(
            metadata=ObjectMeta(name=NAME),
            spec=L2AnnouncementPolicySpec(load_balancer_ips=True, external_ips=True, interfaces=("^eth0$",)),
        )
