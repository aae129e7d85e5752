from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pycilium.hubble.columns import Columns, rows_of
from tests.unit.hubble.synthetic import (
    ACK,
    DROP,
    EGRESS,
    INGRESS,
    POLICY_DENIED,
    POLICY_DENY,
    POLICY_VERDICT,
    TO_ENDPOINT,
    TO_STACK,
    TRACE,
    client_to_web,
    event,
    events,
    web_to_client,
)

EGRESS_DECIDED, INGRESS_DECIDED, EGRESS_DENIED, INGRESS_DENIED = 1, 2, 4, 8
FORWARDED, DROPPED = 1, 2


def shown(rows: Columns) -> list[tuple[int, int, int, int]]:
    """(type, sub-type, verdict, direction) of each row."""
    return list(
        zip(
            rows.type.tolist(),
            rows.sub_type.tolist(),
            rows.verdict.tolist(),
            rows.traffic_direction.tolist(),
            strict=True,
        )
    )


class TestUnfoldingOfPolicyDecisions:
    def test_a_packet_without_a_decision_is_one_row(self) -> None:
        rows = rows_of(client_to_web(), 0)

        assert shown(rows) == [(TRACE, TO_ENDPOINT, FORWARDED, INGRESS)]

    def test_decisions_of_both_sides_come_before_the_trace(self) -> None:
        rows = rows_of(client_to_web(verdict_flags=EGRESS_DECIDED | INGRESS_DECIDED), 0)

        assert shown(rows) == [
            (POLICY_VERDICT, 0, FORWARDED, EGRESS),
            (POLICY_VERDICT, 0, FORWARDED, INGRESS),
            (TRACE, TO_ENDPOINT, FORWARDED, INGRESS),
        ]

    def test_the_target_denies_what_the_source_may_send(self) -> None:
        flags = EGRESS_DECIDED | INGRESS_DECIDED | INGRESS_DENIED
        rows = rows_of(client_to_web(type=DROP, subtype=POLICY_DENIED, direction=INGRESS, verdict_flags=flags), 0)

        assert shown(rows) == [
            (POLICY_VERDICT, 0, FORWARDED, EGRESS),
            (POLICY_VERDICT, -POLICY_DENIED, DROPPED, INGRESS),
            (DROP, POLICY_DENIED, DROPPED, INGRESS),
        ]
        assert rows.drop_reason.tolist() == [0, POLICY_DENIED, POLICY_DENIED]

    def test_a_deny_rule_is_told_from_a_missing_allow_rule(self) -> None:
        flags = EGRESS_DECIDED | EGRESS_DENIED
        rows = rows_of(client_to_web(type=DROP, subtype=POLICY_DENY, direction=EGRESS, verdict_flags=flags), 0)

        assert shown(rows) == [(POLICY_VERDICT, -POLICY_DENY, DROPPED, EGRESS), (DROP, POLICY_DENY, DROPPED, EGRESS)]

    def test_a_packet_that_was_allowed_and_dropped_for_another_reason(self) -> None:
        rows = rows_of(client_to_web(type=DROP, subtype=155, direction=EGRESS, verdict_flags=EGRESS_DECIDED), 0)

        assert shown(rows) == [(POLICY_VERDICT, 0, FORWARDED, EGRESS), (DROP, 155, DROPPED, EGRESS)]

    @given(st.lists(st.integers(0, 3), max_size=20))
    def test_every_event_keeps_its_order_and_its_number_of_rows(self, flags: list[int]) -> None:
        batch = events(*(client_to_web(source_port=port, verdict_flags=flag) for port, flag in enumerate(flags)))
        rows = rows_of(batch, 0)

        expected = [port for port, flag in enumerate(flags) for _ in range(1 + flag.bit_count())]
        assert rows.source_port.tolist() == expected
        assert [port for port, kind in zip(expected, rows.type, strict=True) if kind == TRACE] == list(
            range(len(flags))
        )


class TestTrafficDirection:
    """It is the connection's, as the endpoint sees it at which the event was made."""

    def test_a_reply_into_the_endpoint_that_asked_is_egress(self) -> None:
        assert rows_of(web_to_client(), 0).traffic_direction.tolist() == [EGRESS]

    def test_a_packet_that_leaves_its_endpoint_is_egress(self) -> None:
        assert rows_of(client_to_web(subtype=TO_STACK), 0).traffic_direction.tolist() == [EGRESS]

    def test_a_reply_that_leaves_the_endpoint_that_was_asked_is_ingress(self) -> None:
        assert rows_of(web_to_client(subtype=TO_STACK), 0).traffic_direction.tolist() == [INGRESS]

    def test_without_an_endpoint_or_a_known_connection_there_is_none(self) -> None:
        batch = events(event(), client_to_web(is_reply=2))

        assert rows_of(batch, 0).traffic_direction.tolist() == [0, 0]


def test_addresses_are_two_host_order_words() -> None:
    rows = rows_of(events(event("10.1.2.3", "10.0.0.2"), event("fd00::1", "2606:4700::1")), 0)

    assert rows.source_high.tolist() == [0, 0xFD00 << 48]
    assert rows.source_low.tolist() == [0xFFFF_0A01_0203, 1]
    assert rows.destination_high.tolist() == [0, 0x2606_4700 << 32]


def test_times_become_wall_clock() -> None:
    assert rows_of(client_to_web(time_ns=7), 1000).time_ns.tolist() == [1007]


def test_plain_fields_are_taken_as_they_are() -> None:
    rows = rows_of(client_to_web(tcp_flags=ACK, egress_row=5, ingress_selector=9, cpu=3, error=-14, packet_bytes=99), 0)

    assert (rows.source_port[0], rows.destination_port[0], rows.tcp_flags[0]) == (40000, 80, ACK)
    assert (rows.egress_row[0], rows.ingress_selector[0], rows.cpu[0], rows.error[0]) == (5, 9, 3, -14)
    assert bytes(rows.source_mac[0]) == bytes.fromhex("0a0000000001")


def test_no_events_make_no_rows() -> None:
    assert all(len(column) == 0 for column in rows_of(np.zeros(0, dtype=events().dtype), 0))
