"""What every backend of the store must do. A backend's test module subclasses StoreConformance and gives `make_backend`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pycilium.errors import AlreadyExists, Conflict, InvalidResource, NotFound, StoreUnavailable, WatchExpired
from pycilium.model.resources import (
    CiliumEndpoint,
    CiliumNetworkPolicy,
    CiliumNode,
    Lease,
    Namespace,
    ObjectMeta,
    Pod,
    Resource,
    ResourceKey,
    decode_documents,
)
from pycilium.store import Leases, ResourceList, Store, WatchEvent, follow, follow_as

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
CHECKED_OTHERWISE = [HealthCheck.function_scoped_fixture, HealthCheck.differing_executors]
"""Each example makes its own backend, and each backend's class runs the suite's properties for itself."""


class Backend(Protocol):
    """One place where resources are kept; every store opened from it sees the same ones."""

    def open(self, *, history: int = 1000) -> Store:
        """At the fixed time NOW. `history`: how many changes are kept at the least; at the most twice as many."""
        ...

    def remove(self) -> None: ...


def pod(name: str, namespace: str = "default", *, labels: dict[str, str] | None = None, **spec: Any) -> Pod:
    return Pod(metadata=ObjectMeta(name=name, namespace=namespace, labels=labels or {}), spec=spec)


def policy(name: str, app: str) -> CiliumNetworkPolicy:
    (resource,) = decode_documents(
        f"""
        apiVersion: cilium.io/v2
        kind: CiliumNetworkPolicy
        metadata: {{name: {name}}}
        spec:
          endpointSelector: {{matchLabels: {{app: {app}}}}}
          ingress: [{{}}]
        """
    )
    assert isinstance(resource, CiliumNetworkPolicy)
    return resource


@asynccontextmanager
async def watching(store: Store, kind: type[Any], version: str) -> AsyncGenerator[Callable[[], Any], None]:
    """Gives a function that waits for the next event, long enough for a busy machine."""
    async with aclosing(store.watch(kind, version)) as events:
        yield lambda: asyncio.wait_for(anext(events), 20)


async def asleep(store: Store, next_event: Callable[[], Any]) -> asyncio.Task[Any]:
    """A task that waits for the next event; its first look at the store is over once later ones are answered."""
    waiting = asyncio.create_task(next_event())
    for _ in range(2):
        await store.list(Pod)
    return waiting


def names(listed: ResourceList[Any]) -> list[str]:
    return [f"{item.metadata.namespace}/{item.metadata.name}" for item in listed.items]


class StoreConformance:
    @pytest.fixture
    def make_backend(self) -> Callable[[], Backend]:
        raise NotImplementedError

    @pytest.fixture
    def backend(self, make_backend):
        backend = make_backend()
        yield backend
        backend.remove()

    @pytest.fixture
    async def store(self, backend):
        store = backend.open()
        yield store
        await store.close()

    @pytest.fixture
    async def other(self, backend):
        """The same resources, opened a second time."""
        store = backend.open()
        yield store
        await store.close()

    async def test_a_created_resource_is_there_for_everybody_with_what_the_store_adds(self, store, other):
        made = await store.create(pod("web", labels={"app": "web"}, nodeName="node1"))

        assert await other.get(Pod, "web", "default") == made
        assert made.metadata.uid
        assert made.metadata.resource_version
        assert made.metadata.generation == 1
        assert made.metadata.creation_timestamp == NOW

    async def test_what_is_not_there_is_not_found(self, store):
        with pytest.raises(NotFound, match="Pod default/web does not exist"):
            await store.get(Pod, "web", "default")
        with pytest.raises(NotFound):
            await store.replace(pod("web"))
        with pytest.raises(NotFound):
            await store.delete(Pod, "web", "default")
        with pytest.raises(NotFound):
            await store.patch_status(Pod, "web", "default", {})

    async def test_a_taken_name_is_refused_and_nothing_changes(self, store):
        made = await store.create(pod("web"))

        with pytest.raises(AlreadyExists, match="Pod default/web"):
            await store.create(pod("web", labels={"other": "labels"}))

        assert await store.get(Pod, "web", "default") == made

    async def test_a_name_may_stand_once_in_each_namespace_and_kind(self, store):
        await store.create(pod("web", "default"))
        await store.create(pod("web", "prod"))
        await store.create(CiliumEndpoint(metadata=ObjectMeta(name="web", namespace="prod")))

        assert names(await store.list(Pod)) == ["default/web", "prod/web"]
        assert names(await store.list(Pod, "prod")) == ["prod/web"]
        assert names(await store.list(CiliumEndpoint)) == ["prod/web"]
        assert names(await store.list(CiliumNode)) == []

    async def test_what_breaks_a_rule_of_its_kind_is_not_kept(self, store):
        with pytest.raises(InvalidResource, match=r"metadata\.labels\.app"):
            await store.create(pod("web", labels={"app": "x" * 64}))

        assert names(await store.list(Pod)) == []

    async def test_a_replaced_resource_keeps_its_uid_and_birth(self, store):
        made = await store.create(pod("web", labels={"app": "old"}))

        changed = await store.replace(pod("web", labels={"app": "new"}))

        assert changed == await store.get(Pod, "web", "default")
        assert changed.metadata.labels == {"app": "new"}
        assert changed.metadata.uid == made.metadata.uid
        assert changed.metadata.creation_timestamp == made.metadata.creation_timestamp
        assert changed.metadata.resource_version != made.metadata.resource_version

    async def test_a_replacement_made_from_an_old_version_conflicts(self, store, other):
        made = await store.create(pod("web"))
        await other.replace(made.with_metadata(labels={"by": "other"}))

        with pytest.raises(Conflict, match="read it again"):
            await store.replace(made.with_metadata(labels={"by": "us"}))
        with pytest.raises(Conflict):
            await store.delete(Pod, "web", "default", resource_version=made.metadata.resource_version)

        assert (await store.get(Pod, "web", "default")).metadata.labels == {"by": "other"}

    async def test_a_replacement_made_before_its_name_was_given_anew_conflicts(self, store):
        made = await store.create(pod("web"))
        await store.delete(Pod, "web", "default")
        await store.create(pod("web"))

        with pytest.raises(Conflict, match="made anew"):
            await store.replace(made.with_metadata(resource_version="", labels={"a": "b"}))

    async def test_of_many_who_replace_one_version_one_wins(self, store, other):
        made = await store.create(pod("web"))

        results = await asyncio.gather(
            *((store, other)[turn % 2].replace(made.with_metadata(labels={"by": str(turn)})) for turn in range(10)),
            return_exceptions=True,
        )

        assert sum(isinstance(result, Pod) for result in results) == 1
        assert sum(isinstance(result, Conflict) for result in results) == 9

    async def test_generation_counts_changes_of_the_spec_alone(self, store):
        made = await store.create(policy("p", "a"))
        labelled = await store.replace(made.with_metadata(labels={"a": "b"}))
        status = await store.patch_status(CiliumNetworkPolicy, "p", "default", {"conditions": []})
        changed = await store.replace(policy("p", "b"))

        assert [each.metadata.generation for each in (made, labelled, status, changed)] == [1, 1, 1, 2]

    async def test_status_changes_by_patches_alone(self, store):
        condition = {"type": "Valid", "status": "True"}
        made = await store.create(policy("p", "a"))
        patched = await store.patch_status(CiliumNetworkPolicy, "p", "default", {"conditions": [condition]})

        replaced = await store.replace(policy("p", "b"))

        assert made.status is None
        assert patched.status is not None
        assert replaced.status == patched.status
        assert replaced.spec != patched.spec

    async def test_status_patches_of_several_writers_merge(self, store, other):
        await store.create(pod("web"))

        await store.patch_status(Pod, "web", "default", {"phase": "Pending", "a": {"x": 1}})
        await other.patch_status(Pod, "web", "default", {"podIP": "10.0.0.1", "a": {"y": 2}})
        merged = await store.patch_status(Pod, "web", "default", {"phase": None})

        assert merged.status == {"podIP": "10.0.0.1", "a": {"x": 1, "y": 2}}

    async def test_a_status_that_breaks_the_schema_is_refused(self, store):
        await store.create(policy("p", "a"))

        with pytest.raises(InvalidResource, match="nonsense"):
            await store.patch_status(CiliumNetworkPolicy, "p", "default", {"nonsense": 1})
        await store.create(Lease(metadata=ObjectMeta(name="l", namespace="default")))
        with pytest.raises(InvalidResource, match="no status"):
            await store.patch_status(Lease, "l", "default", {"a": 1})

        assert (await store.get(CiliumNetworkPolicy, "p", "default")).status is None

    async def test_an_endpoint_without_a_status_subresource_is_replaced_with_its_status(self, store):
        metadata = ObjectMeta(name="web", namespace="default")
        (endpoint,) = decode_documents(
            "{apiVersion: cilium.io/v2, kind: CiliumEndpoint, metadata: {name: web}, status: {id: 7}}"
        )
        await store.create(CiliumEndpoint(metadata=metadata))

        assert isinstance(endpoint, CiliumEndpoint)
        assert (await store.replace(endpoint)).status == endpoint.status

    async def test_a_namespace_carries_its_name_as_a_label(self, store):
        made = await store.create(Namespace(metadata=ObjectMeta(name="prod", labels={"team": "a"})))

        assert made.metadata.labels == {"team": "a", "kubernetes.io/metadata.name": "prod"}

    async def test_apply_creates_changes_or_leaves(self, store):
        same = await store.create(pod("same"))
        await store.create(pod("changed"))

        applied = await store.apply([pod("new"), pod("changed", labels={"a": "b"}), pod("same")])

        assert [(each.outcome, each.object.metadata.name) for each in applied] == [
            ("created", "new"),
            ("configured", "changed"),
            ("unchanged", "same"),
        ]
        assert await store.get(Pod, "same", "default") == same

    async def test_apply_is_all_or_nothing(self, store):
        made = await store.create(pod("there"))
        stale = pod("there").with_metadata(resource_version="999999", labels={"a": "b"})

        with pytest.raises(Conflict):
            await store.apply([pod("new"), stale])
        with pytest.raises(InvalidResource):
            await store.apply([pod("new"), pod("bad", labels={"a b": ""})])
        with pytest.raises(InvalidResource, match="stands twice"):
            await store.apply([pod("new"), pod("new")])

        assert (await store.list(Pod)).items == (made,)

    async def test_delete_all_deletes_what_exists_and_says_what_did(self, store):
        await store.apply([pod("a"), pod("b")])
        keys = [ResourceKey("Pod", "default", name) for name in ("a", "missing")]

        assert list(await store.delete_all(keys)) == keys[:1]

        assert names(await store.list(Pod)) == ["default/b"]

    async def test_a_watch_gives_every_change_after_its_version_once_and_in_order(self, store, other):
        await store.create(pod("before"))
        version = (await store.list(Pod)).resource_version

        async with watching(store, Pod, version) as next_event:
            made = await other.create(pod("web"))
            changed = await store.patch_status(Pod, "web", "default", {"phase": "Running"})
            await store.create(Namespace(metadata=ObjectMeta(name="another-kind")))
            await other.delete(Pod, "web", "default")
            events = [await next_event() for _ in range(3)]

        assert [event.type for event in events] == ["ADDED", "MODIFIED", "DELETED"]
        assert [event.object for event in events[:2]] == [made, changed]
        assert events[2].object.metadata.uid == made.metadata.uid

    async def test_a_watch_that_waits_is_woken_by_another_store(self, store, other):
        async with watching(store, Pod, (await store.list(Pod)).resource_version) as next_event:
            waiting = asyncio.create_task(next_event())
            await asyncio.sleep(0)
            made = await other.create(pod("web"))

            assert await waiting == WatchEvent("ADDED", made)

    async def test_a_write_that_changes_nothing_is_no_event_and_no_version(self, store):
        made = await store.create(pod("web", labels={"a": "b"}))
        version = (await store.list(Pod)).resource_version

        assert await store.replace(pod("web", labels={"a": "b"})) == made
        assert await store.patch_status(Pod, "web", "default", {}) == made
        async with watching(store, Pod, version) as next_event:
            await store.create(pod("next"))

            assert (await next_event()).object.metadata.name == "next"

    async def test_a_watch_from_what_is_no_longer_kept_expires(self, backend):
        store = backend.open(history=10)
        first = (await store.list(Pod)).resource_version
        for turn in range(50):
            await store.apply([pod("web", labels={"turn": str(turn)})])

        async with watching(store, Pod, first) as next_event:
            with pytest.raises(WatchExpired, match="list again"):
                await next_event()
        async with watching(store, Pod, "nonsense") as next_event:
            with pytest.raises(WatchExpired):
                await next_event()
        await store.close()

    async def test_a_watch_that_keeps_up_never_expires_however_quiet_its_kind(self, backend):
        store = backend.open(history=100)
        async with watching(store, Pod, (await store.list(Pod)).resource_version) as next_event:
            waiting = asyncio.create_task(next_event())
            for turn in range(300):
                await store.apply([Namespace(metadata=ObjectMeta(name="busy", labels={"turn": str(turn)}))])
            made = await store.create(pod("web"))

            assert (await waiting).object == made
        await store.close()

    async def test_a_follower_that_fell_behind_lists_again(self, backend):
        store = backend.open(history=10)
        async with aclosing(follow(store, Pod)) as following:
            first = await anext(following)
            for turn in range(50):
                await store.apply([pod("web", labels={"turn": str(turn)})])

            second = await asyncio.wait_for(anext(following), 20)

        assert isinstance(first, ResourceList)
        assert isinstance(second, ResourceList)
        assert second.items[0].metadata.labels == {"turn": "49"}
        await store.close()

    async def test_a_follower_may_keep_of_each_resource_what_it_needs(self, store):
        await store.apply([pod("web", labels={"app": "web"}), pod("db", labels={"app": "db"})])
        async with aclosing(follow_as(store, Pod, lambda each: each.metadata.labels["app"])) as following:
            first = await anext(following)

        assert isinstance(first, ResourceList)
        assert first.items == ("db", "web")

    async def test_closing_ends_watches_and_refuses_further_calls(self, backend):
        store = backend.open()
        async with watching(store, Pod, "0") as next_event:
            waiting = await asleep(store, next_event)
            await store.close()

            with pytest.raises(StoreUnavailable, match="closed"):
                await waiting
        with pytest.raises(StoreUnavailable, match="closed"):
            await store.list(Pod)
        await store.close()

    async def test_resources_outlive_their_store(self, backend):
        first = backend.open()
        made = await first.create(policy("p", "web"))
        await first.close()

        second = backend.open()

        assert await second.get(CiliumNetworkPolicy, "p", "default") == made
        await second.close()

    async def test_a_lease_is_one_holders_until_it_is_released_or_runs_out(self, store):
        elapsed = [0.0]
        leases = Leases(store, elapsed=lambda: elapsed[0], clock=lambda: NOW)

        taken = await leases.acquire("leader", "a", 15)
        refused = await leases.acquire("leader", "b", 15)
        elapsed[0] += 10
        renewed = await leases.renew("leader", "a")
        still_refused = await leases.acquire("leader", "b", 15)
        elapsed[0] += 14
        refused_again = await leases.acquire("leader", "b", 15)
        elapsed[0] += 1
        taken_over = await leases.acquire("leader", "b", 15)
        lost = await leases.renew("leader", "a")
        await leases.release("leader", "b")
        after_release = await leases.acquire("leader", "a", 15)

        assert taken is not None
        assert refused is None
        assert renewed is not None
        assert still_refused is None
        assert refused_again is None
        assert taken_over is not None
        assert lost is None
        assert after_release is not None
        assert (taken.spec.lease_transitions, taken_over.spec.lease_transitions) == (0, 1)

    async def test_a_lease_is_judged_by_what_was_seen_of_it_and_by_no_time_written_in_it(self, store):
        old = Leases(store, clock=lambda: NOW - timedelta(days=400))
        young = Leases(store, clock=lambda: NOW + timedelta(days=400))

        await old.acquire("leader", "a", 15)

        assert await young.acquire("leader", "b", 15) is None
        await old.release("leader", "a")
        assert await young.acquire("leader", "b", 15) is not None
        assert await old.acquire("leader", "a", 15) is None

    async def test_a_deleted_lease_is_waited_out_by_who_saw_it(self, store):
        elapsed = [0.0]
        holder, other = Leases(store), Leases(store, elapsed=lambda: elapsed[0])
        await holder.acquire("leader", "a", 15)
        await other.acquire("leader", "b", 15)
        await store.delete(Lease, "leader", "kube-system")

        at_once = await other.acquire("leader", "b", 15)
        elapsed[0] += 15
        later = await other.acquire("leader", "b", 15)

        assert at_once is None
        assert later is not None
        assert await holder.renew("leader", "a") is None

    async def test_of_many_who_want_a_lease_one_gets_it(self, store, other):
        holders = [f"holder{number}" for number in range(8)]

        results = await asyncio.gather(
            *(Leases((store, other)[turn % 2]).acquire("leader", name, 15) for turn, name in enumerate(holders))
        )

        assert sum(result is not None for result in results) == 1

    @settings(max_examples=25, deadline=None, suppress_health_check=CHECKED_OTHERWISE)
    @given(data=st.data())
    def test_replaying_a_watch_upon_a_list_gives_the_list(self, make_backend, data):
        """Whatever was written, by whom and when the follower began."""
        steps = data.draw(st.lists(_STEP, max_size=25))
        begin = data.draw(st.integers(0, len(steps)))

        replayed, listed = asyncio.run(_replayed(make_backend(), steps, begin))

        assert replayed == listed


_STEP = st.tuples(
    st.sampled_from(["apply", "delete", "status", "other kind"]),
    st.sampled_from(["a", "b", "c"]),
    st.integers(0, 2),
    st.integers(0, 1),
)


async def _replayed(
    backend: Backend, steps: list[tuple[str, str, int, int]], begin: int
) -> tuple[dict[str, Resource], dict[str, Resource]]:
    stores = [backend.open(), backend.open()]
    for step in steps[:begin]:
        await _take(stores[step[3]], step)
    start = await stores[0].list(Pod)
    known: dict[str, Resource] = {item.metadata.name: item for item in start.items}
    async with watching(stores[0], Pod, start.resource_version) as next_event:
        for step in steps[begin:]:
            await _take(stores[step[3]], step)
        await stores[1].create(pod("the-end"))
        while "the-end" not in known:
            event = await next_event()
            known[event.object.metadata.name] = event.object
            if event.type == "DELETED":
                del known[event.object.metadata.name]
    listed = {item.metadata.name: item for item in (await stores[1].list(Pod)).items}
    for store in stores:
        await store.close()
    backend.remove()
    return known, listed


async def _take(store: Store, step: tuple[str, str, int, int]) -> None:
    what, name, value, _ = step
    try:
        match what:
            case "apply":
                await store.apply([pod(name, labels={"value": str(value)})])
            case "delete":
                await store.delete(Pod, name, "default")
            case "status":
                await store.patch_status(Pod, name, "default", {"value": value})
            case _:
                await store.apply([Namespace(metadata=ObjectMeta(name=name, labels={"value": str(value)}))])
    except NotFound:
        pass
