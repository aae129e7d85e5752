"""What types alone cannot say of ranges, pools of addresses and announcements. Nothing is changed or filled in."""

from __future__ import annotations

import re
from ipaddress import ip_address

from pycilium.errors import InvalidResource
from pycilium.model.resources import checks
from pycilium.model.resources.checks import refuse
from pycilium.model.resources.load_balancing import CiliumL2AnnouncementPolicy, CiliumLoadBalancerIPPool, IPPoolBlock
from pycilium.model.resources.service_cidr import NODE_PORT_RANGE, ServiceCIDR
from pycilium.model.resources.validate import check_selector

_PORTS = re.compile(r"([0-9]{1,5})-([0-9]{1,5})")


def check_pool(pool: CiliumLoadBalancerIPPool) -> None:
    """InvalidResource at the first fault. Whether pools overlap is judged where all of them are known."""
    if pool.spec.service_selector is not None:
        check_selector(pool.spec.service_selector, "spec.serviceSelector")
    for index, block in enumerate(pool.spec.blocks):
        _check_block(block, f"spec.blocks[{index}]")


def _check_block(block: IPPoolBlock, path: str) -> None:
    if block.cidr:
        if block.start or block.stop:
            refuse(path, "cidr cannot stand beside start and stop: make it a block of its own")
        checks.network_of(block.cidr, f"{path}.cidr")
        return
    if not block.start:
        refuse(path, "a block needs a cidr, or start and stop (start alone is that one address)")
    checks.check_reachable_address(block.start, f"{path}.start")
    if not block.stop:
        return
    checks.check_reachable_address(block.stop, f"{path}.stop")
    start, stop = ip_address(block.start), ip_address(block.stop)
    if start.version != stop.version:
        refuse(f"{path}.stop", f"{stop} is of another family than {start}")
    if int(stop) < int(start):
        refuse(f"{path}.stop", f"the block ends at {stop} before it begins at {start}")


def check_l2_policy(policy: CiliumL2AnnouncementPolicy) -> None:
    """InvalidResource at the first fault."""
    spec = policy.spec
    for field, selector in (("nodeSelector", spec.node_selector), ("serviceSelector", spec.service_selector)):
        if selector is not None:
            check_selector(selector, f"spec.{field}")
    for index, pattern in enumerate(spec.interfaces):
        try:
            re.compile(pattern)
        except re.error as error:
            raise InvalidResource(
                f"{pattern!r} is not a regular expression: {error}", path=f"spec.interfaces[{index}]"
            ) from error


def check_service_cidr(resource: ServiceCIDR) -> None:
    """InvalidResource at the first fault."""
    cidrs = resource.spec.cidrs
    networks = [checks.network_of(cidr, f"spec.cidrs[{index}]") for index, cidr in enumerate(cidrs)]
    if not networks or len(networks) > 2 or len({network.version for network in networks}) != len(networks):
        refuse("spec.cidrs", "one CIDR, or one of each family, the first family first")
    ports = resource.metadata.annotations.get(NODE_PORT_RANGE)
    if ports is not None:
        found = _PORTS.fullmatch(ports)
        if not found or not 1 <= int(found[1]) <= int(found[2]) <= 0xFFFF:
            refuse(f"metadata.annotations.{NODE_PORT_RANGE}", f"{ports!r} is not a range of ports such as 30000-32767")
