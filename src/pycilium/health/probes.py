"""What is probed of a node, and what came of it.

Every address is asked in two ways: an ICMP echo, which the kernel at the other end answers, and `GET /hello` on port
4240, which its agent does. Invariant: a report has exactly the addresses that its node has, in the same order.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

Address = IPv4Address | IPv6Address

PORT = 4240
"""Of the responders, on nodes and on health endpoints."""


class ProbeKind(enum.Enum):
    """How an address is asked."""

    ICMP = "icmp"
    HTTP = "http"


@dataclass(frozen=True, slots=True)
class ProbedNode:
    """A node as the prober knows it; of each tuple the first is the primary address."""

    name: str
    addresses: tuple[Address, ...]
    endpoint_addresses: tuple[Address, ...] = ()
    """Of its health endpoint; none if it has none."""

    @property
    def all_addresses(self) -> tuple[Address, ...]:
        return self.addresses + self.endpoint_addresses


@dataclass(frozen=True, slots=True)
class Answer:
    """What one probe came to; `status` is empty for an answer, else what was wrong."""

    latency_ns: int = 0
    status: str = ""


@dataclass(frozen=True, slots=True)
class Connectivity:
    """One way of asking one address, as of `probed_at_s` (Unix time)."""

    answer: Answer
    probed_at_s: float

    @property
    def ok(self) -> bool:
        return not self.answer.status


@dataclass(frozen=True, slots=True)
class PathReport:
    """One address. None: not probed yet."""

    address: Address
    icmp: Connectivity | None = None
    http: Connectivity | None = None

    @property
    def ok(self) -> bool:
        """Whether it answered in both ways."""
        return all(each is not None and each.ok for each in (self.icmp, self.http))


@dataclass(frozen=True, slots=True)
class NodeReport:
    """A node and its health endpoint."""

    name: str
    host: tuple[PathReport, ...]
    endpoint: tuple[PathReport, ...]

    @property
    def ok(self) -> bool:
        """Whether everything of it answered that there is to ask."""
        return bool(self.host) and all(path.ok for path in (*self.host, *self.endpoint))


Results = Mapping[tuple[Address, ProbeKind], Connectivity]


def report_of(node: ProbedNode, results: Results) -> NodeReport:
    """What is known of a node."""
    return NodeReport(
        node.name,
        tuple(_path(address, results) for address in node.addresses),
        tuple(_path(address, results) for address in node.endpoint_addresses),
    )


def _path(address: Address, results: Results) -> PathReport:
    return PathReport(address, results.get((address, ProbeKind.ICMP)), results.get((address, ProbeKind.HTTP)))
