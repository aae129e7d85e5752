"""The agent of a lab's node, started in the node's namespace."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pycilium.errors import CiliumError
from pycilium.lab import agents, namespaces
from pycilium.lab.layout import LabLayout, LabRecord, NodeRecord

pytestmark = pytest.mark.root


@pytest.fixture
def record() -> Iterator[LabRecord]:
    name = f"cilium-test-agents-{os.getpid()}"
    namespaces.create(name)
    node = NodeRecord(
        name="node1", namespace=name, ipv4=None, ipv6=None, ipv4_pod_cidr="10.0.0.0/24", ipv6_pod_cidr=None
    )
    yield LabRecord(name="test", ip_families=("ipv4",), underlay="none", world="none", nodes=(node,))
    namespaces.delete(name)


def test_a_failed_start_shows_what_that_run_said_and_nothing_of_earlier_ones(record: LabRecord, tmp_path: Path) -> None:
    layout = LabLayout("test", root=tmp_path)
    layout.node_folder("node1").mkdir(parents=True)
    (layout.node_folder("node1") / "agent.json").write_text(json.dumps({"node_name": "node1", "flow_capacity": 0}))
    agents.log_of(layout, "node1").write_text("ready after an earlier start\n")

    with pytest.raises(CiliumError) as failed:
        agents.start(layout, record, "node1")

    assert "agent of node1 ended while it started" in str(failed.value)
    assert "flow_capacity: Expected `int` >= 1" in str(failed.value)
    assert "earlier" not in str(failed.value)
