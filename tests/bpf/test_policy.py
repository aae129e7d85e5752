"""Policy as bits, as the loaded program decides it: which row, which selector, which reason; told in whole events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from scapy.layers.inet import ICMP
from scapy.layers.inet6 import ICMPv6Unknown
from scapy.packet import Packet, Raw

from pycilium.datapath import layouts
from pycilium.datapath.layouts import TracePoint, TraceReason, VerdictFlags
from tests.bpf.cases import Case, check, dropped, traced
from tests.bpf.node import DB, EGRESS, INGRESS, WEB, Node, Verdict
from tests.bpf.packets import delivered, from_pod, tcp, to_stack, udp

pytestmark = pytest.mark.root

TCP, UDP = 6, 17
WEB_BIT, DB_BIT = WEB.identity // 100, DB.identity // 100
BOTH = {
    "source_identity": WEB.identity,
    "source_endpoint": 10,
    "egress_revision": 10,
    "destination_identity": DB.identity,
    "destination_endpoint": 20,
    "ingress_revision": 20,
}
DENIED, DENY, NO_CONFIG = 133, 181, 165
EGRESS_DENIED = VerdictFlags.EGRESS | VerdictFlags.EGRESS_DENIED
INGRESS_DENIED = VerdictFlags.INGRESS | VerdictFlags.INGRESS_DENIED
Setup = Callable[[Node], Any]


def both(*steps: Setup) -> Setup:
    return lambda node: [step(node) for step in steps]


def egress(row_id: int, **fields: Any) -> Setup:
    return lambda node: node.row(WEB, EGRESS, row_id, **fields)


def ingress(row_id: int, **fields: Any) -> Setup:
    return lambda node: node.row(DB, INGRESS, row_id, **fields)


def closed(node: Node) -> None:
    """Policies select both pods and allow nothing."""
    node.row(WEB, EGRESS, 110)
    node.row(DB, INGRESS, 210)


def allowed(description: str, setup: Setup, packet: Packet, **fields: Any) -> Case:
    return Case(
        description,
        packet,
        Verdict.REDIRECT,
        lambda node: [traced(node, packet, TracePoint.TO_ENDPOINT, TraceReason.NEW, **{**BOTH, **fields})],
        delivered(packet, DB),
        setup=setup,
    )


def denied(description: str, setup: Setup, packet: Packet, reason: int, direction: int, **fields: Any) -> Case:
    return Case(
        description,
        packet,
        Verdict.DROP,
        lambda node: [dropped(node, packet, reason, direction, **{"is_reply": 0, **BOTH, **fields})],
        setup=setup,
    )


SYN4, SYN6 = (from_pod(WEB, DB, family) / tcp(40000, 80, "S") for family in (4, 6))
PING4 = from_pod(WEB, DB, 4) / ICMP(type=8, id=3)
TIMESTAMP4 = from_pod(WEB, DB, 4) / ICMP(type=13)
QUERY6 = from_pod(WEB, DB, 6) / ICMPv6Unknown(type=139, msgbody=b"abcd")
OPEN_EGRESS = {"egress_row": 101}
OPEN = {"egress_row": 101, "ingress_row": 202}

CASES = [
    allowed("rows without a policy behind them give no verdict", lambda _: None, SYN4, **OPEN),
    allowed("the same for IPv6", lambda _: None, SYN6, **OPEN),
    denied(
        "nothing matches: an implicit deny of egress",
        egress(110),
        SYN4,
        DENIED,
        EGRESS,
        egress_row=110,
        verdict_flags=EGRESS_DENIED,
    ),
    denied(
        "nothing matches: an implicit deny of ingress",
        ingress(210),
        SYN6,
        *(DENIED, INGRESS),
        **OPEN_EGRESS,
        ingress_row=210,
        verdict_flags=INGRESS_DENIED,
    ),
    allowed(
        "a selector of the peer allows, on both sides",
        both(closed, egress(111, allow={DB_BIT}), ingress(211, allow={WEB_BIT})),
        SYN4,
        egress_row=111,
        egress_selector=DB_BIT,
        ingress_row=211,
        ingress_selector=WEB_BIT,
        verdict_flags=VerdictFlags.EGRESS | VerdictFlags.INGRESS,
    ),
    denied(
        "deny beats allow",
        ingress(211, allow={0, WEB_BIT}, deny={WEB_BIT}),
        SYN4,
        *(DENY, INGRESS),
        **OPEN_EGRESS,
        ingress_row=211,
        ingress_selector=WEB_BIT,
        verdict_flags=INGRESS_DENIED,
    ),
    denied(
        "egress is judged before ingress",
        both(egress(111, allow={0}, deny={DB_BIT}), ingress(210)),
        SYN4,
        *(DENY, EGRESS),
        egress_row=111,
        egress_selector=DB_BIT,
        verdict_flags=EGRESS_DENIED,
    ),
    allowed(
        "the longest row alone decides: a port",
        both(closed, egress(111, allow={0}), ingress(212, allow={0}, protocol=TCP, port=80)),
        SYN4,
        egress_row=111,
        ingress_row=212,
        verdict_flags=VerdictFlags.EGRESS | VerdictFlags.INGRESS,
    ),
    denied(
        "another port has the other row",
        both(closed, egress(111, allow={0}), ingress(212, allow={0}, protocol=TCP, port=81)),
        SYN4,
        *(DENIED, INGRESS),
        egress_row=111,
        ingress_row=210,
        verdict_flags=VerdictFlags.EGRESS | INGRESS_DENIED,
    ),
    denied(
        "another protocol has the other row",
        ingress(212, protocol=UDP),
        from_pod(WEB, DB, 4) / udp(40000, 80),
        *(DENIED, INGRESS),
        **OPEN_EGRESS,
        ingress_row=212,
        verdict_flags=INGRESS_DENIED,
    ),
    allowed(
        "a range of ports is a prefix",
        both(closed, egress(111, allow={0}), ingress(213, allow={0}, protocol=TCP, port=64, port_bits=10)),
        from_pod(WEB, DB, 4) / tcp(40000, 127, "S"),
        egress_row=111,
        ingress_row=213,
        verdict_flags=VerdictFlags.EGRESS | VerdictFlags.INGRESS,
    ),
    allowed(
        "the type of an ICMP request is its port",
        ingress(214, allow={WEB_BIT}, protocol=1, port=8),
        PING4,
        **OPEN_EGRESS,
        ingress_row=214,
        ingress_selector=WEB_BIT,
        verdict_flags=VerdictFlags.INGRESS,
    ),
    denied(
        "another ICMP type has another row",
        both(ingress(210), ingress(214, allow={0}, protocol=1, port=8)),
        TIMESTAMP4,
        *(DENIED, INGRESS),
        **OPEN_EGRESS,
        ingress_row=210,
        verdict_flags=INGRESS_DENIED,
        is_reply=2,
    ),
    denied(
        "no row: the endpoint is not configured",
        lambda node: node.map(layouts.POLICY_ROWS).delete_batch(list(dict(node.map(layouts.POLICY_ROWS).items()))),
        SYN4,
        *(NO_CONFIG, EGRESS),
    ),
    denied(
        "no policy: the endpoint is not configured",
        lambda node: node.map(layouts.POLICIES).delete(DB.policy_id),
        SYN4,
        *(NO_CONFIG, INGRESS),
        **OPEN_EGRESS,
        ingress_revision=0,
    ),
    denied(
        "a policy number that no map can hold",
        lambda node: node.endpoint(DB, policy_id=1 << 30),
        SYN4,
        *(NO_CONFIG, INGRESS),
        **OPEN_EGRESS,
        ingress_revision=0,
    ),
    denied(
        "a policy without banks",
        lambda node: node.policy(WEB, revision=10, banks=()),
        SYN4,
        *(NO_CONFIG, EGRESS),
    ),
    allowed(
        "the bits of the CIDR that covers a pod count too",
        both(
            closed,
            egress(111, allow={0}),
            ingress(211, allow={77}),
            lambda n: n.bits(1 << 24, {77}),
            lambda n: n.endpoint(WEB, cidr=1 << 24),
        ),
        SYN4,
        egress_row=111,
        ingress_row=211,
        ingress_selector=77,
        verdict_flags=VerdictFlags.EGRESS | VerdictFlags.INGRESS,
    ),
    denied(
        "a deny by the CIDR beats an allow by labels",
        both(
            ingress(211, allow={WEB_BIT}, deny={77}),
            lambda n: n.bits(1 << 24, {77}),
            lambda n: n.endpoint(WEB, cidr=1 << 24),
        ),
        SYN4,
        *(DENY, INGRESS),
        **OPEN_EGRESS,
        ingress_row=211,
        ingress_selector=77,
        verdict_flags=INGRESS_DENIED,
    ),
    allowed(
        "an identity that has no bits is still any peer",
        both(ingress(211, allow={0}), lambda n: n.endpoint(WEB, identity=4444)),
        SYN4,
        **OPEN_EGRESS,
        ingress_row=211,
        verdict_flags=VerdictFlags.INGRESS,
        source_identity=4444,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_policy(node: Node, case: Case) -> None:
    check(node, case)


def test_other_icmpv6_is_judged_by_its_type_each_time(node: Node) -> None:
    node.row(DB, INGRESS, 215, allow={0}, protocol=58, port=139)
    fields = {**BOTH, **OPEN_EGRESS, "ingress_row": 215, "verdict_flags": VerdictFlags.INGRESS, "is_reply": 2}

    for _ in range(2):
        check(
            node,
            Case(
                "",
                QUERY6,
                Verdict.REDIRECT,
                lambda node: [traced(node, QUERY6, TracePoint.TO_ENDPOINT, TraceReason.UNKNOWN, **fields)],
                delivered(QUERY6, DB),
            ),
        )
    assert node.connections() == []


def test_protocol_without_ports_is_judged_and_tracked_by_addresses(node: Node) -> None:
    """What Kubernetes calls "all traffic" from a peer is more than TCP, UDP and SCTP."""
    node.row(DB, INGRESS, 211, allow={WEB_BIT})
    gre = from_pod(WEB, DB, 4, proto=47) / Raw(bytes(20))
    fields = {
        **BOTH,
        **OPEN_EGRESS,
        "ingress_row": 211,
        "ingress_selector": WEB_BIT,
        "verdict_flags": VerdictFlags.INGRESS,
    }

    check(node, allowed("", lambda _: None, gre, **fields))
    assert node.only_connection().ingress_row == 211


class TestBanks:
    """Policies of more than 512 selectors: 3 banks of WEB's egress, each with a row of its own."""

    BANKS = (4, 0, 9)

    def rows(self, node: Node, **by_bank: dict[str, Any]) -> None:
        node.policy(WEB, revision=10, banks=self.BANKS)
        for bank in self.BANKS:
            node.row(WEB, EGRESS, 1000 + bank, bank=bank, **by_bank.get(f"bank{bank}", {}))

    def verdict_of(self, node: Node) -> tuple[int, int, int, int]:
        ran = node.run("from_container", "web", bytes(SYN4))
        (event,) = ran.events
        return ran.verdict, event.subtype, event.egress_row, event.egress_selector

    def test_allow_in_the_last_bank(self, node: Node) -> None:
        self.rows(node, bank9={"allow": {511}})
        node.bits(DB.identity, {9 * 512 + 511})

        assert self.verdict_of(node) == (Verdict.REDIRECT, 0, 1009, 9 * 512 + 511)

    def test_first_allow_counts(self, node: Node) -> None:
        self.rows(node, bank0={"allow": {5, 6}}, bank9={"allow": {1}})
        node.bits(DB.identity, {5, 6, 9 * 512 + 1})

        assert self.verdict_of(node) == (Verdict.REDIRECT, 0, 1000, 5)

    def test_deny_in_a_later_bank_beats_allow_in_an_earlier(self, node: Node) -> None:
        self.rows(node, bank4={"allow": {0}}, bank9={"deny": {100}})
        node.bits(DB.identity, {9 * 512 + 100})

        assert self.verdict_of(node) == (Verdict.DROP, DENY, 1009, 9 * 512 + 100)

    def test_nothing_in_any_bank_names_the_row_of_the_first(self, node: Node) -> None:
        self.rows(node)

        assert self.verdict_of(node) == (Verdict.DROP, DENIED, 1004, 0)

    def test_row_missing_in_one_bank_is_never_allow(self, node: Node) -> None:
        self.rows(node, bank4={"allow": {0}})
        node.policy(WEB, revision=10, banks=(4, 7))

        assert self.verdict_of(node)[:2] == (Verdict.DROP, NO_CONFIG)

    def test_all_thirteen(self, node: Node) -> None:
        banks = tuple(range(20, 33))
        node.policy(WEB, revision=10, banks=banks)
        for bank in banks:
            node.row(WEB, EGRESS, 1000 + bank, bank=bank)
        node.row(WEB, EGRESS, 1032, bank=32, allow={64})
        node.bits(DB.identity, {32 * 512 + 64})

        assert self.verdict_of(node) == (Verdict.REDIRECT, 0, 1032, 32 * 512 + 64)


