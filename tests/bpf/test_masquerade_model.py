"""Random flows through the programs and through a model of masquerade that is plainly right: one dictionary.

No two flows ever share a mapping, a flow keeps the one it has, and whatever comes back goes to whom the model says.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from tests.bpf.conftest import NodeWith
from tests.bpf.masquerade import NODE, arrive, coming, leaving, sent, source_port, whole
from tests.bpf.node import DB, IDENTITY_HOST, WEB, Node, Pod, Verdict
from tests.bpf.packets import echo_reply, echo_request, tcp, udp

pytestmark = pytest.mark.root

SENDERS: dict[str, Pod | str] = {"web": WEB, "db": DB, "node": "node"}
REMOTES = {4: ("8.8.8.8", "9.9.9.9", "192.0.2.77"), 6: ("2606:4700:4700::1111", "2620:fe::fe", "2001:db8::77")}
PORTS = (999, 1024, 40000, 40001, 65535)


@dataclass(frozen=True)
class Flow:
    """As its sender sees it. Pings have no remote port."""

    sender: str
    kind: str
    port: int
    remote: int
    remote_port: int

    def slot(self, outside_port: int) -> tuple[object, ...]:
        """What the network sees of it, and may see of nothing else."""
        return self.kind, self.remote, self.remote_port, outside_port


@st.composite
def flows(draw: st.DrawFn) -> Flow:
    kind = draw(st.sampled_from(["tcp", "udp", "ping"]))
    remote_port = 0 if kind == "ping" else draw(st.sampled_from([53, 40000]))
    sender, port = draw(st.sampled_from(list(SENDERS))), draw(st.sampled_from(PORTS))
    return Flow(sender, kind, port, draw(st.integers(0, 2)), remote_port)


STEPS = st.lists(
    st.tuples(st.sampled_from(["send", "send", "answer", "open", "stray"]), flows()), min_size=5, max_size=30
)


@dataclass
class World:
    """The model, and the node that must do the same."""

    node: Node
    family: int
    outside: dict[Flow, int] = field(default_factory=dict)
    owner: dict[tuple[object, ...], Flow] = field(default_factory=dict)
    opened: set[Flow] = field(default_factory=set)

    def remote(self, flow: Flow) -> str:
        return REMOTES[self.family][flow.remote]

    def request(self, flow: Flow) -> Packet:
        l4 = {"tcp": tcp(flow.port, flow.remote_port, "A"), "udp": udp(flow.port, flow.remote_port)}
        return leaving(SENDERS[flow.sender], self.remote(flow), self.family) / (
            l4.get(flow.kind) or echo_request(self.family, flow.port)
        )

    def reply(self, flow: Flow, to: Pod | str, port: int) -> Packet:
        l4 = {"tcp": tcp(flow.remote_port, port, "A"), "udp": udp(flow.remote_port, port)}
        return coming(self.remote(flow), to, self.family) / (l4.get(flow.kind) or echo_reply(self.family, port))

    # -- steps -------------------------------------------------------------------------------------------------------

    def send(self, flow: Flow) -> None:
        packet = self.request(flow)
        pod = SENDERS[flow.sender]
        if isinstance(pod, Pod):
            inside = Ether(src=pod.mac, dst=pod.host_mac) / packet[1]
            assert self.node.run("from_container", pod.name, bytes(inside)).verdict == Verdict.REDIRECT
        out = sent(self.node, packet)
        assert bytes(out) == whole(out)
        if flow in self.opened:
            assert bytes(out) == bytes(packet)
            return
        assert out[1].src == NODE[self.family]
        self._take(flow, source_port(out))

    def _take(self, flow: Flow, port: int) -> None:
        known = self.outside.get(flow)
        if known is not None:
            assert port == known
            return
        is_free = flow.slot(flow.port) not in self.owner
        if flow.sender == "node" and is_free:
            assert port == flow.port
            return
        if is_free and (flow.kind == "ping" or flow.port >= 1024):
            assert port == flow.port
        assert flow.slot(port) not in self.owner
        assert port == flow.port or port >= 1024
        self.outside[flow], self.owner[flow.slot(port)] = port, flow

    def answer(self, flow: Flow) -> None:
        """To what the network sees of the flow, if it has seen it."""
        if (port := self.outside.get(flow)) is not None:
            self._arrives(flow, port)

    def stray(self, flow: Flow) -> None:
        """From the flow's remote end to any port."""
        self._arrives(flow, flow.port)

    def _arrives(self, flow: Flow, port: int) -> None:
        packet = self.reply(flow, "node", port)
        ran = arrive(self.node, packet)
        owner = self.owner.get(flow.slot(port))
        if owner is None:
            assert (ran.verdict, ran.packet) == (Verdict.PASS, bytes(packet))
            return
        to = SENDERS[owner.sender]
        expected = self.reply(owner, to, owner.port)
        if isinstance(to, Pod):
            expected.src, expected.dst = to.host_mac, to.mac
            expected = Ether(bytes(expected))
            name = "ttl" if self.family == 4 else "hlim"
            setattr(expected[1], name, getattr(expected[1], name) - 1)
        assert ran.verdict == (Verdict.REDIRECT if isinstance(to, Pod) else Verdict.PASS)
        assert ran.packet == whole(expected)

    def open(self, flow: Flow) -> None:
        """The remote end comes to the pod under the pod's own address, first."""
        pod = SENDERS[flow.sender]
        if flow in self.outside or flow.kind == "ping" or not isinstance(pod, Pod):
            return
        assert arrive(self.node, self.reply(flow, pod, flow.port)).verdict == Verdict.REDIRECT
        self.opened.add(flow)


@pytest.mark.parametrize("family", [4, 6])
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_programs_and_model_agree(node_with: NodeWith, family: int, steps: list[tuple[str, Flow]]) -> None:
    node = node_with()
    node.masquerade("uplink", ipv4=NODE[4], ipv6=NODE[6])
    for own in NODE.values():
        node.identity(own, IDENTITY_HOST)
    world = World(node, family)

    for step, flow in steps:
        getattr(world, step)(flow)
