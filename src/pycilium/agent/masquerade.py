"""With which address pods leave by each of the node's devices, and to which destinations they keep their own.

Services need the addresses too, for backends outside of the cluster and for what is sent on before the stack.

Follows the table of the node's addresses: another address of a device is one write of a map. Owns the maps
`masquerade`, `no_masquerade4` and `no_masquerade6`; the mappings themselves are the programs'. What is desired depends
on the tables and the configuration alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Any, Self

from pycilium.agent.config import AgentConfig
from pycilium.agent.intent import HostAddress, Intent
from pycilium.datapath import layouts
from pycilium.datapath.codec import MapSpec
from pycilium.datapath.maps import AnyMap, MapOperations, Translation
from pycilium.reconcile import Reconciler

Prefix = IPv4Network | IPv6Network
_NONE = bytes(16)
_MAPPED = bytes(10) + b"\xff\xff"


@dataclass(frozen=True, slots=True)
class MasqueradeTarget:
    """The addresses of one device; without one nothing of that family may leave by it that would need it."""

    ipv4: IPv4Address | None
    ipv6: IPv6Address | None


@dataclass(frozen=True, slots=True)
class MasqueradeTargets:
    """`addresses` by ifindex; `exceptions` by address family."""

    addresses: Reconciler[int, MasqueradeTarget]
    exceptions: Mapping[int, Reconciler[Prefix, bool]]

    @classmethod
    def make(cls, open_map: Callable[[MapSpec[Any, Any]], AnyMap[Any, Any]]) -> Self:
        """On the maps that `open_map` opens."""
        return cls(
            Reconciler("masquerade", MapOperations(open_map(layouts.MASQUERADE), _ADDRESSES)),
            {
                4: Reconciler("no_masquerade4", MapOperations(open_map(layouts.NO_MASQUERADE4), _EXCEPTIONS4)),
                6: Reconciler("no_masquerade6", MapOperations(open_map(layouts.NO_MASQUERADE6), _EXCEPTIONS6)),
            },
        )

    @property
    def reconcilers(self) -> tuple[Reconciler[Any, Any], ...]:
        """In the order of their stages: an exception before the address that it excepts from."""
        return (*self.exceptions.values(), self.addresses)


class Masquerade:
    """Says what is desired of `targets`; `devices` are the node's towards the outside, with their ifindex."""

    def __init__(
        self, config: AgentConfig, intent: Intent, targets: MasqueradeTargets, devices: Mapping[str, int]
    ) -> None:
        self._intent, self._targets = intent, targets
        self._devices = devices if config.masquerade or config.services else {}
        self._excepted = excepted(config)
        self._except_others = config.masquerade and config.routing_mode == "native"
        self.except_pod_cidrs(())
        self._desire()
        intent.db.on_commit(lambda tables: self._desire() if intent.host_addresses.name in tables else None)

    def except_pod_cidrs(self, others: Iterable[Prefix]) -> None:
        """Take in the pod CIDRs of all other nodes.

        The ipcache knows them as well, but not those of a node without a node id; there a rule's CIDR, which is
        outside of the cluster by its identity, would decide. In the overlay nothing of that leaves by a device.
        """
        found = [*self._excepted, *(others if self._except_others else ())]
        for version, reconciler in self._targets.exceptions.items():
            reconciler.desired_replace({prefix: True for prefix in found if prefix.version == version})

    def _desire(self) -> None:
        hosts = list(self._intent.db.snapshot().all(self._intent.host_addresses))
        self._targets.addresses.desired_replace(
            {ifindex: addresses_of(device, hosts) for device, ifindex in self._devices.items()}
        )


def excepted(config: AgentConfig) -> list[Prefix]:
    """The destinations that see pods' own addresses, besides those that belong to the cluster by their identity."""
    if not config.masquerade:
        return []
    own = (config.ipv4_pod_cidr, config.ipv6_pod_cidr)
    return [ip_network(cidr) for cidr in (*filter(None, own), *config.non_masquerade_cidrs)]


def addresses_of(device: str, hosts: Iterable[HostAddress]) -> MasqueradeTarget:
    """The device's best address of each family: the one that the node itself would rather use."""
    ordered = sorted(
        (host for host in hosts if host.interface == device and not host.address.is_link_local),
        key=lambda host: (host.preference, host.address.packed),
    )
    return MasqueradeTarget(
        next((host.address for host in ordered if isinstance(host.address, IPv4Address)), None),
        next((host.address for host in ordered if isinstance(host.address, IPv6Address)), None),
    )


def _entry(value: MasqueradeTarget) -> layouts.MasqueradeEntry:
    return layouts.MasqueradeEntry(
        ipv4=_MAPPED + value.ipv4.packed if value.ipv4 else _NONE, ipv6=value.ipv6.packed if value.ipv6 else _NONE
    )


def _entry_back(raw: layouts.MasqueradeEntry) -> MasqueradeTarget:
    return MasqueradeTarget(
        IPv4Address(raw.ipv4[12:]) if raw.ipv4 != _NONE else None,
        IPv6Address(raw.ipv6) if raw.ipv6 != _NONE else None,
    )


_ADDRESSES: Translation[Any, Any, Any, Any] = Translation(
    to_key=lambda ifindex: ifindex, to_value=_entry, from_key=lambda ifindex: ifindex, from_value=_entry_back
)
_EXCEPTIONS4: Translation[Any, Any, Any, Any] = Translation(
    to_key=lambda prefix: layouts.NoMasquerade4Key(prefix_len=prefix.prefixlen, address=int(prefix.network_address)),
    to_value=int,
    from_key=lambda raw: IPv4Network((raw.address, raw.prefix_len)),
    from_value=bool,
)
_EXCEPTIONS6: Translation[Any, Any, Any, Any] = Translation(
    to_key=lambda prefix: layouts.NoMasquerade6Key(prefix_len=prefix.prefixlen, address=prefix.network_address.packed),
    to_value=int,
    from_key=lambda raw: IPv6Network((raw.address, raw.prefix_len)),
    from_value=bool,
)
