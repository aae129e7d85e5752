"""Connection tracking: states, lifetimes, replies, and what cuts a live connection."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from scapy.packet import Raw

from pycilium.datapath import layouts
from pycilium.datapath.layouts import CtFlags, CtLifetimeS, CtState, TraceReason
from tests.bpf.node import DB, EGRESS, GATEWAY4, INGRESS, WEB, Node, Pod, Verdict
from tests.bpf.packets import echo_reply, echo_request, from_host, from_network, from_pod, tcp, udp

pytestmark = pytest.mark.root

FAMILIES = pytest.mark.parametrize("family", [4, 6])
ELSEWHERE = {4: "10.0.1.10", 6: "fd00:10:0:1::a"}


def out(node: Node, flags: str, family: int = 4) -> Verdict:
    return node.run("from_container", "web", bytes(from_pod(WEB, DB, family) / tcp(40000, 80, flags))).verdict


def back(node: Node, flags: str, family: int = 4) -> Verdict:
    return node.run("from_container", "db", bytes(from_pod(DB, WEB, family) / tcp(80, 40000, flags))).verdict


def now_s() -> int:
    return int(time.clock_gettime(time.CLOCK_MONOTONIC))


def lifetime_of(node: Node) -> int:
    return node.only_connection().expires_s - now_s()


@FAMILIES
def test_entry_of_a_new_connection(node: Node, family: int) -> None:
    node.row(WEB, EGRESS, 111, allow={DB.identity // 100})
    node.row(DB, INGRESS, 211, allow={WEB.identity // 100})

    out(node, "S", family)

    entry = node.only_connection()
    assert abs(entry.created_s - now_s()) <= 1
    assert entry == layouts.CtEntry(
        expires_s=entry.created_s + CtLifetimeS.OPENING_S,
        created_s=entry.created_s,
        source_identity=WEB.identity,
        destination_identity=DB.identity,
        egress_revision=10,
        ingress_revision=20,
        egress_row=111,
        ingress_row=211,
        egress_selector=DB.identity // 100,
        ingress_selector=WEB.identity // 100,
        state=CtState.OPENING,
        flags=0,
        tcp_flags_origin=0x02,
        reported_origin_s=entry.created_s,
        last_fin_end=entry.last_fin_end,
    )


@FAMILIES
@pytest.mark.parametrize("first", ["low", "high"])
def test_key_is_canonical(node: Node, family: int, first: str) -> None:
    """The lower address comes first whoever opens, and the flag tells who did."""
    web_opens = from_pod(WEB, DB, family) / tcp(40000, 80, "S")
    db_opens = from_pod(DB, WEB, family) / tcp(80, 40000, "S")
    node.run("from_container", *(("web", bytes(web_opens)) if first == "low" else ("db", bytes(db_opens))))

    ((key, entry),) = node.map(layouts.CT4 if family == 4 else layouts.CT6).items()

    assert (key.port_low, key.port_high, key.protocol) == (40000, 80, 6)
    assert key.address_low < key.address_high
    assert entry.flags == (0 if first == "low" else CtFlags.ORIGIN_HIGH)


class TestTcpStates:
    def test_handshake(self, node: Node) -> None:
        out(node, "S")
        assert node.only_connection().state == CtState.OPENING
        back(node, "SA")
        assert node.only_connection().state == CtState.ESTABLISHED
        out(node, "A")
        assert CtLifetimeS.TCP_S - 1 <= lifetime_of(node) <= CtLifetimeS.TCP_S

    def test_unanswered_syn_stays_opening(self, node: Node) -> None:
        out(node, "S")
        out(node, "S")
        out(node, "A")
        assert node.only_connection().state == CtState.OPENING

    @pytest.mark.parametrize(("one", "other"), [(out, back), (back, out)])
    def test_fin_of_both(self, node: Node, one: type[out], other: type[out]) -> None:
        out(node, "S"), back(node, "SA")
        one(node, "FA")
        assert (node.only_connection().state, lifetime_of(node) <= CtLifetimeS.CLOSING_S) == (CtState.CLOSING, True)
        one(node, "FA")
        assert node.only_connection().state == CtState.CLOSING, "a retransmission is not the other side's FIN"
        other(node, "FA")
        assert (node.only_connection().state, lifetime_of(node) <= CtLifetimeS.CLOSED_S) == (CtState.CLOSED, True)
        assert one(node, "A") == Verdict.REDIRECT
        assert node.only_connection().state == CtState.CLOSED

    @pytest.mark.parametrize("side", [out, back])
    def test_reset(self, node: Node, side: type[out]) -> None:
        out(node, "S"), back(node, "SA")
        side(node, "R")
        assert node.only_connection().state == CtState.CLOSED

    def test_refused_connection(self, node: Node) -> None:
        out(node, "S")
        assert back(node, "RA") == Verdict.REDIRECT
        assert node.only_connection().state == CtState.CLOSED

    @pytest.mark.parametrize("end", [("F", "F"), ("R",)])
    def test_syn_after_the_end_opens_anew(self, node: Node, end: tuple[str, ...]) -> None:
        out(node, "S"), back(node, "SA")
        for flags, side in zip(end, (out, back), strict=False):
            side(node, flags)
        node.change_connection(created_s=1)

        ran = node.run("from_container", "web", bytes(from_pod(WEB, DB, 4) / tcp(40000, 80, "S")))

        assert [event.reason for event in ran.events] == [TraceReason.NEW]
        entry = node.only_connection()
        assert (entry.state, entry.flags, entry.created_s > 1) == (CtState.OPENING, 0, True)

    def test_other_end_may_open_the_next_one(self, node: Node) -> None:
        out(node, "S"), back(node, "SA"), out(node, "R")
        back(node, "S")
        assert (node.only_connection().flags, node.only_connection().source_identity) == (
            CtFlags.ORIGIN_HIGH,
            DB.identity,
        )

    def test_syn_of_the_other_end_is_judged_as_its_own(self, node: Node) -> None:
        """Otherwise an allowed connection would let its target open one to the port it came from."""
        node.row(WEB, INGRESS, 112)
        out(node, "S"), back(node, "SA")
        before = node.only_connection()

        assert back(node, "S") == Verdict.DROP
        assert node.only_connection() == before
        assert back(node, "A") == Verdict.REDIRECT

    def test_midstream_packet_is_judged_and_tracked(self, node: Node) -> None:
        """A connection whose entry gave way to others goes on."""
        assert out(node, "A") == Verdict.REDIRECT
        assert node.only_connection().state == CtState.OPENING

    def test_syn_on_a_living_connection_changes_nothing(self, node: Node) -> None:
        out(node, "S"), back(node, "SA")
        out(node, "S")
        assert node.only_connection().state == CtState.ESTABLISHED


class TestAfterTheLastPacket:
    """WEB's bytes are numbered from 100, DB's from 500. Neither may open anything towards WEB."""

    @pytest.fixture
    def node(self, node: Node) -> Node:
        node.row(WEB, INGRESS, 112)
        return node

    @staticmethod
    def send(node: Node, sender: Pod, flags: str, sequence: int, acknowledged: int, *, data: bytes = b"") -> Verdict:
        web = sender is WEB
        header = tcp(*((40000, 80) if web else (80, 40000)), flags, seq=sequence, ack=acknowledged)
        packet = from_pod(sender, DB if web else WEB, 4) / header / Raw(data)
        return node.run("from_container", "web" if web else "db", bytes(packet)).verdict

    def opened(self, node: Node) -> None:
        self.send(node, WEB, "S", 100, 0)
        self.send(node, DB, "SA", 500, 101)
        self.send(node, WEB, "A", 101, 501)

    @FAMILIES
    @pytest.mark.parametrize("first", ["web", "db"])
    def test_nothing_is_left_of_a_connection_that_both_pods_closed(self, node: Node, family: int, first: str) -> None:
        one, other = (WEB, DB) if first == "web" else (DB, WEB)
        ports = {WEB: (40000, 80), DB: (80, 40000)}
        for sender, to, flags, sequence, acknowledged in (
            (WEB, DB, "S", 0, 0),
            (DB, WEB, "SA", 0, 1),
            (one, other, "FA", 1, 1),
            (other, one, "A", 1, 2),
            (other, one, "FA", 1, 2),
            (one, other, "A", 2, 2),
        ):
            packet = from_pod(sender, to, family) / tcp(*ports[sender], flags, seq=sequence, ack=acknowledged)
            ran = node.run("from_container", "web" if sender is WEB else "db", bytes(packet))
            assert ran.verdict == Verdict.REDIRECT
        assert node.connections() == []

    def test_fin_that_acknowledges_the_other_at_once(self, node: Node) -> None:
        self.opened(node)
        self.send(node, DB, "FA", 501, 101)
        self.send(node, WEB, "FA", 101, 502)
        assert self.send(node, DB, "A", 502, 102) == Verdict.REDIRECT
        assert node.connections() == []

    def test_fins_that_crossed_are_both_acknowledged(self, node: Node) -> None:
        """After the first of these packets the second would be judged as if DB opened a connection."""
        self.opened(node)
        self.send(node, WEB, "FA", 101, 501)
        self.send(node, DB, "FA", 501, 101)
        assert self.send(node, WEB, "A", 102, 502) == Verdict.REDIRECT
        assert self.send(node, DB, "A", 502, 102) == Verdict.REDIRECT

    def test_what_acknowledges_less_than_the_last_fin_is_not_the_end(self, node: Node) -> None:
        self.opened(node)
        self.send(node, WEB, "FA", 101, 501)
        self.send(node, DB, "FA", 501, 102)
        self.send(node, WEB, "A", 102, 501)
        assert node.only_connection().state == CtState.CLOSED
        assert self.send(node, DB, "FA", 501, 102) == Verdict.REDIRECT, "it is sent again"

    def test_fin_with_data_that_is_acknowledged_in_parts(self, node: Node) -> None:
        self.opened(node)
        self.send(node, WEB, "FA", 101, 501)
        self.send(node, DB, "FA", 501, 102, data=b"ab")
        self.send(node, WEB, "A", 102, 502)
        assert self.send(node, DB, "FA", 501, 102, data=b"ab") == Verdict.REDIRECT
        self.send(node, WEB, "A", 102, 504)
        assert node.connections() == []

    @FAMILIES
    @pytest.mark.parametrize("who", ["world", "pod of another node"])
    @pytest.mark.parametrize("first", ["client", "pod"])
    def test_nothing_is_left_of_a_connection_from_elsewhere_that_both_ends_closed(
        self, node: Node, family: int, first: str, who: str
    ) -> None:
        """The client sends its FIN again if it has missed the last packet. What answers the world needs the entry: it would
        leave as the node's own without.
        """
        node.other_node(2, "192.0.2.2", tunnel=False, device="uplink")
        node.identity(ELSEWHERE[family], WEB.identity, node_id=2)
        node.row(DB, EGRESS, 211)
        ports = {"client": (40000, 80), "pod": (80, 40000)}
        client = "world" if who == "world" else ELSEWHERE[family]
        other = "pod" if first == "client" else "client"

        def send(sender: str, flags: str, sequence: int, acknowledged: int) -> Verdict:
            frame = from_network(client, DB, family) if sender == "client" else from_pod(DB, client, family)
            program = ("from_netdev", "uplink") if sender == "client" else ("from_container", "db")
            return node.run(*program, bytes(frame / tcp(*ports[sender], flags, seq=sequence, ack=acknowledged))).verdict

        send("client", "S", 0, 0), send("pod", "SA", 0, 1), send("client", "A", 1, 1)
        send(first, "FA", 1, 1), send(other, "FA", 1, 2)
        assert node.only_connection().state == CtState.CLOSED
        assert send(first, "A", 2, 2) != Verdict.DROP
        assert len(node.connections()) == (who == "world" and first == "pod")
        if other == "client":
            assert send("client", "FA", 1, 2) == Verdict.REDIRECT
            assert send("pod", "A", 2, 2) != Verdict.DROP

    def test_a_short_connection_has_one_place_among_those_that_may_have_to_give_way(self, node: Node) -> None:
        self.opened(node)
        self.send(node, WEB, "A", 101, 501)
        self.send(node, WEB, "FA", 101, 501)
        self.send(node, DB, "FA", 501, 102)
        places = [place for _, place in node.map(layouts.CT_TRANSIENTS).items() if place.family]
        assert [(place.source_port, place.destination_port) for place in places] == [(40000, 80)]

    def test_a_peer_elsewhere_may_have_missed_the_last_packet(self, node: Node) -> None:
        """It sends its FIN again then, which must pass."""
        there = from_network("world", WEB, 4)
        here = from_pod(WEB, "world", 4)
        for device, frame, ports, flags, sequence, acknowledged in (
            ("web", here, (40000, 80), "S", 100, 0),
            ("uplink", there, (80, 40000), "SA", 500, 101),
            ("web", here, (40000, 80), "FA", 101, 501),
            ("uplink", there, (80, 40000), "FA", 501, 102),
            ("web", here, (40000, 80), "A", 102, 502),
        ):
            program = "from_container" if device == "web" else "from_netdev"
            node.run(program, device, bytes(frame / tcp(*ports, flags, seq=sequence, ack=acknowledged)))
        again = bytes(there / tcp(80, 40000, "FA", seq=501, ack=102))
        assert node.run("from_netdev", "uplink", again).verdict == Verdict.REDIRECT
        assert node.only_connection().state == CtState.CLOSED


class TestLifetimes:
    def test_expired_entry_is_as_none(self, node: Node) -> None:
        out(node, "S"), back(node, "SA")
        node.change_connection(expires_s=now_s(), source_identity=1)

        ran = node.run("from_container", "web", bytes(from_pod(WEB, DB, 4) / tcp(40000, 80, "A")))

        assert [event.reason for event in ran.events] == [TraceReason.NEW]
        assert node.only_connection().source_identity == WEB.identity

    def test_expired_entry_admits_no_reply(self, node: Node) -> None:
        node.row(DB, EGRESS, 211)
        out(node, "S"), back(node, "SA")
        assert back(node, "A") == Verdict.REDIRECT
        node.change_connection(expires_s=now_s())

        assert back(node, "A") == Verdict.DROP

    def test_packets_prolong(self, node: Node) -> None:
        out(node, "S"), back(node, "SA")
        node.change_connection(expires_s=now_s() + 5)
        out(node, "A")
        assert lifetime_of(node) > CtLifetimeS.TCP_S - 2

    def test_dropped_packets_do_not_prolong(self, node: Node) -> None:
        out(node, "S"), back(node, "SA")
        node.change_connection(expires_s=now_s() + 100)
        node.row(DB, INGRESS, 211)
        node.policy(DB, revision=21)
        assert out(node, "A") == Verdict.DROP
        assert lifetime_of(node) <= 100

    def test_udp(self, node: Node) -> None:
        node.run("from_container", "web", bytes(from_pod(WEB, DB, 4) / udp(5000, 53)))
        node.run("from_container", "db", bytes(from_pod(DB, WEB, 4) / udp(53, 5000)))
        assert node.only_connection().state == CtState.ESTABLISHED
        assert CtLifetimeS.OTHER_S - 1 <= lifetime_of(node) <= CtLifetimeS.OTHER_S


@FAMILIES
class TestReplies:
    """Nobody may open anything towards WEB; replies come all the same."""

    @pytest.fixture
    def node(self, node: Node) -> Node:
        node.row(WEB, INGRESS, 112)
        node.row(DB, EGRESS, 211)
        return node

    def test_from_a_pod(self, node: Node, family: int) -> None:
        assert back(node, "SA", family) == Verdict.DROP
        out(node, "S", family)
        assert back(node, "SA", family) == Verdict.REDIRECT

    def test_from_the_host(self, node: Node, family: int) -> None:
        gateway = GATEWAY4 if family == 4 else "fd00:10::1"
        reply = bytes(from_host(gateway, WEB, family) / tcp(80, 40000, "SA"))
        assert node.run("from_host", "cilium_host", reply).verdict == Verdict.DROP
        node.run("from_container", "web", bytes(from_pod(WEB, gateway, family) / tcp(40000, 80, "S")))
        assert node.run("from_host", "cilium_host", reply).verdict == Verdict.REDIRECT

    def test_from_the_network(self, node: Node, family: int) -> None:
        reply = bytes(from_network("world", WEB, family) / tcp(443, 40000, "SA"))
        assert node.run("from_netdev", "uplink", reply).verdict == Verdict.DROP
        node.run("from_container", "web", bytes(from_pod(WEB, "world", family) / tcp(40000, 443, "S")))
        assert node.run("from_netdev", "uplink", reply).verdict == Verdict.REDIRECT

    def test_of_a_ping(self, node: Node, family: int) -> None:
        reply = bytes(from_pod(DB, WEB, family) / echo_reply(family, 9))
        assert node.run("from_container", "db", reply).verdict == Verdict.DROP
        node.run("from_container", "web", bytes(from_pod(WEB, DB, family) / echo_request(family, 9)))
        assert node.run("from_container", "db", reply).verdict == Verdict.REDIRECT
        other = bytes(from_pod(DB, WEB, family) / echo_reply(family, 10))
        assert node.run("from_container", "db", other).verdict == Verdict.DROP
        request = bytes(from_pod(DB, WEB, family) / echo_request(family, 9))
        assert node.run("from_container", "db", request).verdict == Verdict.DROP


@FAMILIES
def test_echo_identifier_zero_tells_no_ends_apart(node: Node, family: int) -> None:
    """Both ends' requests and replies have one tuple then: a request must not pass as the reply to another."""
    node.row(WEB, INGRESS, 112)
    node.row(DB, EGRESS, 211)
    node.run("from_container", "web", bytes(from_pod(WEB, DB, family) / echo_request(family, 0)))
    before = node.only_connection()

    request = bytes(from_pod(DB, WEB, family) / echo_request(family, 0))
    assert node.run("from_container", "db", request).verdict == Verdict.DROP
    assert node.only_connection() == before
    reply = bytes(from_pod(DB, WEB, family) / echo_reply(family, 0))
    assert node.run("from_container", "db", reply).verdict == Verdict.REDIRECT


