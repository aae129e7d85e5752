"""A mapping from networks, to be asked along the prefix tree: what covers this, what lies within, longest match."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterator
from typing import Generic, TypeVar

from pycilium.model.peer import Address, Network

V = TypeVar("V")


class PrefixMap(Generic[V]):
    """Networks of both families → values. Covering costs one look-up per prefix length in use."""

    def __init__(self) -> None:
        self._families: dict[int, _Family[V]] = {4: _Family(32), 6: _Family(128)}

    def __setitem__(self, network: Network, value: V) -> None:
        self._families[network.version].set(network, value)

    def __delitem__(self, network: Network) -> None:
        self._families[network.version].delete(network)

    def __contains__(self, network: Network) -> bool:
        return self.get(network) is not None

    def get(self, network: Network) -> V | None:
        """The value of exactly this network."""
        entry = self._families[network.version].entries.get((network.prefixlen, int(network.network_address)))
        return None if entry is None else entry[1]

    def covering(self, network: Network) -> Iterator[tuple[Network, V]]:
        """Networks that `network` lies in, itself among them; the longest first."""
        return self._families[network.version].covering(network.prefixlen, int(network.network_address))

    def around(self, address: Address) -> Iterator[tuple[Network, V]]:
        """Networks that `address` lies in; the longest first. Much quicker than to make a network of it."""
        family = self._families[address.version]
        return family.covering(family.bits, int(address))

    def within(self, network: Network) -> Iterator[tuple[Network, V]]:
        """Networks that lie in `network`, itself among them."""
        return self._families[network.version].within(network.prefixlen, int(network.network_address))

    def __iter__(self) -> Iterator[Network]:
        return (network for family in self._families.values() for network, _ in family.entries.values())

    def __len__(self) -> int:
        return sum(len(family.entries) for family in self._families.values())


class _Family(Generic[V]):
    def __init__(self, bits: int) -> None:
        self.bits = bits
        self.entries: dict[tuple[int, int], tuple[Network, V]] = {}
        self._lengths: Counter[int] = Counter()
        self._longest_first: list[int] = []
        self._sorted: list[tuple[int, int]] = []  # (address, length): what lies in a network is one stretch

    def set(self, network: Network, value: V) -> None:
        key = (network.prefixlen, int(network.network_address))
        if key not in self.entries:
            insort(self._sorted, (key[1], key[0]))
            self._lengths[key[0]] += 1
            self._longest_first = sorted(self._lengths, reverse=True)
        self.entries[key] = (network, value)

    def delete(self, network: Network) -> None:
        key = (network.prefixlen, int(network.network_address))
        del self.entries[key]
        del self._sorted[bisect_left(self._sorted, (key[1], key[0]))]
        self._lengths[key[0]] -= 1
        if not self._lengths[key[0]]:
            del self._lengths[key[0]]
            self._longest_first = sorted(self._lengths, reverse=True)

    def covering(self, prefix_len: int, address: int) -> Iterator[tuple[Network, V]]:
        for length in self._longest_first:
            if length <= prefix_len:
                shift = self.bits - length
                entry = self.entries.get((length, address >> shift << shift))
                if entry is not None:
                    yield entry

    def within(self, prefix_len: int, address: int) -> Iterator[tuple[Network, V]]:
        last = address + (1 << (self.bits - prefix_len)) - 1
        for position in range(bisect_left(self._sorted, (address, prefix_len)), len(self._sorted)):
            inner, length = self._sorted[position]
            if inner > last:
                return
            yield self.entries[(length, inner)]
