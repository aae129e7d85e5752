"""Host-scope IPAM: pod addresses from the node's own pod CIDRs, IPv4 and IPv6 alike.

The network address, the gateway (the first address behind it) and the broadcast address are never given out.
An owner is one attachment of one container (`container id:interface`) and holds at most one address per family.
Nothing is stored here: after a restart the restored endpoints claim what they have.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Generic, TypeVar, cast

from pycilium.errors import ConfigError, EndpointConflict, IpamExhausted
from pycilium.ipam.rotation import Rotation

Address = TypeVar("Address", IPv4Address, IPv6Address)


class Pool(Generic[Address]):
    """The addresses of one CIDR."""

    def __init__(self, cidr: IPv4Network | IPv6Network, reserved: Iterable[Address] = ()) -> None:
        network, last = int(cidr.network_address), int(cidr.broadcast_address)
        excluded = {network, network + 1, *map(int, reserved)}
        if cidr.version == 4:
            excluded.add(last)
        self.cidr = cidr
        self.gateway: Address = self._address(network + 1)
        self.last: Address = self._address(last - 1 if cidr.version == 4 else last)
        self._numbers: Rotation[str] = Rotation(network, last, excluded)
        if not self._numbers.capacity:
            widest = "/30" if cidr.version == 4 else "/126"
            raise ConfigError(f"pod CIDR {cidr} has no room for a pod beside its gateway: {widest} is the least")

    @property
    def capacity(self) -> int:
        return self._numbers.capacity

    @property
    def in_use(self) -> int:
        return len(self._numbers.owners)

    def owners(self) -> dict[Address, str]:
        return {self._address(number): owner for number, owner in self._numbers.owners.items()}

    @property
    def exhausted(self) -> str:
        """What is wrong, and what helps, while no address is free; else empty."""
        if self.in_use < self.capacity:
            return ""
        return (
            f"pod CIDR {self.cidr} has no free address left: {self.in_use} of {self.capacity} are in use; "
            "remove pods or give the node a wider pod CIDR"
        )

    def allocate(self, owner: str) -> Address:
        """A free address. Raises IpamExhausted."""
        number = self._numbers.take(owner)
        if number is None:
            raise IpamExhausted(self.exhausted)
        return self._address(number)

    def claim(self, address: Address, owner: str) -> None:
        """Take this very address. Idempotent. Raises EndpointConflict if it is another's or not one of the pool's."""
        number = int(address)
        if address.version != self.cidr.version or number not in self._numbers:
            raise EndpointConflict(f"{address} is not an address for a pod in {self.cidr}")
        if not self._numbers.claim(number, owner):
            raise EndpointConflict(f"{address} belongs to {self._numbers.owners[number]}")

    def release(self, address: Address) -> bool:
        """Idempotent; False if it was free."""
        return self._numbers.release(int(address))

    def _address(self, number: int) -> Address:
        return cast("Address", IPv4Address(number) if self.cidr.version == 4 else IPv6Address(number))


@dataclass(frozen=True, slots=True)
class Addresses:
    """What one owner has; a family that is off is None."""

    ipv4: IPv4Address | None
    ipv6: IPv6Address | None


class HostScope:
    """Both families of one node. An owner gets an address in each that is on, or none at all."""

    def __init__(self, ipv4_cidr: IPv4Network | None, ipv6_cidr: IPv6Network | None) -> None:
        if ipv4_cidr is None and ipv6_cidr is None:
            raise ConfigError("a node needs a pod CIDR of at least one family")
        self.ipv4: Pool[IPv4Address] | None = Pool(ipv4_cidr) if ipv4_cidr else None
        self.ipv6: Pool[IPv6Address] | None = Pool(ipv6_cidr) if ipv6_cidr else None
        self._held: dict[str, Addresses] = {}

    @property
    def held(self) -> Mapping[str, Addresses]:
        return self._held

    def exhausted(self) -> list[str]:
        """Of each family that has no free address left: what is wrong, in words."""
        return [pool.exhausted for pool in (self.ipv4, self.ipv6) if pool is not None and pool.exhausted]

    def allocate(self, owner: str) -> Addresses:
        """Idempotent: an owner that has addresses keeps them. Raises IpamExhausted, and then nothing was taken."""
        if owner in self._held:
            return self._held[owner]
        ipv4 = self.ipv4.allocate(owner) if self.ipv4 else None
        try:
            ipv6 = self.ipv6.allocate(owner) if self.ipv6 else None
        except IpamExhausted:
            if self.ipv4 and ipv4:
                self.ipv4.release(ipv4)
            raise
        self._held[owner] = Addresses(ipv4, ipv6)
        return self._held[owner]

    def allocate_last(self, owner: str) -> Addresses:
        """As `allocate`, but the last addresses of the CIDRs if they are free: the same ones after every restart."""
        if owner in self._held:
            return self._held[owner]
        last = Addresses(self.ipv4.last if self.ipv4 else None, self.ipv6.last if self.ipv6 else None)
        try:
            self.claim(owner, last)
        except EndpointConflict:
            return self.allocate(owner)
        return last

    def claim(self, owner: str, addresses: Addresses) -> None:
        """Restore what an endpoint has. Idempotent. Raises EndpointConflict, and then nothing was taken.

        An address of a family that is off now is no conflict: the endpoint keeps it, nobody else can get it.
        """
        if self._held.get(owner, addresses) != addresses:
            raise EndpointConflict(f"{owner} has other addresses already: {self._held[owner]}")
        if self.ipv4 and addresses.ipv4:
            self.ipv4.claim(addresses.ipv4, owner)
        try:
            if self.ipv6 and addresses.ipv6:
                self.ipv6.claim(addresses.ipv6, owner)
        except EndpointConflict:
            if self.ipv4 and addresses.ipv4:
                self.ipv4.release(addresses.ipv4)
            raise
        self._held[owner] = addresses

    def release(self, owner: str) -> Addresses | None:
        """Take everything back. Idempotent; None if the owner had nothing."""
        addresses = self._held.pop(owner, None)
        if addresses and self.ipv4 and addresses.ipv4:
            self.ipv4.release(addresses.ipv4)
        if addresses and self.ipv6 and addresses.ipv6:
            self.ipv6.release(addresses.ipv6)
        return addresses
