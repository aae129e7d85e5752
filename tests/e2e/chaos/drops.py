"""Every packet that any node dropped, and why that was right.

Followed from each node's Hubble; an agent that was killed is asked again once it is back. A drop is explained by a
state that was in force then (a policy that denies, a pod or a node that was gone), or it is reported.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc

from pycilium.hubble.proto import flow_pb2, observer_pb2, observer_pb2_grpc
from pycilium.model.policy import Direction
from tests.e2e.chaos.history import SETTLE_S, History
from tests.e2e.chaos.model import PodName, State
from tests.e2e.chaos.services import SERVICES
from tests.e2e.chaos.verdicts import Connection, may_be_denied

_ASK_AGAIN_S = 0.2
_POLICY = ("POLICY_DENIED", "POLICY_DENY")


@dataclass(frozen=True)
class Drop:
    """A packet that a node dropped."""

    node: str
    at: float
    reason: str
    way: str
    source: str
    destination: str
    protocol: str
    ports: tuple[int, int]
    """Source and destination; of ICMP the type, twice."""
    is_reply: bool | None
    text: str

    def __str__(self) -> str:
        reply = " reply" if self.is_reply else ""
        return f"{self.at:.6f} {self.node} {self.reason} {self.way}{reply} {self.text}"


class Drops:
    """Follows the nodes; `taken` gives what came since."""

    def __init__(self, socket_of: Callable[[str], str]) -> None:
        self._socket_of = socket_of
        self._found: dict[str, Drop] = {}
        self._known: set[str] = set()
        self._stopping = threading.Event()
        self._calls: dict[str, Any] = {}
        self._threads: dict[str, threading.Thread] = {}

    def follow(self, node: str) -> None:
        """Until the end; a node that is gone is waited for. May be repeated."""
        if node not in self._threads:
            self._threads[node] = threading.Thread(target=self._run, args=(node,), daemon=True)
            self._threads[node].start()

    def taken(self) -> list[Drop]:
        found, self._found = self._found, {}
        return sorted(found.values(), key=lambda drop: drop.at)

    def close(self) -> None:
        self._stopping.set()
        for call in list(self._calls.values()):
            call.cancel()
        for thread in self._threads.values():
            thread.join(timeout=10)

    def _run(self, node: str) -> None:
        while not self._stopping.is_set():
            try:
                self._read(node)
            except grpc.RpcError:
                self._stopping.wait(_ASK_AGAIN_S)

    def _read(self, node: str) -> None:
        dropped = flow_pb2.FlowFilter(verdict=[flow_pb2.Verdict.DROPPED])
        request = observer_pb2.GetFlowsRequest(number=10_000, follow=True, whitelist=[dropped])
        with grpc.insecure_channel(f"unix://{self._socket_of(node)}") as channel:
            call = observer_pb2_grpc.ObserverStub(channel).GetFlows(request)
            self._calls[node] = call
            for response in call:
                if response.HasField("flow") and response.flow.uuid not in self._known:
                    self._known.add(response.flow.uuid)
                    self._found[response.flow.uuid] = _drop(node, response.flow)


def explanation(drop: Drop, history: History) -> str:
    """Why it was right; empty if nothing explains it."""
    states = history.in_force(drop.at)
    if drop.reason in _POLICY:
        orders = [(drop.source, drop.destination, drop.ports[1])]
        if drop.is_reply is not False:
            orders.append((drop.destination, drop.source, drop.ports[0]))
        return next((said for order in orders if (said := _by_policy(drop, states, history, *order))), "")
    return _EXPLAINED.get(drop.reason, _unexplained)(drop, states, history)


def _by_policy(drop: Drop, states: list[State], history: History, source: str, destination: str, port: int) -> str:
    way = Direction.EGRESS if drop.way == "EGRESS" else Direction.INGRESS
    for sender, sent in _holders(history, source):
        for receiver, received in _holders(history, destination):
            connection = Connection(sender, receiver, source, destination, port, drop.protocol)
            if may_be_denied(states, connection, way, heard=True):
                return "a policy denies it"
            peer, life = (receiver, received) if way is Direction.EGRESS else (sender, sent)
            unheard = _is_news(states, peer) or _is_gone(states, peer, life)
            if unheard and may_be_denied(states, connection, way, heard=False):
                return "the peer was new, relabelled or gone, and a policy denies who is not known"
    return ""


def _holders(history: History, address: str) -> list[tuple[PodName | None, int]]:
    """Who had the address at any time, and in which life; the world has all that no pod ever had.

    Of a pod that is gone packets may still be on their way, or its peer's kernel may not give up.
    """
    return sorted(history.holders.get(address, ())) or [(None, 0)]


def _is_news(states: list[State], pod: PodName | None) -> bool:
    """Whether the pod came or changed in these states."""
    if pod is None:
        return False
    seen = {repr((state.pods.get(pod), state.namespaces.get(pod[0]))) for state in states}
    return len(seen) > 1


def _lives(states: list[State], pod: PodName) -> set[int]:
    """Its lives in these states; 0 stands for those in which it is not there."""
    return {state.pods[pod].life if pod in state.pods else 0 for state in states}


def _is_gone(states: list[State], pod: PodName | None, life: int) -> bool:
    """Whether that life of the pod had ended before these states."""
    return pod is not None and life not in _lives(states, pod)


def _gone(drop: Drop, states: list[State], history: History) -> str:
    """To an address whose pod came, went or was on a node that came, went or was rebooted."""
    for address in (drop.destination, drop.source):
        if any(len(_lives(states, pod)) > 1 for pod, _ in history.holders.get(address, ())):
            return "the pod came or went"
    holders = history.holders.get(drop.destination, ())
    if holders and all(_is_gone(states, pod, life) for pod, life in holders):
        return "the pod is gone, and its peer's kernel does not give up"
    if len({frozenset(state.nodes) for state in states}) > 1:
        return "a node came or went"
    return ""


def _health_endpoint_begins(drop: Drop, states: list[State], history: History) -> str:
    """It lives and dies with its agent, and is asked by others before its own entry is made."""
    lives = {(node.life, node.agent) if (node := state.nodes.get(drop.node)) else None for state in states}
    begins = len(lives) > 1 or drop.at < history.stays[0].begin + SETTLE_S
    own = [address for address in (drop.source, drop.destination) if address not in history.holders]
    if begins and any(address.endswith((".254", "::ffff")) for address in own):
        return "the health endpoint was being made"
    return ""


def _gone_or_health(drop: Drop, states: list[State], history: History) -> str:
    return _gone(drop, states, history) or _health_endpoint_begins(drop, states, history)


def _no_backend(drop: Drop, states: list[State], history: History) -> str:
    """To a Service that had none; who asked was told so."""
    services = [service for service in SERVICES if drop.destination in service.addresses]
    if any(not service.backends(state) for service in services for state in states):
        return "the Service had no backend"
    return ""


def _unexplained(*_: object) -> str:
    return ""


_EXPLAINED: dict[str, Callable[[Drop, list[State], History], str]] = {
    # No entry says where the address is, or nobody has it any more.
    "UNKNOWN_L3_TARGET_ADDRESS": _gone_or_health,
    "STALE_OR_UNROUTABLE_IP": _gone_or_health,
    "SERVICE_BACKEND_NOT_FOUND": _no_backend,
    # The pod is being made or unmade.
    "ENDPOINT_NOT_READY": _gone_or_health,
    # The address is a node's that has left and that the ipcache still names.
    "NO_TUNNEL_OR_ENCAPSULATION_ENDPOINT": _gone,
}


def _drop(node: str, flow: Any) -> Drop:
    protocol = flow.l4.WhichOneof("protocol") or ""
    part = getattr(flow.l4, protocol) if protocol else None
    if protocol in ("TCP", "UDP"):
        ports = (part.source_port, part.destination_port)
    else:
        ports = (part.type, part.type) if part is not None else (0, 0)
    ends = []
    for end, address in ((flow.source, flow.IP.source), (flow.destination, flow.IP.destination)):
        name = f"{end.namespace}/{end.pod_name}" if end.pod_name else ",".join(end.labels)
        ends.append(f"{name}({end.identity}) {address}")
    return Drop(
        node=node,
        at=flow.time.seconds + flow.time.nanos / 1e9,
        reason=flow_pb2.DropReason.Name(flow.drop_reason_desc),
        way=flow_pb2.TrafficDirection.Name(flow.traffic_direction),
        source=flow.IP.source,
        destination=flow.IP.destination,
        protocol=protocol,
        ports=ports,
        is_reply=flow.is_reply.value if flow.HasField("is_reply") else None,
        text=f"{ends[0]}:{ports[0]} -> {ends[1]}:{ports[1]} {protocol}",
    )