def test_unasked_echo_reply_opens_nothing(node: Node) -> None:
    """It may pass where any peer may, but the request that follows must not pass as its reply."""
    assert node.run("from_container", "db", bytes(from_pod(DB, WEB, 4) / echo_reply(4, 9))).verdict == Verdict.REDIRECT
    assert node.connections() == []


@FAMILIES
class TestRevoking:
    """A new revision of either side's policy judges a live connection again, whichever way its packets go."""

    @pytest.mark.parametrize("packet", [out, back])
    @pytest.mark.parametrize(("pod", "direction", "reason"), [(WEB, EGRESS, 133), (DB, INGRESS, 133)])
    def test_cut(self, node: Node, family: int, packet: type[out], pod: object, direction: int, reason: int) -> None:
        out(node, "S", family), back(node, "SA", family)
        node.row(pod, direction, 500)
        assert packet(node, "A", family) == Verdict.REDIRECT, "the rows alone are not looked at"

        node.policy(pod, revision=77)

        assert packet(node, "A", family) == Verdict.DROP
        sides = {out: ("web", WEB, DB, 40000, 80), back: ("db", DB, WEB, 80, 40000)}
        device, source, target, sport, dport = sides[packet]
        ran = node.run("from_container", device, bytes(from_pod(source, target, family) / tcp(sport, dport, "A")))
        (event,) = ran.events
        row = event.egress_row if direction == EGRESS else event.ingress_row
        assert (event.subtype, event.direction, row, event.is_reply) == (reason, direction, 500, packet is back)

    @pytest.mark.parametrize("packet", [out, back])
    def test_kept_and_brought_up_to_date(self, node: Node, family: int, packet: type[out]) -> None:
        out(node, "S", family), back(node, "SA", family), out(node, "A", family)
        before = node.only_connection()
        node.row(DB, INGRESS, 500, allow={WEB.identity // 100})
        node.policy(DB, revision=77)

        assert packet(node, "A", family) == Verdict.REDIRECT

        changed = {"ingress_revision": 77, "ingress_row": 500, "ingress_selector": 10}
        moving = {
            "expires_s": 0,
            "reported_origin_s": 0,
            "reported_reply_s": 0,
            "tcp_flags_origin": 0,
            "tcp_flags_reply": 0,
        }
        assert replace(node.only_connection(), **moving) == replace(before, **changed, **moving)

    def test_allowed_again(self, node: Node, family: int) -> None:
        out(node, "S", family), back(node, "SA", family)
        node.row(DB, INGRESS, 500)
        node.policy(DB, revision=77)
        assert out(node, "A", family) == Verdict.DROP
        node.row(DB, INGRESS, 501, allow={0})
        node.policy(DB, revision=78)
        assert back(node, "A", family) == Verdict.REDIRECT

    def test_reply_is_not_judged_in_its_own_direction(self, node: Node, family: int) -> None:
        """DB may not open connections, and nobody may open one to WEB."""
        node.row(DB, EGRESS, 600)
        node.row(WEB, INGRESS, 601)
        out(node, "S", family), back(node, "SA", family)
        node.policy(DB, revision=77)
        node.policy(WEB, revision=78)
        assert back(node, "A", family) == Verdict.REDIRECT

    def test_port_and_type_are_those_of_the_opening_packet(self, node: Node, family: int) -> None:
        icmp = 1 if family == 4 else 58
        node.run("from_container", "web", bytes(from_pod(WEB, DB, family) / echo_request(family)))
        node.row(DB, INGRESS, 600)
        node.row(DB, INGRESS, 601, allow={0}, protocol=icmp, port=8 if family == 4 else 128)
        node.policy(DB, revision=77)
        reply = bytes(from_pod(DB, WEB, family) / echo_reply(family))
        assert node.run("from_container", "db", reply).verdict == Verdict.REDIRECT


@pytest.mark.parametrize("packet", [out, back])
def test_other_identity_is_judged_again(node: Node, packet: type[out]) -> None:
    node.row(DB, INGRESS, 211, allow={WEB.identity // 100})
    out(node, "S"), back(node, "SA")

    node.endpoint(WEB, identity=3000)
    assert packet(node, "A") == Verdict.DROP

    node.bits(3000, {WEB.identity // 100})
    assert packet(node, "A") == Verdict.REDIRECT
    assert node.only_connection().source_identity == 3000


def test_missing_policy_of_a_live_connection(node: Node) -> None:
    out(node, "S"), back(node, "SA")
    node.map(layouts.POLICIES).delete(DB.policy_id)

    (event,) = node.run("from_container", "web", bytes(from_pod(WEB, DB, 4) / tcp(40000, 80, "A"))).events

    assert (event.type, event.subtype) == (1, 165)


def test_missing_policy_is_not_taken_for_not_local(node: Node) -> None:
    """Revision 0 in an entry says that the end was not local; a pod without a policy must not match that."""
    packet = from_pod(WEB, "10.0.0.30", 4) / tcp(40000, 80, "S")
    assert node.run("from_container", "web", bytes(packet)).verdict == Verdict.REDIRECT
    node.endpoint(replace(DB, ipv4="10.0.0.30", policy_id=9))

    assert node.run("from_container", "web", bytes(packet)).verdict == Verdict.DROP


def test_established_path_asks_no_policy(node: Node) -> None:
    """Rows gone, packets pass: nothing but conntrack was asked."""
    out(node, "S"), back(node, "SA")
    rows = node.map(layouts.POLICY_ROWS)
    rows.delete_batch([key for key, _ in rows.items()])
    assert (out(node, "A"), back(node, "A")) == (Verdict.REDIRECT, Verdict.REDIRECT)


def test_denied_packets_make_no_entry(node: Node) -> None:
    node.row(DB, INGRESS, 211)
    out(node, "S")
    assert node.connections() == []


def test_full_table_gives_way_to_new_connections(node: Node) -> None:
    packet = bytearray(bytes(from_pod(WEB, DB, 4) / udp(5000, 53)))
    for port in range(10000, 10000 + 3000):
        packet[34:36] = port.to_bytes(2, "big")
        assert node.run("from_container", "web", bytes(packet)).verdict == Verdict.REDIRECT
    assert 100 < len(node.connections()) <= 1024
