"""Labels that a runtime tells after it has called the plugin."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from pycilium.agent.endpoints.labelling import PodLabelling
from pycilium.agent.endpoints.late_labels import LateLabels
from pycilium.agent.intent import Intent
from pycilium.agent.runtimes import Container, Runtimes, asking
from pycilium.model.labels import pod_labels
from tests.unit.endpoint.builders import ENDPOINT

DB = replace(ENDPOINT, pod_name="db", namespace="shop", labels=pod_labels({}, "shop"))


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch):
    monkeypatch.setattr(asking, "_PAUSE_S", 0)


class LateRuntime:
    """Knows the container when asked for the third time."""

    name, is_there, tells_late = "containerd", True, True

    def __init__(self, *, is_sandbox=True):
        self._asked, self._is_sandbox = 0, is_sandbox

    async def container(self, container_id):
        self._asked += 1
        labels = {"app": "db", "io.kubernetes.pod.uid": "1"}
        return Container("db", labels, is_sandbox=self._is_sandbox) if self._asked == 3 else None


async def learned(runtime):
    given = asyncio.get_running_loop().create_future()

    async def relabel(endpoint, labels):
        given.set_result((endpoint, labels))

    labels = LateLabels(PodLabelling(Intent.new(), None, "default", Runtimes([runtime])), relabel)
    await labels.expect(DB)
    return given.result() if given.done() else None


async def test_an_endpoint_gets_the_labels_of_its_pod_once_its_runtime_knows_them():
    assert await learned(LateRuntime()) == (DB, pod_labels({"app": "db"}, "shop"))


async def test_what_turns_out_to_be_no_sandbox_keeps_the_labels_that_it_has():
    assert await learned(LateRuntime(is_sandbox=False)) is None


def test_where_an_endpoint_is_are_no_labels_of_its_own():
    labelling = PodLabelling(Intent.new(), None, "default")
    assert not labelling.has_labels_of_its_own(DB)
    assert labelling.has_labels_of_its_own(replace(DB, labels=pod_labels({"app": "db"}, "shop")))
