"""What one packet costs on the path that nearly all take: known connection, no event, no policy.

The figures go into the test report (record_property) and decide nothing: a busy machine is no fault of ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from pycilium.datapath.layouts import Aggregation
from tests.bpf.conftest import NodeWith
from tests.bpf.node import DB, WEB, Node
from tests.bpf.packets import from_pod, tcp

pytestmark = pytest.mark.root

REPEAT = 100_000
# The harness runs one packet again and again: DB's MACs are such that the rewritten packet is the same again.
MIRROR = replace(DB, mac=WEB.host_mac, host_mac=WEB.mac)


def establish(node: Node, family: int, to: object) -> bytes:
    node.endpoint(MIRROR)
    node.run("from_container", "web", bytes(from_pod(WEB, to, family) / tcp(40000, 80, "S")))
    return bytes(from_pod(WEB, to, family) / tcp(40000, 80, "A"))


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("to", [MIRROR, "world"], ids=["pod", "world"])
def test_established_tcp(
    node_with: NodeWith, record_property: Callable[[str, object], None], family: int, to: object
) -> None:
    node = node_with(aggregation=Aggregation.MEDIUM)
    packet = establish(node, family, to)

    cost_ns = min(node.nanoseconds("from_container", "web", packet, repeat=REPEAT) for _ in range(5))

    record_property("ns per packet", cost_ns)
    assert len(node.reader.read()) == 0
