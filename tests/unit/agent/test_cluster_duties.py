"""What an agent does for the cluster's bookkeeping: signs of life, marks taken off, pod CIDRs asked for and kept."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from pycilium.agent.config import AgentConfig
from pycilium.agent.endpoints.identities import Identities
from pycilium.agent.intent import Intent
from pycilium.agent.nodes.cidrs import PodCidrRequest, PodCidrs
from pycilium.agent.nodes.heartbeat import NODE_LEASES, Heartbeat
from pycilium.agent.waiting import WaitingService
from pycilium.errors import AgentUnavailable, InvalidResource, StoreUnavailable
from pycilium.identity import MARK
from pycilium.model.identity import Identity
from pycilium.model.labels import Labels, pod_labels
from pycilium.model.resources import CiliumIdentity, CiliumNode, Lease, ObjectMeta
from pycilium.model.resources.cilium_objects import IpamSpec
from pycilium.store.sqlite import SqliteStore

WEB = pod_labels({"app": "web"}, "default")


@pytest.fixture
async def store(tmp_path):
    opened = SqliteStore(tmp_path / "store.db")
    yield opened
    await opened.close()


async def beats(store, between, *, renew=True) -> list[str]:
    """Runs a heartbeat; `between` are awaited after each beat, and then it ends. Gives what was published anew."""
    removed: list[str] = []
    told = {"node1"}
    steps = iter(between)

    async def sleep(_: float) -> None:
        step = next(steps, None)
        if step is None:
            raise asyncio.CancelledError
        await step()
        told.clear()
        told.update(node.metadata.name for node in (await store.list(CiliumNode)).items)

    async def publish() -> None:
        removed.append("published")
        await store.create(CiliumNode(metadata=ObjectMeta(name="node1")))

    await store.create(CiliumNode(metadata=ObjectMeta(name="node1")))

    with pytest.raises(asyncio.CancelledError):
        await Heartbeat(store, "node1", 40, lambda: bool(told), publish, renew=renew, sleep=sleep).run()
    return removed


class TestHeartbeat:
    async def test_every_beat_is_a_new_version_of_the_lease(self, store):
        versions = []

        async def look() -> None:
            versions.append((await store.get(Lease, "node1", NODE_LEASES)).metadata.resource_version)

        assert await beats(store, [look, look, look]) == []
        assert len(set(versions)) == 3

    async def test_a_node_that_was_removed_publishes_itself_again(self, store):
        async def remove() -> None:
            await store.delete(Lease, "node1", NODE_LEASES)
            await store.delete(CiliumNode, "node1")

        async def nothing() -> None:
            return

        assert await beats(store, [nothing, remove, nothing, nothing]) == ["published"]
        assert (await store.get(Lease, "node1", NODE_LEASES)).spec.holder_identity == "node1"

    async def test_a_node_that_was_published_just_now_is_given_time_to_be_told_of(self, store):
        async def remove() -> None:
            await store.delete(CiliumNode, "node1")

        async def back() -> None:
            await store.create(CiliumNode(metadata=ObjectMeta(name="node1")))

        assert await beats(store, [remove, back]) == []

    async def test_where_kubelet_gives_the_sign_of_life_the_lease_is_left_to_it(self, store):
        async def remove() -> None:
            await store.delete(CiliumNode, "node1")

        async def nothing() -> None:
            return

        assert await beats(store, [nothing, remove, nothing, nothing], renew=False) == ["published"]
        assert not (await store.list(Lease)).items

    async def test_a_sign_of_life_that_the_store_refuses_ends_no_agent(self, store):
        async def refuse(resource):
            raise InvalidResource('namespaces "kube-node-lease" not found', source=resource.metadata.name)

        async def refuse_from_now_on() -> None:
            store.replace = refuse

        async def nothing() -> None:
            return

        assert await beats(store, [refuse_from_now_on, nothing, nothing]) == []


class TestMarks:
    @pytest.fixture
    def intent(self):
        return Intent.new()

    async def marked(self, store, intent, identities) -> CiliumIdentity:
        resource = await store.create(
            CiliumIdentity(metadata=ObjectMeta(name="300", annotations={MARK: "then"}), security_labels=WEB.to_map())
        )
        with intent.db.write() as txn:
            txn.insert(intent.identities, identities.marks.identity(resource))
        return resource

    async def test_a_marked_identity_is_freed_of_its_mark_before_it_is_used(self, store, intent):
        identities = Identities(store, intent)
        await self.marked(store, intent, identities)

        assert await identities.number_for(WEB) == 300
        assert (await store.get(CiliumIdentity, "300")).metadata.annotations == {}

    async def test_one_that_was_deleted_first_is_created_anew(self, store, intent):
        identities = Identities(store, intent)
        await self.marked(store, intent, identities)
        await store.delete(CiliumIdentity, "300")

        assert await identities.number_for(WEB) == 300
        assert Labels.from_map((await store.get(CiliumIdentity, "300")).security_labels) == WEB
        assert intent.db.snapshot().get(intent.identities, 300) == Identity(300, WEB)


class Away:
    """A store that does not answer."""

    async def get(self, kind, name, namespace=""):
        raise StoreUnavailable("the store is away")


class TestPodCidrs:
    @pytest.fixture
    def config(self, tmp_path):
        return AgentConfig(node_name="node1", ipam="cluster-pool", run_dir=str(tmp_path / "run"))

    async def give(self, store, *cidrs: str) -> None:
        while True:
            nodes = (await store.list(CiliumNode)).items
            if nodes:
                break
            await asyncio.sleep(0.01)
        spec = msgspec.structs.replace(nodes[0].spec, ipam=IpamSpec(pod_cidrs=cidrs))
        await store.replace(msgspec.structs.replace(nodes[0], spec=spec))

    async def test_the_agent_asks_and_waits_and_remembers(self, store, config):
        request = PodCidrRequest(config, store)
        waiting = asyncio.create_task(request.obtained())
        await self.give(store, "10.0.7.0/24", "fd00::700/120")

        assert await waiting == PodCidrs("10.0.7.0/24", "fd00::700/120")
        assert await PodCidrRequest(config, Away()).obtained() == PodCidrs("10.0.7.0/24", "fd00::700/120")

    async def test_a_node_that_was_removed_asks_for_what_it_had(self, store, config):
        waiting = asyncio.create_task(PodCidrRequest(config, store).obtained())
        await self.give(store, "10.0.7.0/24", "fd00::700/120")
        await waiting
        await store.delete(CiliumNode, "node1")

        again = await PodCidrRequest(config, store).obtained()

        assert again == PodCidrs("10.0.7.0/24", "fd00::700/120")
        assert (await store.get(CiliumNode, "node1")).spec.ipam.pod_cidrs == ("10.0.7.0/24", "fd00::700/120")

    async def test_a_family_that_is_off_is_not_waited_for(self, store, config):
        only_ipv4 = msgspec.structs.replace(config, ipv6_pod_cidr=None)
        waiting = asyncio.create_task(PodCidrRequest(only_ipv4, store).obtained())
        await self.give(store, "10.0.7.0/24")

        assert await waiting == PodCidrs("10.0.7.0/24", None)

    async def test_what_it_waits_for_is_the_operators_reason(self, store, config):
        request = PodCidrRequest(config, store)
        waiting = asyncio.create_task(request.obtained())
        await self.give(store)
        patch = {"ipam": {"operator-status": {"error": "no IPv4 pod CIDR is left"}}}
        await store.patch_status(CiliumNode, "node1", "", patch)
        while "no IPv4 pod CIDR is left" not in request.reason:  # noqa: ASYNC110  a condition, not an event
            await asyncio.sleep(0.01)
        waiting.cancel()

        with pytest.raises(AgentUnavailable, match="node1 no pod CIDR yet: no IPv4 pod CIDR is left"):
            await WaitingService(config, lambda: request.reason).cni_status(None)
