"""Whether a policy is valid stands in its status, over a real store."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime

import pytest

from pycilium.errors import StoreUnavailable
from pycilium.model.resources import CiliumClusterwideNetworkPolicy, CiliumNetworkPolicy, decode_object
from pycilium.operator.election import Leadership, LeaderStore
from pycilium.operator.policy_validity import PolicyValidity
from pycilium.store.sqlite import SqliteStore

NOW = datetime(2026, 1, 1, tzinfo=UTC)
GOOD = {"endpointSelector": {}, "ingress": [{"toPorts": [{"ports": [{"port": "http"}]}]}]}
UNBUILT = {"endpointSelector": {}, "egress": [{"toFQDNs": [{"matchName": "a.example"}]}]}


@pytest.fixture
async def store(tmp_path):
    opened = SqliteStore(tmp_path / "store.db")
    yield opened
    await opened.close()


class CountingStore(LeaderStore):
    """Counts patches; refuses the first `refused` of them."""

    def __init__(self, store, leadership, refused: int = 0) -> None:
        super().__init__(store, leadership)
        self.patches, self.refused = 0, refused

    async def patch_status(self, *arguments):
        self.patches += 1
        if self.patches <= self.refused:
            raise StoreUnavailable("away")
        return await super().patch_status(*arguments)


@contextlib.asynccontextmanager
async def running(store, refused: int = 0):
    leadership = Leadership(lambda: 0.0)
    leadership.extend(1e12)
    leader = CountingStore(store, leadership, refused)
    task = asyncio.create_task(PolicyValidity(store, leader, lambda: NOW).run())
    yield leader
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def policy(spec, name: str = "p", kind: str = "CiliumNetworkPolicy"):
    namespace = {"namespace": "default"} if kind == "CiliumNetworkPolicy" else {}
    return decode_object(
        {"apiVersion": "cilium.io/v2", "kind": kind, "metadata": {"name": name, **namespace}, "spec": spec}
    )


async def valid(store, status: str, name: str = "p", kind=CiliumNetworkPolicy, namespace: str = "default") -> str:
    """The message, once the condition has that status."""
    async with asyncio.timeout(30):
        while True:
            found = (await store.get(kind, name, namespace)).status
            for condition in found.conditions if found else ():
                if condition.type == "Valid" and condition.status == status:
                    return condition.message
            await asyncio.sleep(0.01)


async def test_a_valid_policy_is_said_to_be(store):
    await store.apply([policy(GOOD), policy(GOOD, "all", "CiliumClusterwideNetworkPolicy")])

    async with running(store):
        await valid(store, "True")
        await valid(store, "True", "all", CiliumClusterwideNetworkPolicy, "")


async def test_one_that_agents_set_aside_says_why_and_where(store):
    await store.apply([policy(UNBUILT)])

    async with running(store):
        assert "spec.egress[0].toFQDNs" in await valid(store, "False")


async def test_a_policy_is_judged_again_when_it_changes(store):
    async with running(store):
        await store.apply([policy(UNBUILT)])
        await valid(store, "False")
        await store.apply([policy(GOOD)])
        await valid(store, "True")
        await store.apply([policy(UNBUILT)])
        await valid(store, "False")


async def test_each_policy_is_patched_once_and_by_no_later_leader(store):
    await store.apply([policy(GOOD, f"p{number}") for number in range(20)])

    async with running(store) as first:
        for number in range(20):
            await valid(store, "True", f"p{number}")
    async with running(store) as second:
        await store.apply([policy(GOOD, "last")])
        await valid(store, "True", "last")

    assert (first.patches, second.patches) == (20, 1)


async def test_what_could_not_be_written_is_written_later(store, monkeypatch):
    monkeypatch.setattr("pycilium.operator.policy_validity.RETRY_S", 0.01)
    await store.apply([policy(GOOD)])

    async with running(store, refused=2) as leader:
        await valid(store, "True")

    assert leader.patches == 3


async def test_a_status_does_not_change_what_is_asked_for(store):
    await store.apply([policy(GOOD)])
    before = (await store.get(CiliumNetworkPolicy, "p", "default")).metadata.generation

    async with running(store):
        await valid(store, "True")

    assert (await store.get(CiliumNetworkPolicy, "p", "default")).metadata.generation == before
