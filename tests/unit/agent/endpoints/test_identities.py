"""Numbers for label sets while the store is there, away, wiped, and asked by two nodes at once."""

from __future__ import annotations

import asyncio

import pytest

from pycilium.agent.endpoints.identities import AWAY_S, KEPT_S, Identities, identity_of_resource, insert_reserved
from pycilium.agent.intent import Intent
from pycilium.errors import AlreadyExists, ResourceUnreadable, StoreUnavailable
from pycilium.identity import IdentitiesExhaustedError
from pycilium.model.identity import CLUSTER_IDENTITIES, NODE_LOCAL_IDENTITIES, Identity
from pycilium.model.labels import Labels, pod_labels
from pycilium.model.resources import CiliumIdentity
from pycilium.store.sqlite import SqliteStore
from pycilium.testing import policies as gen
from tests.unit.agent.nodes.test_cluster import RULE, joined, pod
from tests.unit.agent.test_controller import ENDPOINTS, Agent, Kernel, endpoint_of

WEB, API = pod_labels({"app": "web"}, "default"), pod_labels({"app": "api"}, "default")


class Unsteady:
    """A store that can be away; `hang` makes it not answer at all."""

    def __init__(self, store: SqliteStore) -> None:
        self._store, self.away, self.hang = store, False, False

    async def create(self, resource):
        await self._reach()
        return await self._store.create(resource)

    async def get(self, kind, name, namespace=""):
        await self._reach()
        return await self._store.get(kind, name, namespace)

    async def _reach(self) -> None:
        if self.hang:
            await asyncio.Event().wait()
        if self.away:
            raise StoreUnavailable("away")


@pytest.fixture
async def sqlite(tmp_path):
    store = SqliteStore(tmp_path / "store.db")
    yield store
    await store.close()


class Node:
    """What one node knows of identities."""

    def __init__(self, store: SqliteStore, in_use=()) -> None:
        self.store = Unsteady(store)
        self.now = 0.0
        self.intent = Intent.new()
        insert_reserved(self.intent)
        self.identities = Identities(self.store, self.intent, in_use, clock=lambda: self.now)

    def knows(self, number: int) -> Identity | None:
        return self.intent.db.snapshot().get(self.intent.identities, number)


async def test_two_nodes_that_ask_at_once_get_one_number(sqlite):
    nodes = [Node(sqlite), Node(sqlite)]

    numbers = await asyncio.gather(*(node.identities.number_for(WEB) for node in nodes))

    assert len(set(numbers)) == 1
    assert [each.metadata.name for each in (await sqlite.list(CiliumIdentity)).items] == [str(numbers[0])]


async def test_labels_that_the_cluster_had_no_number_for_are_new_to_others_once(sqlite):
    node, other = Node(sqlite), Node(sqlite)
    await node.identities.number_for(API)

    assert await node.identities.announce([WEB, API])
    assert not await node.identities.announce([WEB, API])
    assert {each.security_labels["k8s:app"] for each in (await sqlite.list(CiliumIdentity)).items} == {"web", "api"}
    assert await other.identities.announce([WEB])  # to a node that has not heard it is as if it were new


async def test_while_the_store_is_away_no_labels_are_new_to_others(sqlite):
    node = Node(sqlite)
    node.store.away = True

    assert not await node.identities.announce([WEB])


async def test_while_the_store_is_away_new_labels_get_a_number_of_the_node_and_the_shared_one_afterwards(sqlite):
    node = Node(sqlite)
    node.store.away = True

    own = await node.identities.number_for(WEB)
    again = await node.identities.number_for(WEB)
    node.store.away = False
    node.now += AWAY_S
    shared = await node.identities.number_for(WEB)

    assert own == again
    assert own in NODE_LOCAL_IDENTITIES
    assert shared in CLUSTER_IDENTITIES
    assert node.knows(own) == Identity(own, WEB)  # until nobody has it any more
    assert node.knows(shared) == Identity(shared, WEB)


async def test_labels_that_are_known_need_no_store(sqlite):
    node = Node(sqlite)
    number = await node.identities.number_for(WEB)
    node.store.away = True

    assert await node.identities.number_for(WEB) == number


async def test_a_store_that_does_not_answer_counts_as_away_and_is_waited_for_once(sqlite, monkeypatch):
    monkeypatch.setattr("pycilium.agent.endpoints.identities.PATIENCE_S", 0.0)
    node = Node(sqlite)
    node.store.hang = True

    numbers = {await node.identities.number_for(labels) for labels in (WEB, API)}

    assert len(numbers) == 2
    assert numbers <= set(NODE_LOCAL_IDENTITIES)
    for asking in list(node.identities._asking.values()):
        asking.cancel()


async def test_a_number_of_the_node_goes_when_nobody_has_had_it_for_a_while(sqlite):
    node = Node(sqlite)
    node.store.away = True
    number = await node.identities.number_for(WEB)
    endpoint = endpoint_of(1, gen.PODS[0], sec_identity=number)
    with node.intent.db.write() as txn:
        txn.insert(node.intent.endpoints, endpoint)

    node.now += KEPT_S
    node.identities.drop_unused()
    while_used = node.knows(number)
    with node.intent.db.write() as txn:
        txn.delete(node.intent.endpoints, endpoint.endpoint_id)
    node.identities.drop_unused()

    assert while_used is not None
    assert node.knows(number) is None


