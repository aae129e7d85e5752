"""What status says of the operators, by the lease that they elect their leader with."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from pycilium.agent.nodes.operator_lease import OperatorLease
from pycilium.api.messages import OperatorStatus
from pycilium.model.resources import Lease, LeaseSpec, ObjectMeta
from pycilium.store.leases import LEASE_NAMESPACE, OPERATOR_LEASE
from pycilium.store.sqlite import SqliteStore

LEADS = OperatorStatus(state="Ok", msg="leader operator1", leader="operator1")


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
async def store(tmp_path):
    opened = SqliteStore(tmp_path / "store.db")
    yield opened
    await opened.close()


@pytest.fixture
def clock():
    return Clock()


async def held_by(store, holder: str) -> Lease:
    spec = LeaseSpec(holder_identity=holder, lease_duration_seconds=15)
    return await store.create(Lease(metadata=ObjectMeta(name=OPERATOR_LEASE, namespace=LEASE_NAMESPACE), spec=spec))


async def said(lease: OperatorLease, clock: Clock, after_s: float = 10.0) -> OperatorStatus:
    clock.now_s += after_s
    await lease.look()
    return lease.status()


async def test_who_leads_is_named(store, clock):
    await held_by(store, "operator1_5c0e")

    assert await said(OperatorLease(store, OPERATOR_LEASE, needed=True, elapsed=clock), clock) == LEADS


async def test_a_leader_that_renews_its_lease_leads_however_long(store, clock):
    present = await held_by(store, "operator1_5c0e")
    lease = OperatorLease(store, OPERATOR_LEASE, needed=True, elapsed=clock)
    for second in range(10):
        spec = msgspec.structs.replace(present.spec, lease_transitions=second + 1)
        present = await store.replace(msgspec.structs.replace(present, spec=spec))

        assert await said(lease, clock) == LEADS


@pytest.mark.parametrize("needed", [True, False])
async def test_a_leader_that_was_killed_is_a_warning_once_its_lease_has_run_out(store, clock, needed):
    await held_by(store, "operator1_5c0e")
    lease = OperatorLease(store, OPERATOR_LEASE, needed=needed, elapsed=clock)

    assert await said(lease, clock) == LEADS
    assert await said(lease, clock, after_s=15.0) == LEADS
    assert await said(lease, clock, after_s=5.0) == OperatorStatus(
        state="Warning", msg="operator1 led and gives no sign of life for 20 s: start cilium-operator"
    )


@pytest.mark.parametrize("lease_there", [True, False])
async def test_without_a_leader_a_node_of_a_cluster_pool_warns_and_another_does_not(store, clock, lease_there):
    if lease_there:
        await held_by(store, "")
    pooled, alone = (OperatorLease(store, OPERATOR_LEASE, needed=needed, elapsed=clock) for needed in (True, False))

    assert await said(pooled, clock) == OperatorStatus(
        state="Warning", msg="none leads, so nodes get no pod CIDRs: start cilium-operator"
    )
    assert await said(alone, clock) == OperatorStatus(state="Disabled")


async def test_while_the_store_is_away_the_last_known_leader_is_named(store, clock):
    await held_by(store, "operator1_5c0e")
    lease = OperatorLease(store, OPERATOR_LEASE, needed=True, elapsed=clock)
    await said(lease, clock)
    await store.close()

    assert (await said(lease, clock)).leader == "operator1"


async def test_who_asks_soon_after_another_is_told_the_same(store, clock):
    lease = OperatorLease(store, OPERATOR_LEASE, needed=False, elapsed=clock)
    await said(lease, clock)
    await held_by(store, "operator1_5c0e")

    assert (await said(lease, clock, after_s=0.5)).leader == ""
    assert (await said(lease, clock, after_s=0.5)).leader == "operator1"


async def test_whoever_asks_is_followed_by_one_look_more_and_nobody_is_looked_at_after_that(store, clock):
    await held_by(store, "operator1_5c0e")
    looked = asyncio.Event()
    waited = []

    class Watched:
        async def get(self, *args):
            found = await store.get(*args)
            if waited:
                looked.set()
            return found

    async def sleep(seconds: float) -> None:
        waited.append(seconds)
        clock.now_s += seconds

    lease = OperatorLease(Watched(), OPERATOR_LEASE, needed=True, elapsed=clock)
    running = asyncio.create_task(lease.run(sleep))
    await lease.look()
    await looked.wait()
    running.cancel()

    assert waited == [16.0]
    assert lease.status().msg == "operator1 led and gives no sign of life for 16 s: start cilium-operator"
