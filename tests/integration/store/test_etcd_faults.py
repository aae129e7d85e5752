"""What happens to calls and watches when members of an etcd cluster go away, stand still or forget."""

from __future__ import annotations

import asyncio
import gc
import random
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress

import pytest

from pycilium.errors import NotFound, ResourceUnreadable, StoreError, StoreUnavailable, WatchExpired
from pycilium.model.resources import Namespace, ObjectMeta, Pod
from pycilium.store import ResourceList, follow
from pycilium.store.etcd import EtcdStore, parse_address, watches
from tests.integration.store.etcd_cluster import Cluster, free_ports
from tests.unit.store.conformance import names, pod, watching

PATIENT_S = 60.0
"""For what is to last through an outage, on a busy machine."""
IMPATIENT_S = 1.0


@asynccontextmanager
async def opened(url, *, timeout_s=PATIENT_S):
    store = EtcdStore(parse_address(url), timeout_s=timeout_s)
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
def single():
    with Cluster() as cluster:
        yield cluster


@pytest.fixture
def three():
    with Cluster(3) as cluster:
        yield cluster


class Following:
    """A table that a follower keeps equal to the store's pods; a change that comes twice or too late is an error."""

    def __init__(self):
        self.pods, self.lists, self.last = {}, 0, (0, "")
        self.task = None

    async def run(self, store):
        async with aclosing(follow(store, Pod)) as steps:
            async for step in steps:
                self._take(step)

    def _take(self, step):
        if isinstance(step, ResourceList):
            self.lists += 1
            self.pods = {each.metadata.name: each for each in step.items}
            self.last = (int(step.resource_version) + 1, "")
            return
        change = (int(step.object.metadata.resource_version), step.object.metadata.name)
        assert change > self.last, "a change came twice or out of order"  # keys of one revision come in their order
        self.last = change
        if step.type == "DELETED":
            del self.pods[step.object.metadata.name]
        else:
            assert (step.type == "ADDED") == (step.object.metadata.name not in self.pods)
            self.pods[step.object.metadata.name] = step.object

    async def until_it_has(self, name):
        await self.until(lambda table: name in table.pods)

    async def until(self, condition):
        async with asyncio.timeout(PATIENT_S):
            while not condition(self):
                assert not self.task.done(), self.task.exception()
                await asyncio.sleep(0.01)


@asynccontextmanager
async def following(store):
    table = Following()
    table.task = asyncio.create_task(table.run(store))
    try:
        await table.until(lambda table: table.lists)
        yield table
    finally:
        table.task.cancel()
        await asyncio.wait([table.task])


class TestNobodyThere:
    async def test_a_call_fails_at_once_and_says_who_was_asked_and_why(self):
        (port,) = free_ports(1)
        async with opened(f"etcd://127.0.0.1:{port}") as store:
            with pytest.raises(StoreUnavailable, match=rf"127\.0\.0\.1:{port}: .*refused.*does it run"):
                await store.list(Pod)
            with pytest.raises(StoreUnavailable, match="refused"):
                await store.create(pod("web"))
            with pytest.raises(StoreUnavailable, match="refused"):
                await anext(store.watch(Pod, "1"))

    async def test_a_socket_that_nobody_listens_on_is_named(self, tmp_path):
        async with opened(f"etcd+unix://{tmp_path}/etcd.sock") as store:
            with pytest.raises(StoreUnavailable, match=r"\(unix:/.*/etcd\.sock: No such file or directory\)"):
                await store.list(Pod)

    async def test_a_server_that_says_nothing_is_left_when_the_time_is_over(self, single):
        async with opened(single.url, timeout_s=IMPATIENT_S) as store:
            await store.create(pod("web"))
            single.members[0].pause()

            with pytest.raises(StoreUnavailable, match="no answer in time"):
                await store.list(Pod)
            with pytest.raises(
                StoreUnavailable, match="write of Pod default/new was lost: it may have been kept or not"
            ):
                await store.create(pod("new"))

            single.members[0].resume()
        async with opened(single.url) as store:
            assert (await store.get(Pod, "web", "default")).metadata.name == "web"


