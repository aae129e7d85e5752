"""Interfaces and addresses of the node, as the agent asks for them: pods' interfaces, the gateway, what is ours."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

from pycilium.agent.config import AgentConfig
from pycilium.agent.intent import HostAddress
from pycilium.api.cni_messages import CniRequest
from pycilium.datapath import gateway_device, mtu, overlay_device, pod_interface
from pycilium.datapath.gateway_device import Gateway, GatewayWanted, is_ours
from pycilium.datapath.netlink import Netlink
from pycilium.datapath.pod_interface import HostSide, PodInterface
from pycilium.datapath.rtnetlink import (
    IFA_F_DADFAILED,
    IFA_F_DEPRECATED,
    IFA_F_SECONDARY,
    IFA_F_TENTATIVE,
    LinkAddress,
)
from pycilium.errors import ConfigError
from pycilium.ipam import Addresses
from pycilium.model.endpoint import Endpoint


@dataclass(frozen=True, slots=True)
class PodLink:
    """The node's side of a pod's interface; `attachment` is `container id:interface`."""

    name: str
    ifindex: int
    attachment: str


class Plumbing:
    """Every method blocks and may run in any thread."""

    def __init__(self, config: AgentConfig, ipv4_gateway: IPv4Address | None, ipv6_gateway: IPv6Address | None) -> None:
        self._config = config
        self._ipv4_gateway, self._ipv6_gateway = ipv4_gateway, ipv6_gateway
        self.gateways: dict[int, IPv4Address | IPv6Address] = {}
        if ipv4_gateway is not None:
            self.gateways[4] = ipv4_gateway
        if ipv6_gateway is not None:
            self.gateways[6] = ipv6_gateway

    def make_gateway(self) -> Gateway:
        """The gateway device, made or completed."""
        config = self._config
        wanted = GatewayWanted(
            mtu_bytes=self.pod_mtu_bytes,
            gateway_ipv4=self._ipv4_gateway,
            ipv4_pod_cidr=IPv4Network(config.ipv4_pod_cidr) if config.ipv4_pod_cidr else None,
            gateway_ipv6=self._ipv6_gateway,
            ipv6_pod_cidr=IPv6Network(config.ipv6_pod_cidr) if config.ipv6_pod_cidr else None,
        )
        return gateway_device.ensure(wanted, config.devices)

    def make_overlay(self) -> int:
        """The overlay device, made or set right, and its ifindex; 0, and no device, where routing is native."""
        if self._config.routing_mode == "native":
            overlay_device.remove()
            return 0
        return overlay_device.ensure(self._config.tunnel_port, self.pod_mtu_bytes)

    @cached_property
    def underlay_family(self) -> int:
        """Of the overlay's outer packets."""
        if self._config.underlay_family != "auto":
            return 4 if self._config.underlay_family == "ipv4" else 6
        own = [host for host in self.host_addresses() if not is_ours(host.interface)]
        return 6 if own and all(host.address.version == 6 for host in own) else 4

    @cached_property
    def pod_mtu_bytes(self) -> int:
        """ConfigError if the devices leave too little."""
        if self._config.pod_mtu_bytes is not None:
            return self._config.pod_mtu_bytes
        with Netlink.open() as node:
            mtus = {link.name: link.mtu_bytes for link in node.links() if link.name in self._config.devices}
        mode, ipv6_pods = self._config.routing_mode, self._config.ipv6_pod_cidr is not None
        return mtu.pod_mtu_bytes(mtus, mode, self.underlay_family, ipv6_pods=ipv6_pods)

    def create(self, request: CniRequest, addresses: Addresses) -> HostSide:
        """A pod's interface."""
        wanted = self._wanted(request.container_id, request.ifname, request.netns, addresses)
        return pod_interface.create(wanted)

    def delete(self, host_ifname: str) -> None:
        """Absent is success."""
        pod_interface.delete(host_ifname)

    def pod_interfaces(self) -> list[PodLink]:
        """The node's sides of all pods' interfaces that are there."""
        return [
            PodLink(link.name, link.ifindex, pod_interface.attachment_of(link)) for link in pod_interface.interfaces()
        ]

    def exists(self, endpoint: Endpoint) -> bool:
        """Whether the endpoint's own interface is still there."""
        return pod_interface.exists(endpoint.host_ifname, endpoint.ifindex)

    def check(self, endpoint: Endpoint) -> list[str]:
        """What differs from what `create` makes, in words."""
        addresses = Addresses(endpoint.ipv4, endpoint.ipv6)
        wanted = self._wanted(endpoint.container_id, endpoint.ifname, endpoint.netns, addresses)
        return list(pod_interface.check(wanted))

    def host_addresses(self) -> list[HostAddress]:
        """All addresses of the node but those of loopback."""
        with Netlink.open() as node:
            names = {link.ifindex: link.name for link in node.links()}
            return [
                HostAddress(
                    address=entry.address,
                    interface=names.get(entry.ifindex, ""),
                    prefix_len=entry.prefix_len,
                    ifindex=entry.ifindex,
                    preference=_preference(entry, place),
                )
                for place, entry in enumerate(node.addresses())
                if not entry.address.is_loopback and not entry.address.is_link_local
            ]

    def boot_id(self) -> str:
        """Another one after each start of the machine."""
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()

    def devices(self) -> dict[str, int]:
        """The node's devices towards the outside, with their ifindex. ConfigError for one that does not exist."""
        with Netlink.open() as node:
            found = {name: node.ifindex(name) for name in self._config.devices}
        for name, ifindex in found.items():
            if not ifindex:
                raise ConfigError(f"devices: there is no device {name}")
        return found

    def _wanted(self, container_id: str, ifname: str, netns: str, addresses: Addresses) -> PodInterface:
        return PodInterface(
            container_id=container_id,
            ifname=ifname,
            netns=netns,
            mtu_bytes=self.pod_mtu_bytes,
            ipv4=addresses.ipv4,
            ipv6=addresses.ipv6,
            gateway_ipv4=self._ipv4_gateway,
            gateway_ipv6=self._ipv6_gateway,
        )


_DISLIKED = (IFA_F_DADFAILED | IFA_F_TENTATIVE, IFA_F_DEPRECATED, IFA_F_SECONDARY)
"""Reasons not to use an address that one has a choice about, the worst first."""
_PLACES = 1 << 20


def _preference(entry: LinkAddress, place: int) -> int:
    """Of two that are alike the older: the kernel lists IPv4 addresses as they came, and IPv6 addresses backwards."""
    rank = 0
    for reason in _DISLIKED:
        rank = 2 * rank + bool(entry.flags & reason)
    return rank * _PLACES + (place if entry.address.version == 4 else _PLACES - 1 - place)
