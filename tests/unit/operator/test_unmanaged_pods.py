"""Pods that started without us are restarted, one of an owner at a time, and only those that somebody makes again."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from pycilium.model.resources import CiliumEndpoint, CiliumNode, ObjectMeta, OwnerReference, Pod
from pycilium.operator.election import Leadership, LeaderStore
from pycilium.operator.unmanaged_pods import GRACE_S, OWNER_REST_S, REASON, UnmanagedPods, event_of
from pycilium.store.sqlite import SqliteStore
from tests.unit.operator.test_controllers import Clock, Unsteady, names

LOOK_S = 15.0


@pytest.fixture
async def store(tmp_path):
    opened = SqliteStore(tmp_path / "store.db")
    yield Unsteady(opened)
    await opened.close()


class Looking:
    """An operator that looks again and again, and what it told."""

    def __init__(self, store) -> None:
        self.clock, self.events = Clock(), []
        leadership = Leadership(self.clock)
        leadership.extend(1e9)
        self.pods = UnmanagedPods(LeaderStore(store, leadership), LOOK_S, self.clock, self.tell)

    async def tell(self, event) -> None:
        self.events.append(event)

    async def go_on(self, seconds: float) -> None:
        for _ in range(int(seconds / LOOK_S)):
            await self.pods.once()
            self.clock.now += LOOK_S
        await self.pods.once()


@pytest.fixture
async def looking(store):
    await store.create(CiliumNode(metadata=ObjectMeta(name="node1")))
    return Looking(store)


def pod(name: str, owner: str = "coredns", *, phase="Running", kind="ReplicaSet", **spec) -> Pod:
    owners = (
        (OwnerReference(api_version="apps/v1", kind=kind, name=owner, uid=owner, controller=True),) if owner else ()
    )
    return Pod(
        metadata=ObjectMeta(name=name, namespace="kube-system", owner_references=owners),
        spec={"nodeName": "node1", **spec},
        status={"phase": phase},
    )


async def start(store, wanted: Pod) -> Pod:
    """Makes it, and says of it what its kubelet would."""
    await store.create(wanted)
    return await store.patch_status(Pod, wanted.metadata.name, "kube-system", wanted.status)


async def test_a_pod_without_an_endpoint_is_restarted_with_an_event_why(store, looking):
    made = await start(store, pod("dns"))

    await looking.go_on(GRACE_S)

    assert await names(store, Pod) == []
    (event,) = looking.events
    assert (event["reason"], event["type"]) == (REASON, "Warning")
    assert event["involvedObject"]["uid"] == made.metadata.uid
    assert event["message"] == "restarted: it started before Cilium was ready on node node1, so no policy held for it"


async def test_a_pod_that_was_attached_just_now_is_given_time(store, looking):
    await start(store, pod("dns"))
    await looking.go_on(GRACE_S - LOOK_S)
    await store.create(CiliumEndpoint(metadata=ObjectMeta(name="dns", namespace="kube-system")))

    await looking.go_on(2 * GRACE_S)

    assert await names(store, Pod) == ["dns"]


@pytest.mark.parametrize(
    "left",
    [
        pytest.param(pod("p", hostNetwork=True), id="in the node's own network"),
        pytest.param(pod("p", phase="Pending"), id="not running yet"),
        pytest.param(pod("p", phase="Succeeded"), id="running no longer"),
        pytest.param(pod("p", nodeName="elsewhere"), id="on a node without an agent"),
        pytest.param(pod("p", owner=""), id="that nobody makes again"),
        pytest.param(pod("p", kind="Node"), id="of a kubelet's own"),
    ],
)
async def test_a_pod_is_left_alone(store, looking, left):
    await start(store, left)

    await looking.go_on(3 * GRACE_S)

    assert await names(store, Pod) == ["p"]
    assert looking.events == []


async def test_of_the_pods_of_one_owner_one_goes_at_a_time(store, looking):
    for name in ("dns-1", "dns-2", "other"):
        await start(store, pod(name, "other" if name == "other" else "coredns"))

    await looking.go_on(GRACE_S)
    first = await names(store, Pod)
    await looking.go_on(OWNER_REST_S)

    assert len(first) == 1
    assert await names(store, Pod) == []


async def test_a_store_that_was_away_makes_no_pod_look_unmanaged(store, looking):
    await start(store, pod("dns"))
    await looking.go_on(GRACE_S - LOOK_S)
    store.away = True
    await looking.pods.once()
    store.away = False

    await looking.go_on(LOOK_S)

    assert await names(store, Pod) == ["dns"]


def test_the_event_has_a_name_of_its_own():
    told = [event_of(pod("dns"), datetime(2026, 1, 1, microsecond=number, tzinfo=UTC)) for number in range(2)]

    assert len({each["metadata"]["name"] for each in told}) == 2