class TestRestart:
    async def test_a_watch_goes_on_after_a_crash_of_the_only_member(self, single):
        async with opened(single.url) as store, following(store) as table:
            for turn in range(3):
                await store.create(pod(f"pod{turn}"))
                await table.until_it_has(f"pod{turn}")
                single.members[0].kill()
                single.start()
            await store.create(pod("last"))
            await table.until_it_has("last")

            assert sorted(table.pods) == ["last", "pod0", "pod1", "pod2"]
            assert table.lists == 1

    async def test_what_was_written_while_a_watch_was_cut_off_arrives(self, three):
        """The watch's member is down; others take the writes; the watch goes on at one of them."""
        url = f"etcd://127.0.0.1:{three.ports[0]}"
        async with opened(url) as one_eyed, opened(three.url) as store, following(one_eyed) as table:
            three.members[0].kill()
            for turn in range(5):
                await store.apply([pod("web", labels={"turn": str(turn)})])
            three.start(0)
            await table.until(lambda table: "web" in table.pods and table.pods["web"].metadata.labels["turn"] == "4")

            assert table.lists == 1

    async def test_a_watch_ends_when_nobody_takes_it_for_as_long_as_a_call_may_take(self, single):
        async with opened(single.url, timeout_s=IMPATIENT_S) as store:
            async with watching(store, Pod, (await store.list(Pod)).resource_version) as next_event:
                single.members[0].kill()

                with pytest.raises(StoreUnavailable, match=r"refused|broke off|ended the stream"):
                    await next_event()
            single.start()
            assert names(await store.list(Pod)) == []

    async def test_what_was_compacted_while_a_watch_was_cut_off_makes_its_follower_list_again(self, three):
        async with (
            opened(f"etcd://127.0.0.1:{three.ports[0]}") as one_eyed,
            opened(f"etcd://127.0.0.1:{three.ports[1]},127.0.0.1:{three.ports[2]}") as store,
            following(one_eyed) as table,
        ):
            three.members[0].kill()
            for turn in range(5):
                await store.apply([pod("web", labels={"turn": str(turn)})])
            version = (await store.list(Pod)).resource_version
            three.start(0)
            three.etcdctl("compact", version)
            await table.until(lambda table: "web" in table.pods and table.pods["web"].metadata.labels["turn"] == "4")

            assert table.lists in (1, 2)  # 1: it was quicker than the compaction
            with pytest.raises(WatchExpired, match="compacted"):
                await anext(store.watch(Pod, "1"))

    async def test_another_cluster_in_the_same_place_makes_followers_list_again(self):
        with Cluster() as first:
            async with opened(first.url) as store, following(store) as table:
                await store.create(pod("old"))
                await table.until(lambda table: table.pods)
                first.stop()
                for folder in first.folder.glob("m?"):
                    folder.rename(folder.with_suffix(".gone"))
                first.start()
                await table.until(lambda table: not table.pods)

                assert table.lists == 2

    async def test_a_version_that_etcd_has_not_reached_expires(self, single):
        async with opened(single.url) as store:
            version = int((await store.list(Pod)).resource_version)

            with pytest.raises(WatchExpired, match="restored from a copy: list again"):
                await anext(store.watch(Pod, str(version + 5)))


