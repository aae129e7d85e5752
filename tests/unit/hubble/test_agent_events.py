"""The log of what the agent did: the last events, and no more of them than there is room for."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

from pycilium.hubble.agent_events import MOST_BACKENDS, AgentEventLog
from pycilium.model.l4 import Protocol
from pycilium.model.service import Backend, Frontend, FrontendKind, L4Address

FRONTEND = Frontend(
    at=L4Address(IPv4Address("10.96.0.10"), 80, Protocol.TCP),
    kind=FrontendKind.CLUSTER_IP,
    namespace="shop",
    service="web",
)


def test_the_last_events_are_kept_with_their_numbers():
    log = AgentEventLog(capacity=3)

    for number in range(5):
        log.service_upserted(number, FRONTEND, number)

    assert [(each.number, each.event.service_upsert.id) for each in log.since(0)] == [(2, 2), (3, 3), (4, 4)]
    assert [each.number for each in log.since(4)] == [4]


def test_a_service_with_thousands_of_backends_that_changes_again_and_again_fills_no_memory():
    backend = Backend(L4Address(IPv4Address("10.0.0.1"), 80, Protocol.TCP))
    big = replace(FRONTEND, inside=(backend,) * (MOST_BACKENDS // 4))
    log = AgentEventLog()
    for number in range(9):
        log.service_upserted(number, big, number)

    log.service_upserted(9, replace(FRONTEND, inside=(backend,) * (2 * MOST_BACKENDS)), 9)
    alone = [each.number for each in log.since(0)]
    log.service_deleted(10, 9)

    assert (alone, [each.number for each in log.since(0)]) == ([9], [10])
