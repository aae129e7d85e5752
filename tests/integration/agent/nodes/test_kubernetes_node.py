"""The Node says that pods have a network, whatever else others say of it."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from pycilium.agent.nodes.kubernetes_node import announce
from pycilium.install.kubernetes_cluster import Cluster
from pycilium.store.kubernetes.credentials import Access, Fixed, Proof
from pycilium.testing.api_objects import ALL_KINDS
from pycilium.testing.api_server import ApiServerDouble, Fault

NODE = next(kind for kind in ALL_KINDS if kind.name == "Node")
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
OURS = {"key": "node.cilium.io/agent-not-ready", "effect": "NoExecute"}
OTHER = {"key": "node.kubernetes.io/disk-pressure", "effect": "NoSchedule"}
READY = {"type": "Ready", "status": "True"}


def made(double):
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}, "spec": {"taints": [OTHER, OURS]}}
    double.objects.create(NODE, "", node)
    double.objects.patch(NODE, "", "n", {"status": {"conditions": [READY]}}, status=True)


async def announced(double):
    async def no_time(_):
        pass

    async with Cluster(Access(double.url, Fixed(Proof(), "none"))) as cluster:
        await announce(cluster, "n", clock=lambda: NOW, sleep=no_time)
    return json.loads(double.objects.get(NODE, "", "n"))


async def test_taint_and_condition_are_changed_and_nothing_else():
    double = ApiServerDouble()
    await double.start()
    made(double)

    node = await announced(double)
    again = await announced(double)
    await double.stop()

    assert node["spec"]["taints"] == [OTHER]
    assert [(each["type"], each["status"]) for each in node["status"]["conditions"]] == [
        ("Ready", "True"),
        ("NetworkUnavailable", "False"),
    ]
    assert again == node


async def test_a_change_that_somebody_else_made_in_between_is_heeded():
    double = ApiServerDouble()
    await double.start()
    made(double)
    double.faults.append(Fault(("patch",), status=409))

    node = await announced(double)
    await double.stop()

    assert node["spec"]["taints"] == [OTHER]
