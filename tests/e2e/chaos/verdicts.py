"""What the intended states say of a connection, by the reference of the policies' meaning. Pure.

While things change, an agent may know the newest labels and yesterday's policies or the other way round: of a span of
time *every combination* of what was intended in it counts. Each kind of policy and each pod is followed by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from itertools import product
from typing import Any

from pycilium.model.identity import RESERVED_IDENTITIES, ReservedIdentity
from pycilium.model.labels import CLUSTER_KEY, NAMESPACE_KEY, NAMESPACE_LABELS_PREFIX, SERVICE_ACCOUNT_KEY, Labels
from pycilium.model.policy import Direction
from pycilium.policy import reference
from tests.e2e.chaos.model import PodName, State

PROTOCOLS = {"TCP": 6, "UDP": 17, "ICMPv4": 1, "ICMPv6": 58}
_BY_NUMBER = {identity.number: identity.labels for identity in RESERVED_IDENTITIES}
UNMANAGED = _BY_NUMBER[ReservedIdentity.UNMANAGED]


@dataclass(frozen=True)
class Connection:
    """Who would talk to whom. A pod, or None for the world; with the addresses that the packets bear."""

    source: PodName | None
    destination: PodName | None
    source_address: str
    address: str
    port: int
    protocol: str = "TCP"

    def __str__(self) -> str:
        ends = ("/".join(end) if end else "world" for end in (self.source, self.destination))
        return f"{' -> '.join(ends)} {self.source_address} -> {self.address} {self.port}/{self.protocol}"


def allowed(state: State, connection: Connection) -> bool:
    """Whether the state allows it."""
    return always_allowed((state,), connection)


def always_allowed(states: Sequence[State], connection: Connection) -> bool:
    """Whether every combination of them does."""
    return all(all(_verdicts(states, connection, way)) for way in (Direction.EGRESS, Direction.INGRESS))


def may_be_denied(states: Sequence[State], connection: Connection, way: Direction, *, heard: bool) -> bool:
    """Whether some combination denies it in that direction; `heard`: whether all know who the peer is."""
    return not all(_verdicts(states, connection, way, heard=heard))


def identity_labels(state: State, pod: PodName) -> Labels:
    """Those that make the pod's identity."""
    namespace, _ = pod
    of_namespace = {"kubernetes.io/metadata.name": namespace, **state.namespaces.get(namespace, {})}
    labels = {f"k8s:{key}": value for key, value in state.pods[pod].labels.items()}
    labels |= {f"k8s:{NAMESPACE_LABELS_PREFIX}{key}": value for key, value in of_namespace.items()}
    labels |= {f"k8s:{NAMESPACE_KEY}": namespace, f"k8s:{CLUSTER_KEY}": "default"}
    return Labels.from_map(labels | {f"k8s:{SERVICE_ACCOUNT_KEY}": "default"})


def _verdicts(states: Sequence[State], connection: Connection, way: Direction, *, heard: bool = True) -> Iterator[bool]:
    """What the combinations say, those of the first states first. An end that is outside has no policy."""
    if (connection.source if way is Direction.EGRESS else connection.destination) is None:
        return
    states = tuple(states)
    sources = _ends(states, connection.source, connection.source_address)
    destinations = _ends(states, connection.destination, connection.address)
    if not heard and way is Direction.EGRESS:
        # No more than its address is known, or the number that its answer bears means nothing yet.
        unheard = (reference.End(labels, ip_address(connection.address)) for labels in (UNMANAGED, Labels()))
        destinations = (*destinations, *unheard)
    elif not heard:
        sources = (*sources, reference.End(Labels(), ip_address(connection.source_address)))
    protocol = PROTOCOLS[connection.protocol]
    for policies, source, destination in product(_policy_sets(states), sources, destinations):
        yield _is_allowed(policies, source, destination, way, protocol, connection.port)


@lru_cache(maxsize=1 << 12)
def _ends(states: tuple[State, ...], pod: PodName | None, address: str) -> tuple[reference.End, ...]:
    parsed = ip_address(address)
    if pod is None:
        world = ReservedIdentity.WORLD_IPV4 if parsed.version == 4 else ReservedIdentity.WORLD_IPV6
        return (reference.End(_BY_NUMBER[world], parsed),)
    found = dict.fromkeys(identity_labels(state, pod) for state in states if pod in state.pods)
    return tuple(reference.End(labels, parsed) for labels in found)


class _Policies:
    """One set of policies, told from others by its texts."""

    def __init__(self, parts: Iterable[Mapping[str, Any]]) -> None:
        self.resources = [*parts]
        self._text = repr(self.resources)
        self._hash = hash(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Policies) and self._text == other._text

    def __hash__(self) -> int:
        return self._hash


@lru_cache(maxsize=1 << 10)
def _policy_sets(states: tuple[State, ...]) -> tuple[_Policies, ...]:
    kinds = sorted({resource["kind"] for state in states for resource in state.policies.values()})
    by_kind = [dict.fromkeys(_of_kind(state, kind) for state in states) for kind in kinds]
    return tuple(_Policies(resource for part in parts for resource in part.resources) for parts in product(*by_kind))


@lru_cache(maxsize=1 << 10)
def _of_kind(state: State, kind: str) -> _Policies:
    return _Policies(state.policies[name] for name in sorted(state.policies) if state.policies[name]["kind"] == kind)


@lru_cache(maxsize=1 << 17)
def _is_allowed(
    policies: _Policies, source: reference.End, destination: reference.End, way: Direction, protocol: int, port: int
) -> bool:
    verdict = reference.verdict(policies.resources, source, destination, way, protocol, port)
    return verdict is reference.Verdict.ALLOWED
