"""A pod's new labels: when its endpoint gets the identity that belongs to them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from ipaddress import IPv4Network

import pytest

from pycilium.agent.endpoints.labelling import PodLabelling
from pycilium.agent.endpoints.register import EndpointRegister
from pycilium.agent.endpoints.relabelling import Relabelling
from pycilium.agent.intent import Intent
from pycilium.ipam import HostScope
from pycilium.model.endpoint import EndpointState
from pycilium.model.l4 import NamedTarget, Protocol
from pycilium.model.labels import pod_labels
from pycilium.model.resources import CiliumIdentity, ObjectMeta, Pod
from pycilium.store.sqlite import SqliteStore
from tests.unit.agent.endpoints.test_identities import Node
from tests.unit.agent.endpoints.test_restoring import Files, Loop
from tests.unit.agent.test_controller import ENDPOINTS
from tests.unit.agent.test_sources import until

NEVER_S = 60.0


class Relabelled(Node):
    """A node with one pod, which has just been given other labels."""

    def __init__(self, store: SqliteStore, grace_s: float) -> None:
        super().__init__(store)
        self.register = EndpointRegister(self.intent, Files(), Loop(), HostScope(IPv4Network("10.0.0.0/24"), None))
        labelling = PodLabelling(self.intent, store, "default")
        self.relabelling = Relabelling(self.register, self.identities, labelling, grace_s)

    async def begin(self) -> None:
        labels = pod_labels({"app": "old"}, "default")
        self.before = await self.identities.number_for(labels)
        endpoint = replace(
            *ENDPOINTS[:1],
            pod_name="web",
            namespace="default",
            labels=labels,
            sec_identity=self.before,
            state=EndpointState.READY,
        )
        with self.intent.db.write() as txn:
            txn.insert(self.intent.endpoints, endpoint)
            txn.insert(
                self.intent.pods, Pod(metadata=ObjectMeta(name="web", namespace="default", labels={"app": "new"}))
            )

    @property
    def sec_identity(self) -> int:
        return self.register.all()[0].sec_identity


@pytest.fixture
async def store(tmp_path):
    opened = SqliteStore(tmp_path / "store.db")
    yield opened
    await opened.close()


def new_identity(intent: Intent) -> int | None:
    labels = pod_labels({"app": "new"}, "default")
    found = (each.number for each in intent.db.snapshot().all(intent.identities) if each.labels == labels)
    return next(found, None)


async def test_a_relabelled_pod_sends_nothing_with_an_identity_that_others_had_no_time_to_hear_of(store):
    node = Relabelled(store, NEVER_S)
    await node.begin()
    relabelling = asyncio.create_task(node.relabelling.refresh())
    await until(lambda: new_identity(node.intent) is not None)

    told = {each.metadata.name for each in (await store.list(CiliumIdentity)).items}
    still = node.sec_identity
    relabelling.cancel()

    assert str(new_identity(node.intent)) in told
    assert still == node.before


async def test_after_that_time_it_has_the_identity_of_its_labels(store):
    node = Relabelled(store, 0)
    await node.begin()

    assert await node.relabelling.refresh()
    assert node.sec_identity == new_identity(node.intent) != node.before


async def test_an_identity_that_the_cluster_had_is_taken_at_once(store):
    node = Relabelled(store, NEVER_S)
    await node.begin()
    await node.identities.number_for(pod_labels({"app": "new"}, "default"))

    assert await asyncio.wait_for(node.relabelling.refresh(), 20)
    assert node.sec_identity == new_identity(node.intent)


async def test_a_pod_that_is_known_late_gets_its_ports_with_its_labels(store):
    node = Relabelled(store, 0)
    await node.begin()
    known = Pod(
        metadata=ObjectMeta(name="web", namespace="default", labels={"app": "old"}),
        spec={"containers": [{"ports": [{"name": "HTTP", "containerPort": 8080}]}]},
    )
    with node.intent.db.write() as txn:
        txn.insert(node.intent.pods, known)

    assert await node.relabelling.refresh()

    (endpoint,) = node.register.all()
    assert endpoint.named_ports == {NamedTarget("http", Protocol.TCP, 8080)}
    assert endpoint.sec_identity == node.before