async def test_a_number_of_an_earlier_agent_s_own_is_not_given_other_labels(sqlite):
    first = NODE_LOCAL_IDENTITIES[0]
    node = Node(sqlite, in_use={first})
    node.store.away = True

    assert await node.identities.number_for(WEB) == first + 1


async def test_an_identity_that_the_store_lost_is_created_again_under_its_number(sqlite):
    node = Node(sqlite)
    number = await node.identities.number_for(WEB)
    await sqlite.delete(CiliumIdentity, str(number))
    with node.intent.db.write() as txn:
        txn.delete(node.intent.identities, number)

    assert node.identities.known(WEB) is None
    assert await node.identities.number_for(WEB) == number
    assert identity_of_resource(await sqlite.get(CiliumIdentity, str(number))) == Identity(number, WEB)


async def test_of_two_numbers_for_one_label_set_everybody_uses_the_lower(sqlite):
    node = Node(sqlite)
    with node.intent.db.write() as txn:
        for number in (5000, 400):
            txn.insert(node.intent.identities, Identity(number, WEB))

    assert node.identities.known(WEB) == 400


async def test_when_all_numbers_are_taken_that_is_what_the_error_says(sqlite):
    node = Node(sqlite)
    with node.intent.db.write() as txn:
        for number in CLUSTER_IDENTITIES:
            txn.insert(node.intent.identities, Identity(number, Labels.parse(f"k8s:number={number}")))

    with pytest.raises(IdentitiesExhaustedError, match="all 65280 identity numbers are taken"):
        await node.identities.number_for(WEB)


# == in the kernel's maps ==


def test_an_exchange_of_numbers_changes_no_verdict_at_any_write():
    """From a number of the node's own to the cluster's: same labels, so same bits, and those are there first."""
    own, shared = NODE_LOCAL_IDENTITIES[0], 4711
    policies = gen.parsed(
        [
            {
                "apiVersion": "cilium.io/v2",
                "kind": "CiliumNetworkPolicy",
                "metadata": {"name": "front", "namespace": "a"},
                "spec": {
                    "endpointSelector": {},
                    "ingress": [{"fromEndpoints": [{"matchLabels": {"app": "web"}}]}],
                },
            }
        ]
    )
    peer, subject = endpoint_of(1, gen.PODS[0], sec_identity=own), ENDPOINTS[1]
    asked = [gen.Connection(gen.PODS[1], gen.PODS[0], direction, 6, 80) for direction in (1, 2)]
    agent = Agent(Kernel())
    with agent.intent.db.write() as txn:
        txn.insert(agent.intent.identities, Identity(own, gen.PODS[0].end.labels))
    agent.change(endpoints=[peer, subject], policies=policies)
    before = agent.verdicts(asked)
    seen = []
    for fake in agent.kernel.maps.values():

        def watched(entries, update=fake.update_batch, name=fake.name):
            seen.append(name)
            return update(entries)

        fake.update_batch = watched
    with agent.intent.db.write() as txn:
        txn.insert(agent.intent.identities, Identity(shared, gen.PODS[0].end.labels))
    agent.change(endpoints=[endpoint_of(1, gen.PODS[0], sec_identity=shared)])

    assert before == agent.verdicts(asked) == [(True, False), (True, False)]
    assert seen.index("identity_bits") < seen.index("ipcache4") < seen.index("endpoints4")


def test_an_identity_that_the_store_lost_keeps_its_meaning_while_somebody_has_it():
    agent = joined(pod("web", "10.0.1.1", identity=1005))
    agent.change(policies=gen.parsed([RULE, FRONT]), endpoints=ENDPOINTS[:1])
    before = dict(agent.targets.bits.tracker.realized)

    with agent.intent.db.write() as txn:
        txn.delete(agent.intent.identities, 1005)
    agent.run()
    meanwhile = dict(agent.targets.bits.tracker.realized)
    with agent.intent.db.write() as txn:
        txn.delete(agent.intent.remote_endpoints, pod("web", "10.0.1.1").key)
    agent.run()

    assert meanwhile == before
    assert {identity for identity, _ in before} - {identity for identity, _ in agent.targets.bits.tracker.realized} == {
        1005
    }


FRONT = {
    "apiVersion": "cilium.io/v2",
    "kind": "CiliumNetworkPolicy",
    "metadata": {"name": "front", "namespace": "a"},
    "spec": {
        "endpointSelector": {},
        "ingress": [{"fromEndpoints": [{"matchLabels": {"k8s:io.kubernetes.pod.namespace": "b"}}]}],
    },
}


async def test_pods_start_although_somebody_wrote_nonsense_under_the_number_of_their_labels(sqlite):
    other = Node(sqlite)
    number = await other.identities.number_for(WEB)
    await sqlite.delete(CiliumIdentity, str(number))
    node = Node(sqlite)

    async def unreadable(kind, name, namespace=""):
        if name == str(number):
            raise ResourceUnreadable(f"CiliumIdentity {name} is kept in a form that this version does not read")
        return await sqlite.get(kind, name, namespace)

    async def taken(resource):
        if resource.metadata.name == str(number):
            raise AlreadyExists(f"CiliumIdentity {number} exists")
        return await sqlite.create(resource)

    node.store.get, node.store.create = unreadable, taken
    found = await node.identities.number_for(WEB)

    assert found in CLUSTER_IDENTITIES
    assert found != number
