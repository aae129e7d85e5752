"""Three witnesses agree: the reference, the compiled entries, and the loaded program on real packets.

Over generated policies and connections, through the agent's own controller. The second test adds time: policies change
and agents restart under connections that live on.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pycilium.datapath import netns
from pycilium.datapath.layouts import FlowEvent, TraceReason, VerdictFlags
from pycilium.model.policy import Direction
from pycilium.policy.reference import Options, Verdict
from pycilium.testing import policies as gen
from tests.bpf import agreement
from tests.bpf.agreement import AgentOnNode, Connection, Expected, by_reference, connections, denied_flags, fate_of
from tests.bpf.conftest import LoadDatapath
from tests.bpf.node import Node

pytestmark = pytest.mark.root

SIZES = {"policies": 1024, "policy_rows": 1 << 16, "identity_bits": 4096, "ct4": 1 << 14, "ct6": 1 << 14}
OPTIONS = st.builds(Options, allow_localhost=st.booleans(), cidr_matches_pods=st.booleans())
HEALTH = [HealthCheck.too_slow, HealthCheck.data_too_large]


def _pod_devices() -> dict[str, int]:
    lines = [
        f"link add {name} address {address} type veth peer name {name}_p\nlink set {name} up"
        for name, address in agreement.DEVICES.items()
    ]
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)
    listed = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    by_name = {line.split(": ")[1].split("@")[0]: int(line.split(": ")[0]) for line in listed.splitlines()}
    return {name: by_name[name] for name in agreement.DEVICES}


def _remove_pod_devices() -> None:
    lines = [f"link delete {name}" for name in agreement.DEVICES]
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)


@pytest.fixture(scope="module")
def programs(load_datapath: LoadDatapath, netns_fd: int, devices: dict[str, int]) -> Iterator[Node]:
    """The programs, loaded once; whoever uses it clears the maps first."""
    made = netns.run_in(netns_fd, _pod_devices)
    node = Node(load_datapath(SIZES), netns_fd, {**devices, **made})
    yield node
    node.close()
    netns.run_in(netns_fd, _remove_pod_devices)


def check_rules(agent: AgentOnNode, event: FlowEvent, expected: Expected) -> None:
    """The event blames only rules that match, and does blame one where one decided."""
    for direction, judged in expected.sides.items():
        named = agent.rules(event, direction)
        assert named <= judged.deciding
        if judged.verdict is Verdict.NOT_ALLOWED:
            assert not named
        elif judged.denying or (judged.restricted and judged.allowing):
            assert named


@settings(max_examples=80, deadline=None, suppress_health_check=HEALTH)
@given(documents=gen.documents(), asked=connections(min_size=20, max_size=60), options=OPTIONS)
def test_reference_entries_and_program_agree(
    programs: Node, documents: list[gen.Document], asked: list[Connection], options: Options
) -> None:
    programs.clear()
    agent = AgentOnNode(programs, options)

    agent.start(documents)

    tables = agent.tables
    for connection in asked:
        expected = by_reference(documents, connection, options)
        entries = agent.by_lookup(tables, connection)
        event = agent.by_packet(connection)
        assert fate_of(event) == expected.fate, connection
        assert {side: agreement.REASONS[judged.verdict] for side, judged in expected.sides.items()} == {
            side: agreement.ALLOWED if found.allowed else agreement.DENY if found.denied else agreement.DENIED
            for side, found in entries.items()
        }
        check_rules(agent, event, expected)
        for direction, row, selector in (
            (Direction.EGRESS, event.egress_row, event.egress_selector),
            (Direction.INGRESS, event.ingress_row, event.ingress_selector),
        ):
            found = entries.get(direction)
            assert (row, selector) == ((found.row_id, found.selector) if found else (0, 0))
        denials = VerdictFlags.EGRESS_DENIED | VerdictFlags.INGRESS_DENIED
        assert event.verdict_flags & denials == denied_flags(expected.fate)


@dataclass(frozen=True, slots=True)
class Round:
    """A change of policies, by a restarted agent or the running one; then packets in this direction first."""

    documents: list[gen.Document]
    restart: bool
    replies_first: bool


ROUNDS = st.lists(st.builds(Round, gen.documents(max_size=3), st.booleans(), st.booleans()), min_size=2, max_size=3)


@settings(max_examples=40, deadline=None, suppress_health_check=HEALTH)
@given(rounds=ROUNDS, asked=connections(min_size=10, max_size=30))
def test_policy_changes_cut_what_is_denied_in_both_directions_and_nothing_else(
    programs: Node, rounds: list[Round], asked: list[Connection]
) -> None:
    """A connection's fate is that of the direction in which it was opened, by the policies of now."""
    programs.clear()
    agent = AgentOnNode(programs)
    agent.start([])
    opened: set[Connection] = set()

    for step in rounds:
        if step.restart:
            agent = AgentOnNode(programs)
            agent.start(step.documents)
        else:
            agent.policies_are(step.documents)
        for connection in asked:
            expected = by_reference(step.documents, connection, Options())
            was_open = connection in opened
            replies = [True, False] if step.replies_first else [False, True]
            for reply in replies if was_open else [False, True]:
                if reply and connection not in opened:
                    continue
                event = agent.by_packet(connection, reply=reply, first=not was_open)
                assert fate_of(event) == expected.fate, (connection, reply)
                check_rules(agent, event, expected)
                if event.reason and expected.fate.reason == agreement.ALLOWED:
                    assert (event.reason == TraceReason.REPLY) == reply
                    opened |= {connection} if connection.can_be_answered else set()
