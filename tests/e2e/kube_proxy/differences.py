"""Where our Services differ from kube-proxy's, each with its reason: the source of docs/services-vs-kube-proxy.md.

A case may differ only if an entry of this list covers it, and an entry that covers nothing any more is a fault too.
Where kube-proxy's two modes differ from each other, either is right.

    python -m tests.e2e.kube_proxy.differences      writes the list into the page
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.kube_proxy.cases import Case, Client, Transport, Way, changes

DOCUMENT = Path(__file__).parents[3] / "docs" / "services-vs-kube-proxy.md"
BEGIN, END = "<!-- differences: begin -->", "<!-- differences: end -->"


@dataclass(frozen=True, slots=True)
class Difference:
    """One explained difference. `covers` is told the case, what kube-proxy's clients saw, and what ours did."""

    what: str
    kube_proxy: str
    ours: str
    why: str
    covers: Callable[[Case, str, str], bool]


_NODE_PORTS = (Way.NODE_PORT, Way.NODE_PORT_ELSEWHERE)
_SOURCES = re.compile(r" as (client|node\d+)( or (client|node\d+))*")


def _alike_but_for_sources(theirs: str, ours: str) -> bool:
    return _SOURCES.sub("", theirs) == _SOURCES.sub("", ours)


def _keeps_more_sources(case: Case, theirs: str, ours: str) -> bool:
    return "client" in ours and case.client != Client.BACKEND and _alike_but_for_sources(theirs, ours)


def _held_backend_leaves(case: Case) -> bool:
    return any(
        step is None or "one" not in step.ready
        for change in changes()
        if change.name == case.behaviour.name
        for step in change.steps
    )


def _in_cluster(case: Case) -> bool:
    return case.client != Client.OUTSIDE


DIFFERENCES: tuple[Difference, ...] = (
    Difference(
        "Clients of the cluster keep their address",
        "what comes to a NodePort, a load balancer's or an external IP is masqueraded, pods and nodes as clients too",
        "a pod or node that asks for such an address is translated where it is, and the backend sees its own address",
        "the client's own node knows the way to the backend and back, so nothing needs to be masqueraded, and network "
        "policies of the backend see who it is",
        lambda case, theirs, ours: _in_cluster(case) and _keeps_more_sources(case, theirs, ours),
    ),
    Difference(
        "Clients outside keep their address where the backend is on the node that they came to",
        "with externalTrafficPolicy Cluster every connection from outside is masqueraded",
        "only those whose backend is on another node are (and with DSR not even those)",
        "the answer of a backend on this node passes this node in any case",
        lambda case, theirs, ours: case.client == Client.OUTSIDE and _keeps_more_sources(case, theirs, ours),
    ),
    Difference(
        "A backend that comes back to itself sees its own address",
        "a connection that reaches the pod it came from is masqueraded, so that it leaves and comes back",
        "the socket is connected to the pod's own address and nothing leaves the pod",
        "the kernel joins both ends within the pod; the source is the pod's address as of any connection to itself",
        lambda case, theirs, ours: case.client == Client.BACKEND and _alike_but_for_sources(theirs, ours),
    ),
    Difference(
        "Cluster IPs are not served to clients outside",
        "who routes the Services' range to a node is served by it",
        "packets from outside to a cluster IP are dropped",
        "a cluster IP is a name within the cluster; externalIPs, node ports and load balancers' addresses are for others",
        lambda case, _, ours: case.way == Way.CLUSTER_IP and case.client == Client.OUTSIDE and "reached" not in ours,
    ),
    Difference(
        "With externalTrafficPolicy Local, clients of the cluster reach all backends by any node's port",
        "from a pod or another node, a NodePort of a node has that node's backends alone, and packets are dropped if it "
        "has none",
        "the client's own node translates, to any backend",
        "the policy keeps the addresses of clients outside and spares them a second node; inside neither is lost",
        lambda case, _, ours: (
            case.way in _NODE_PORTS and case.behaviour.policy == "Local" and _in_cluster(case) and "reached" in ours
        ),
    ),
    Difference(
        "loadBalancerSourceRanges bind clients outside",
        "pods and nodes that are not within the ranges are dropped too",
        "clients of the cluster are never asked for them",
        "network policies say which pods may reach which; the ranges say who of the outside may",
        lambda case, _, ours: (
            case.way == Way.BALANCED_IP
            and bool(case.behaviour.source_ranges)
            and _in_cluster(case)
            and ours.startswith("reached")
        ),
    ),
    Difference(
        "A node's ports are reached at ::1 too",
        "in iptables mode at 127.0.0.1 alone, in nftables mode not at loopback at all",
        "at both",
        "translating the socket needs no route from loopback to a pod, which is what IPv6 lacks",
        lambda case, _, ours: case.way == Way.NODE_PORT_LOOPBACK and "reached" in ours,
    ),
    Difference(
        "With internalTrafficPolicy Local, who has no backend on his node is told so",
        "what is for the cluster IP is dropped; a datagram of the node itself is an error at once",
        "connections and datagrams are refused",
        "waiting for a timeout helps nobody: no other node's backend would ever answer",
        lambda case, theirs, ours: (
            case.way == Way.CLUSTER_IP
            and case.behaviour.policy == "Local"
            and _in_cluster(case)
            and any(condition != "not ready" for _, condition in case.behaviour.backends)
            and (ours == "refused" or (case.transport != Transport.TCP and theirs == "refused"))
        ),
    ),
    Difference(
        "A connected UDP socket ends with its backend",
        "the socket goes on: to another backend once the flow was forgotten, and to the old one if none is left",
        "when the backend leaves the Service that connected the socket, its next call fails, and a new socket has another "
        "backend at once; other Services' sockets to the backend live on",
        "the socket is connected to the backend itself; an error is what tells its owner to ask for the name again",
        lambda case, theirs, ours: (
            case.transport == Transport.UDP
            and _in_cluster(case)
            and _held_backend_leaves(case)
            and ours.startswith("held: ended;")
            and _new(theirs) == _new(ours)
        ),
    ),
    Difference(
        "Datagrams from outside do not go on to a backend that left",
        "the flows of a Service that has no endpoint left, or that is deleted, go on to the old one",
        "they are refused",
        "the endpoint is gone or not ready, or nobody's any more",
        lambda case, theirs, ours: (
            case.transport == Transport.UDP
            and case.client == Client.OUTSIDE
            and ours.startswith("held: refused;")
            and _new(theirs) == _new(ours)
        ),
    ),
)


