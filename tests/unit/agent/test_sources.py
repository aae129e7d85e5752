"""What the agent takes in from the store, and what it sets aside."""

import asyncio

import pytest

from pycilium.agent.endpoints.identities import identity_of_resource, insert_reserved, is_cluster_identity
from pycilium.agent.intent import Intent
from pycilium.agent.sources import Source
from pycilium.model.identity import RESERVED_IDENTITIES, Identity
from pycilium.model.labels import Labels
from pycilium.model.node import Node
from pycilium.model.resources import CiliumIdentity, ObjectMeta, ResourceKey
from pycilium.store import ResourceList, Unreadable, WatchEvent
from pycilium.store.sqlite import SqliteStore


def resource(name: str) -> CiliumIdentity:
    return CiliumIdentity(metadata=ObjectMeta(name=name), security_labels={"k8s:app": "web"})


def take_list(
    source: Source, intent: Intent, resources: list[CiliumIdentity], unreadable: tuple[Unreadable, ...] = ()
) -> None:
    source.take_in(intent.db, ResourceList(tuple(map(source.convert_for_all, resources)), "1", unreadable))


@pytest.fixture
def intent():
    intent = Intent.new()
    insert_reserved(intent)
    return intent


@pytest.fixture
def source(intent):
    return Source(
        CiliumIdentity,
        intent.identities,
        identity_of_resource,
        lambda key: int(key.name),
        is_cluster_identity,
    )


class TestIdentities:
    @pytest.mark.parametrize("name", ["9", "1", "0300", "65536", "16777217"])
    def test_one_that_redefines_a_number_the_cluster_does_not_give_out_is_set_aside(self, intent, source, name):
        take_list(source, intent, [resource(name), resource("300")])
        source.apply(intent.db, WatchEvent("MODIFIED", resource(name)))
        rejected = dict(source.rejected)
        if int(name) != 300:
            source.apply(intent.db, WatchEvent("DELETED", resource(name)))

        assert set(intent.db.snapshot().all(intent.identities)) == {
            *RESERVED_IDENTITIES,
            Identity(300, Labels.from_map({"k8s:app": "web"})),
        }
        assert list(rejected) == [int(name)]
        assert "not the number of an identity of the cluster" in rejected[int(name)]

    def test_one_that_cannot_be_read_is_set_aside_and_what_was_known_of_it_stays(self, intent, source):
        take_list(source, intent, [resource("300"), resource("301")])
        unreadable = Unreadable(ResourceKey("CiliumIdentity", "", "301"), "damaged")

        source.apply(intent.db, unreadable)
        take_list(source, intent, [resource("300")], (unreadable,))

        known = {identity.number for identity in intent.db.snapshot().all(intent.identities)}
        assert {300, 301} <= known
        assert list(source.rejected) == [301]

    def test_a_list_that_says_nothing_new_is_no_change_of_the_table(self, intent, source):
        take_list(source, intent, [resource("300")])
        before = intent.db.revision

        take_list(source, intent, [resource("300")])

        assert intent.db.revision == before


async def until(reached) -> None:
    async with asyncio.timeout(20):
        while True:
            if reached():
                return
            await asyncio.sleep(0)


class TestOutage:
    async def test_what_was_known_stays_and_what_changed_meanwhile_is_a_diff(
        self, tmp_path, intent, source, monkeypatch
    ):
        monkeypatch.setattr("pycilium.agent.sources.RETRY_FIRST_S", 0.0)
        store = SqliteStore(tmp_path / "store.db")
        for name in ("300", "301"):
            await store.create(resource(name))
        changes = intent.identities.changes(from_start=False)
        away = asyncio.create_task(source.run(store, intent.db))
        await source.synced.wait()
        changes.drain()
        await store.close()
        await until(lambda: source.error)
        away.cancel()
        meanwhile = changes.drain()

        store = SqliteStore(tmp_path / "store.db")
        await store.delete(CiliumIdentity, "301")
        await store.create(resource("302"))
        back = asyncio.create_task(source.run(store, intent.db))
        await until(lambda: not source.error)
        back.cancel()
        await store.close()

        assert meanwhile == []
        assert sorted(change.key for change in changes.drain()) == [301, 302]


def test_a_source_beside_another_fills_its_table_from_the_same_steps(intent):
    numbers = Source(CiliumIdentity, intent.own_node, lambda each: Node(each.metadata.name), lambda key: key.name)
    source = Source(
        CiliumIdentity, intent.identities, identity_of_resource, lambda key: int(key.name), beside=(numbers,)
    )

    listed = ResourceList(tuple(source.convert_for_all(resource(name)) for name in ("300", "301")), "1")
    source.take_in(intent.db, listed)
    source.take_in(intent.db, WatchEvent("DELETED", resource("301")))

    snapshot = intent.db.snapshot()
    assert [node.name for node in snapshot.all(intent.own_node)] == ["300"]
    assert snapshot.get(intent.identities, 301) is None