class TestQuorum:
    async def test_the_loss_of_one_member_is_hardly_noticed(self, three):
        async with opened(three.url) as store, following(store) as table:
            for index in range(3):
                three.members[index].kill()
                await store.create(pod(f"without{index}"))
                await table.until_it_has(f"without{index}")
                three.start(index)

            assert table.lists == 1

    async def test_without_a_quorum_calls_fail_and_with_it_everything_goes_on(self, three):
        async with (
            opened(three.url) as patient,
            opened(three.url, timeout_s=IMPATIENT_S) as impatient,
            following(patient) as table,
        ):
            await impatient.create(pod("before"))
            for member in three.members[:2]:
                member.kill()

            with pytest.raises(StoreUnavailable, match="etcd cannot be used"):
                await impatient.list(Pod)
            with pytest.raises(StoreUnavailable, match="etcd cannot be used"):
                await impatient.create(pod("never"))
            three.start(0)
            await patient.create(pod("after"))
            await table.until(lambda table: {"before", "after"} <= set(table.pods))

            assert table.lists == 1

    async def test_a_watch_at_a_member_that_stands_still_moves_to_another(self, three):
        async with opened(three.url) as store, opened(three.url) as writer, following(store) as table:
            index = store._connection._turn
            three.members[index].pause()
            try:
                await writer.create(pod("web"))
                await table.until_it_has("web")
            finally:
                three.members[index].resume()

            assert table.lists == 1

    @pytest.mark.parametrize("seed", [1, 2])
    async def test_a_follower_ends_equal_to_a_fresh_list_whatever_died_meanwhile(self, three, seed):
        chance = random.Random(seed)
        async with AsyncExitStack() as stack:
            stores = [await stack.enter_async_context(opened(three.url)) for _ in range(3)]
            table = await stack.enter_async_context(following(stores[0]))
            writers = [Writer(store, random.Random(f"{seed} {index}")) for index, store in enumerate(stores)]
            async with asyncio.TaskGroup() as tasks:
                running = [tasks.create_task(writer.run()) for writer in writers]
                for _ in range(6):
                    victim = chance.randrange(3)
                    three.members[victim].kill()
                    if chance.random() < 0.7:
                        await writers[0].until_it_wrote(chance.randrange(5))
                    await asyncio.to_thread(three.start, victim)
                    await writers[1].until_it_wrote(chance.randrange(5))
                for task in running:
                    task.cancel()
            await stores[1].create(pod("the-end"))
            await table.until_it_has("the-end")

            fresh = await stores[2].list(Pod)
            assert table.pods == {each.metadata.name: each for each in fresh.items}


class Writer:
    """Changes pods at random; a write that fails is an error, as its store is patient."""

    def __init__(self, store, chance):
        self._store, self._chance = store, chance
        self._wrote = asyncio.Event()

    async def run(self):
        while True:
            name = f"pod{self._chance.randrange(8)}"
            with suppress(NotFound):
                if self._chance.random() < 0.3:
                    await self._store.delete(Pod, name, "default")
                else:
                    labels = {"value": str(self._chance.randrange(1000))}
                    await self._store.apply([pod(name, labels=labels), pod(f"{name}-twin")])
                self._wrote.set()

    async def until_it_wrote(self, count):
        async with asyncio.timeout(PATIENT_S):
            for _ in range(count):
                self._wrote.clear()
                await self._wrote.wait()


class Wire:
    """A TCP proxy before a member that can lose the next answer, together with its connection."""

    def __init__(self, port):
        self._port = port
        self.lose_next_answer = False
        self._open = []

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self._server.close()
        for writer in self._open:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def _serve(self, reader, writer):
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        self._open += [writer, back]
        await asyncio.gather(self._pump(reader, back, answers=False), self._pump(there, writer, answers=True))

    async def _pump(self, source, sink, *, answers):
        with suppress(ConnectionError):
            while chunk := await source.read(1 << 16):
                # Frames of flow control and settings are short, and an answer to a transaction is not.
                if answers and self.lose_next_answer and len(chunk) > 60:
                    self.lose_next_answer = False
                    break
                sink.write(chunk)
                await sink.drain()
        sink.close()


class TestLostAnswers:
    @pytest.fixture
    async def wire(self, single):
        async with Wire(single.ports[0]) as wire:
            yield wire

    async def test_a_write_whose_answer_was_lost_is_recognized_as_kept(self, wire):
        async with opened(f"etcd://127.0.0.1:{wire.port}") as store:
            wire.lose_next_answer = True
            made = await store.create(pod("web"))
            assert not wire.lose_next_answer
            assert await store.get(Pod, "web", "default") == made
            version = made.metadata.resource_version

            wire.lose_next_answer = True
            await store.delete(Pod, "web", "default")
            assert not wire.lose_next_answer

            async with watching(store, Pod, version) as next_event:
                await store.create(Namespace(metadata=ObjectMeta(name="other")))
                await store.create(pod("next"))
                assert [(await next_event()).type for _ in range(2)] == ["DELETED", "ADDED"]