def _new(seen: str) -> str:
    """What new connections saw after a change, without whose address the backend saw."""
    return _SOURCES.sub("", seen.partition("; new: ")[2])


@dataclass(frozen=True, slots=True)
class Comparison:
    """What came of comparing: cases that nothing explains, and how many each entry of the list explains."""

    unexplained: tuple[str, ...]
    explained: Mapping[str, int]
    alike: int

    def __str__(self) -> str:
        lines = [f"{self.alike} alike", *(f"{count} explained: {what}" for what, count in self.explained.items())]
        return "\n".join([*lines, f"{len(self.unexplained)} unexplained", *self.unexplained])


def compare(ours: Mapping[Case, object], theirs: Sequence[Mapping[Case, object]]) -> Comparison:
    """`theirs`: by each of kube-proxy's modes."""
    unexplained: list[str] = []
    explained = {each.what: 0 for each in DIFFERENCES}
    alike = 0
    for case, seen in ours.items():
        wanted = dict.fromkeys(str(each[case]) for each in theirs)
        if str(seen) in wanted:
            alike += 1
            continue
        reasons = [each for each in DIFFERENCES if any(each.covers(case, one, str(seen)) for one in wanted)]
        for each in reasons:
            explained[each.what] += 1
        if not reasons:
            unexplained.append(f"{case}\n    kube-proxy: {' / '.join(wanted)}\n    pycilium:   {seen}")
    return Comparison(tuple(unexplained), explained, alike)


def markdown() -> str:
    parts = []
    for each in DIFFERENCES:
        parts += [f"### {each.what}", ""]
        parts += [f"- kube-proxy: {each.kube_proxy}", f"- pycilium: {each.ours}", f"- Why: {each.why}", ""]
    return "\n".join(parts)


def page() -> str:
    """The document as it should be."""
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise RuntimeError(f"{DOCUMENT}: the lines {BEGIN} and {END} are missing")
    return f"{before}{BEGIN}\n\n{markdown()}\n{END}{after}"


def main() -> int:
    DOCUMENT.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
