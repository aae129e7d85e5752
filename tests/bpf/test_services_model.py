"""Random packets of random connections through the programs and through a model of services that is plainly right: two
dictionaries. Whoever answers is heard as the service, by whom it was asked, and no two connections are mixed up.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from tests.bpf.conftest import NodeWith
from tests.bpf.masquerade import NODE
from tests.bpf.node import DB, GATEWAY4, GATEWAY6, WEB, Pod, Verdict
from tests.bpf.packets import address, from_network, from_pod, tcp, udp
from tests.bpf.services import API, CLIENT, CLUSTER_IP, NODE_PORT, PORT, Services, small_world, whole

pytestmark = pytest.mark.root

GATEWAY = {4: GATEWAY4, 6: GATEWAY6}
OTHER_CLIENT = {4: "198.51.100.8", 6: "2001:db8:99::8"}
BACKENDS = {"web": WEB, "db": DB, "api": API}
End = tuple[str, int]


@dataclass(frozen=True)
class Flow:
    """As its client sees it."""

    client: str
    kind: str
    port: int


FLOWS = st.builds(
    Flow,
    st.sampled_from(["web", "db", "outside", "other"]),
    st.sampled_from(["tcp", "udp"]),
    st.sampled_from([999, 40000, 40001]),
)
STEPS = st.lists(st.tuples(st.sampled_from(["ask", "ask", "answer"]), FLOWS), min_size=4, max_size=24)


@dataclass
class World:
    """The model, and the node that must do the same. Natively, so that answers come back by the uplink."""

    services: Services
    family: int
    there: dict[Flow, tuple[End, End]] = field(default_factory=dict)
    """What became of the flow's packets: source and destination."""
    owner: dict[tuple[str, End, End], Flow] = field(default_factory=dict)

    def client(self, flow: Flow) -> str:
        outside = {"outside": CLIENT, "other": OTHER_CLIENT}
        known = outside.get(flow.client)
        return known[self.family] if known else address(BACKENDS[flow.client], self.family)

    def frontend(self, flow: Flow) -> End:
        if flow.client in BACKENDS:
            return CLUSTER_IP[self.family], PORT
        return NODE[self.family], NODE_PORT

    def backends(self, kind: str) -> set[End]:
        return {(address(pod, self.family), 8080 if kind == "tcp" else 5353) for pod in BACKENDS.values()}

    def l4(self, kind: str, sport: int, dport: int) -> Packet:
        return tcp(sport, dport, "A") if kind == "tcp" else udp(sport, dport)

    def run(self, source: str | Pod, to: str, l4: Packet) -> tuple[Verdict, Packet]:
        node = self.services.node
        if isinstance(source, Pod):
            ran = node.run("from_container", source.name, bytes(from_pod(source, to, self.family) / l4))
        else:
            ran = node.run("from_netdev", "uplink", bytes(from_network(source, to, self.family) / l4))
        return ran.verdict, Ether(ran.packet)

    def ask(self, flow: Flow) -> None:
        to, port = self.frontend(flow)
        source = BACKENDS.get(flow.client, self.client(flow))
        verdict, out = self.run(source, to, self.l4(flow.kind, flow.port, port))
        assert verdict == Verdict.REDIRECT
        assert bytes(out) == whole(out)
        ends = ((out[1].src, out[2].sport), (out[1].dst, out[2].dport))
        assert ends[1] in self.backends(flow.kind)
        if flow in self.there:
            assert ends == self.there[flow]
            return
        self.check_source(flow, *ends)
        assert (flow.kind, *ends) not in self.owner
        self.there[flow] = ends
        self.owner[flow.kind, *ends] = flow

    def check_source(self, flow: Flow, source: End, backend: End) -> None:
        hairpin = backend[0] == self.client(flow)
        elsewhere = flow.client not in BACKENDS and backend[0] == address(API, self.family)
        if hairpin or elsewhere:
            assert source[0] == GATEWAY[self.family]
            assert source[1] == flow.port or source[1] >= 1024
        else:
            assert source == (self.client(flow), flow.port)

    def answer(self, flow: Flow) -> None:
        if flow not in self.there:
            return
        seen, backend = self.there[flow]
        by = next(pod for pod in BACKENDS.values() if address(pod, self.family) == backend[0])
        if by is API and flow.client in BACKENDS:
            source: str | Pod = backend[0]  # to a pod, by the uplink
        else:
            source = backend[0] if by is API else by
        verdict, out = self.run(source, seen[0], self.l4(flow.kind, backend[1], seen[1]))
        assert verdict == Verdict.REDIRECT
        assert bytes(out) == whole(out)
        assert (out[1].src, out[2].sport) == self.frontend(flow)
        assert (out[1].dst, out[2].dport) == (self.client(flow), flow.port)


@pytest.mark.parametrize("family", [4, 6])
def test_programs_and_model_agree(node_with: NodeWith, family: int) -> None:
    node = node_with()

    @settings(max_examples=25, deadline=None)
    @given(steps=STEPS)
    def agree(steps: list[tuple[str, Flow]]) -> None:
        node.reset()
        services = small_world(node)
        services.reached_by("native")
        if family == 6:  # IPv6 has no neighbour with an IPv4 address
            node.other_node(2, "2001:db8::2", tunnel=False, device="uplink", mtu_bytes=1500)
        for kind, port in (("tcp", 8080), ("udp", 5353)):
            ids = tuple(services.backend(address(pod, family), port, kind=kind) for pod in BACKENDS.values())
            services.cluster_ip(family, *ids, kind=kind)
            services.node_port(family, *ids, kind=kind)
        world = World(services, family)
        for step, flow in steps:
            getattr(world, step)(flow)

    agree()