@pytest.mark.parametrize("bit", [0, 1, 2, 31, 32, 63, 64, 127, 128, 300, 448, 510, 511])
def test_first_matching_selector_is_named(node: Node, bit: int) -> None:
    node.row(WEB, EGRESS, 111, allow={bit, 511})
    node.bits(DB.identity, {bit, 511})

    (event,) = node.run("from_container", "web", bytes(SYN4)).events

    assert (event.egress_row, event.egress_selector) == (111, bit)


def test_world_is_judged_by_the_identity_of_its_longest_prefix(node: Node) -> None:
    node.identity("8.0.0.0/8", 1 << 24 | 1, cidr=0)
    node.identity("8.8.8.0/24", 1 << 24 | 2, cidr=1 << 24 | 3)
    node.bits(1 << 24 | 2, {40})
    node.bits(1 << 24 | 3, {41})
    node.row(WEB, EGRESS, 111, allow={40}, deny={41})
    packet = from_pod(WEB, "world", 4) / tcp(1, 443, "S")
    elsewhere = from_pod(WEB, "8.1.1.1", 4) / tcp(1, 443, "S")

    fields = {
        **BOTH,
        "destination_endpoint": 0,
        "ingress_revision": 0,
        "verdict_flags": EGRESS_DENIED,
        "egress_row": 111,
    }
    check(
        node,
        denied(
            "",
            lambda _: None,
            packet,
            DENY,
            EGRESS,
            **{**fields, "destination_identity": 1 << 24 | 2, "egress_selector": 41},
        ),
    )
    check(
        node, denied("", lambda _: None, elsewhere, DENIED, EGRESS, **{**fields, "destination_identity": 1 << 24 | 1})
    )
    node.row(WEB, EGRESS, 111, allow={40})
    assert node.run("from_container", "web", bytes(packet)).packet == bytes(to_stack(packet))