class TestMuch:
    async def test_a_list_of_many_pages_is_of_one_moment(self, single):
        """While all are being deleted, 128 at a time and in order: every list shows a number of whole steps."""
        pods = [pod(f"pod{number:04}") for number in range(2500)]
        async with opened(single.url) as store, opened(single.url) as writer:
            await store.apply(pods)
            deleting = asyncio.create_task(writer.delete_all([each.key for each in pods]))
            seen = []
            while not deleting.done():
                seen.append([item.metadata.name for item in (await store.list(Pod)).items])

            whole_steps = [[each.metadata.name for each in pods[start:]] for start in (*range(0, 2500, 128), 2500)]
            assert [found for found in seen if found not in whole_steps] == []
            assert len(await deleting) == 2500
            assert names(await store.list(Pod)) == []

    async def test_a_watch_whose_reader_is_slow_loses_nothing(self, single, monkeypatch):
        monkeypatch.setattr(watches, "MAX_WAITING", 10)
        async with opened(single.url) as store:
            async with watching(store, Pod, (await store.list(Pod)).resource_version) as next_event:
                await store.create(pod("first"))
                assert (await next_event()).object.metadata.name == "first"
                for start in range(0, 200, 20):
                    await store.apply([pod(f"pod{start + number}") for number in range(20)])
                got = [(await next_event()).object.metadata.name for _ in range(200)]

            assert got == [f"pod{number}" for number in range(200)]

    async def test_an_apply_of_more_than_a_transaction_takes_is_checked_before_anything_is_written(self, single):
        async with opened(single.url) as store:
            await store.create(pod("there"))
            stale = pod("there", labels={"a": "b"}).with_metadata(resource_version="1")

            with pytest.raises(StoreError, match="read it again"):
                await store.apply([*(pod(f"pod{number}") for number in range(300)), stale])
            assert names(await store.list(Pod)) == ["default/there"]

    async def test_what_is_too_large_for_etcd_is_refused_as_such(self, single):
        async with opened(single.url) as store:
            with pytest.raises(Exception, match=r"larger than etcd takes at once: 1\.5 MiB"):
                await store.create(pod("web", note="x" * 2_000_000))
            assert names(await store.list(Pod)) == []

    async def test_a_value_that_is_no_resource_is_named_and_set_aside_and_can_be_deleted(self, single):
        async with opened(single.url) as store:
            made = await store.create(pod("fine"))
            version = (await store.list(Pod)).resource_version
            broken = pod("broken").key
            async with watching(store, Pod, version) as next_event:
                single.etcdctl("put", "/pycilium/Pod/default/broken", "{")
                seen = await next_event()
                listed = await store.list(Pod)
                with pytest.raises(ResourceUnreadable, match="Pod default/broken is kept in a form"):
                    await store.apply([pod("broken")])
                await store.delete(Pod, "broken", "default")
                with pytest.raises(WatchExpired, match="default/broken, which could not be read, was deleted"):
                    await next_event()

            assert (seen.key, listed.unreadable, listed.items) == (broken, (seen,), (made,))
            assert (await store.list(Pod)).unreadable == ()


class TestLeftBehind:
    async def test_a_stream_that_breaks_off_leaves_no_generator_that_asyncio_fails_to_close(self, single):
        """It was said as `aclose(): asynchronous generator is already running`, in the log of an agent."""
        said = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
        async with opened(single.url) as store, following(store) as table:
            for name in ("first", "second", "third"):
                single.members[0].kill()
                single.start(0)
                await store.create(pod(name))
                await table.until_it_has(name)
            gc.collect()
            await asyncio.sleep(0.05)

        assert said == []
