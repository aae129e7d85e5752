"""Numbers of local identities: for each prefix that a rule names a pair, one for outside and one for inside.

The pair is one number and its successor, and the pairs of 0.0.0.0/0 and ::/0 are fixed, so after a restart the ipcache
alone tells which numbers every prefix has.
"""

from __future__ import annotations

from pycilium.model.identity import ReservedIdentity
from pycilium.model.peer import Address, Network
from pycilium.policy._numbers import NumbersInUse
from pycilium.reconcile import NumberPool

_BASE = 1 << 24
_WORLD_PAIRS = {4: 0, 6: 1}
_PAIRS = range(2, _BASE // 2)


class LocalIdentities:
    """Gives out pairs; see the module."""

    def __init__(self, in_use: NumbersInUse) -> None:
        used = {_pair(number) for number in (*in_use.local_identities, *in_use.cidrs.values())}
        self._pool = NumberPool(_PAIRS, (pair for pair in used if pair in _PAIRS))
        self._kept = {
            network: _pair(number)
            for network, number in in_use.cidrs.items()
            if number % 2 == 0 and _pair(number) in _PAIRS and network.prefixlen
        }
        if len(set(self._kept.values())) != len(self._kept):
            self._kept.clear()

    @property
    def kept(self) -> tuple[Network, ...]:
        """Prefixes of an earlier agent that can keep their numbers."""
        return tuple(self._kept)

    def take(self, network: Network) -> tuple[int, int]:
        """The identities (outside, inside) of a prefix."""
        if not network.prefixlen:
            return world_identity(network), inside_everything(network)
        pair = self._kept.pop(network, None)
        if pair is None:
            pair = self._pool.take()
        else:
            self._pool.claim(pair)
        return _BASE + 2 * pair, _BASE + 2 * pair + 1

    def release(self, network: Network, outside: int) -> None:
        """The prefix is gone."""
        if network.prefixlen:
            self._pool.release(_pair(outside))

    def realized(self) -> None:
        """Freed numbers may be given out again; prefixes that were not asked for are gone from the kernel."""
        self._kept.clear()
        self._pool.realized()


def world_identity(of: Network | Address) -> int:
    """The reserved identity of the world of this family."""
    return int(ReservedIdentity.WORLD_IPV4 if of.version == 4 else ReservedIdentity.WORLD_IPV6)


def inside_everything(of: Network | Address) -> int:
    """The identity for what lies inside, of the prefix that holds the whole family."""
    return _BASE + 2 * _WORLD_PAIRS[of.version] + 1


def _pair(number: int) -> int:
    return (number - _BASE) // 2
