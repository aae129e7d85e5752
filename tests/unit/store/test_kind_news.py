"""Watches of many kinds: a write wakes those that it concerns."""

import asyncio
import random
from contextlib import ExitStack, aclosing, contextmanager

import pytest

from pycilium.errors import StoreUnavailable
from pycilium.model.resources import Namespace, ObjectMeta, Pod
from pycilium.store.kind_news import KindNews, Newest, Sleeper
from pycilium.store.sqlite import SqliteStore


class FakeWakeups:
    """Wakes when a test says so."""

    def __init__(self) -> None:
        self.event = asyncio.Event()

    @contextmanager
    def subscribed(self):
        yield self.event


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class Log:
    """A log of changes, and who watches it."""

    def __init__(self) -> None:
        self.newest = Newest(10, 0, {})
        self.failure: StoreUnavailable | None = None
        self.looks: list[int] = []
        self.wakeups = FakeWakeups()
        self.news = KindNews(self.wakeups, self.look)

    async def look(self, after: int, kinds) -> Newest:
        self.looks.append(after)
        if self.failure is not None:
            raise self.failure
        return self.newest

    async def wake(self, version: int, *, events=None, **of_kinds: int) -> None:
        self.newest = Newest(version, self.newest.compacted, of_kinds, events or {})
        self.wakeups.event.set()
        await settle()


@contextmanager
def asleep(log: Log, kind: str, position: int):
    with log.news.subscribed(kind, 10) as sleeper:
        task = asyncio.create_task(sleeper.sleep(position))
        yield task
        task.cancel()


async def test_a_change_wakes_the_watches_of_its_kind_alone() -> None:
    log = Log()
    with log.news.subscribed("Node", 10), asleep(log, "Pod", 10) as pods, asleep(log, "Service", 10) as services:
        await settle()
        await log.wake(11, Pod=11)

        assert (pods.done(), services.done()) == (True, False)
        assert log.looks == [10]


async def test_a_watch_that_nothing_concerned_goes_on_from_the_last_look() -> None:
    log = Log()
    with log.news.subscribed("Node", 10), asleep(log, "Service", 10) as services:
        await settle()
        await log.wake(11, Pod=11)
        await log.wake(12, Pod=12)
        await log.wake(13, Service=13)

        assert await services == (12, None)


@pytest.mark.parametrize(
    ("position", "compacted"),
    [pytest.param(9, 0, id="it knows less than the look covers"), pytest.param(10, 11, id="changes were forgotten")],
)
async def test_a_watch_is_woken_if_the_look_cannot_say_that_nothing_concerned_it(position, compacted) -> None:
    log = Log()
    with log.news.subscribed("Node", 10):
        log.newest = Newest(10, compacted, {})
        with asleep(log, "Service", position) as services:
            await settle()
            await log.wake(12, Pod=12)

            assert await services == (position, None)


async def test_a_few_changes_are_told_to_the_watches_of_their_kind() -> None:
    log = Log()
    with log.news.subscribed("Node", 10), asleep(log, "Pod", 10) as pods, asleep(log, "Service", 10) as services:
        await settle()
        await log.wake(12, Pod=12, events={"Pod": ["a", "b"]})

        assert await pods == (12, ["a", "b"])
        assert not services.done()


async def test_what_is_told_twice_before_a_watch_runs_comes_in_order() -> None:
    sleeper = Sleeper("Pod")
    sleeping = asyncio.create_task(sleeper.sleep(10))
    await asyncio.sleep(0)

    sleeper.tell(["a"], 11)
    sleeper.tell(["b", "c"], 13)

    assert await sleeping == (13, ["a", "b", "c"])
    assert not sleeper.wake.is_set()


async def test_a_watch_that_has_to_look_looks_from_where_it_fell_asleep_whatever_it_was_told() -> None:
    sleeper = Sleeper("Pod")
    sleeping = asyncio.create_task(sleeper.sleep(10))
    await asyncio.sleep(0)

    sleeper.tell(["a"], 11)
    sleeper.let_look()

    assert await sleeping == (10, None)


async def test_a_watch_that_read_ahead_is_told_nothing_twice() -> None:
    log = Log()
    with log.news.subscribed("Node", 10), asleep(log, "Pod", 11) as pods:
        await settle()
        await log.wake(12, Pod=12, events={"Pod": ["seen already", "new"]})

        assert await pods == (11, None)


async def test_a_kind_that_nobody_watched_when_the_look_began_is_looked_for() -> None:
    log = Log()
    with ExitStack() as later, log.news.subscribed("Node", 10):
        await settle()
        look, late = log.news._look, []

        async def slow_look(after, kinds):
            late.append(later.enter_context(asleep(log, "Pod", 10)))
            await settle()
            return await look(after, kinds)

        log.news._look = slow_look
        await log.wake(11)

        assert await late[0] == (10, None)


async def test_a_store_that_fails_wakes_everybody() -> None:
    log = Log()
    log.failure = StoreUnavailable("gone")
    with asleep(log, "Pod", 10) as pods, asleep(log, "Service", 10) as services:
        await settle()
        await log.wake(11)

        assert (pods.done(), services.done()) == (True, True)


async def test_without_watches_nobody_looks() -> None:
    log = Log()
    with log.news.subscribed("Pod", 10):
        await settle()
    await log.wake(11, Pod=11)

    assert log.looks == []


class TestOnAFile:
    @pytest.fixture
    async def store(self, tmp_path):
        store = SqliteStore(tmp_path / "store.db", history=10)
        yield store
        await store.close()

    async def test_a_watch_of_a_quiet_kind_reads_no_changes_of_others(self, store, monkeypatch) -> None:
        looked: list[str] = []
        changes = store._file.changes
        monkeypatch.setattr(store._file, "changes", lambda kind, after: looked.append(kind) or changes(kind, after))
        version = (await store.list(Pod)).resource_version
        async with aclosing(store.watch(Pod, version)) as pods, aclosing(store.watch(Namespace, version)) as quiet:
            waiting = asyncio.ensure_future(anext(quiet))
            for turn in range(10):
                await store.create(Pod(metadata=ObjectMeta(name=f"pod-{turn}", namespace="default")))
                await anext(pods)

            assert looked.count("Namespace") <= 2  # before it first slept
            waiting.cancel()
            await asyncio.wait([waiting])

    async def test_changes_of_several_kinds_come_each_once_and_in_order_however_many_come_at_once(
        self, tmp_path
    ) -> None:
        path, seen = tmp_path / "busy.db", {Pod: [], Namespace: []}
        watching, writing = SqliteStore(path), SqliteStore(path)
        chance, written = random.Random(1), {Pod: [], Namespace: []}

        async def follow(kind) -> None:
            async with aclosing(watching.watch(kind, "0")) as events:
                async for event in events:
                    seen[kind].append(event.object.metadata.name)
                    if event.object.metadata.name == "last":
                        return
                    for _ in range(chance.choice([0, 0, 0, 3])):
                        await asyncio.sleep(0)

        tasks = [asyncio.create_task(follow(kind)) for kind in seen]
        for turn in range(60):
            names = [f"{turn}-{number}" for number in range(chance.choice([1, 1, 2, 5, 150]))]
            names = names if turn < 58 else ["last"]
            kind = chance.choice([Pod, Namespace]) if turn < 58 else (Pod, Namespace)[turn - 58]
            place = {"namespace": "default"} if kind is Pod else {}
            await writing.apply([kind(metadata=ObjectMeta(name=name, **place)) for name in names])
            written[kind] += names
        async with asyncio.timeout(20):
            await asyncio.gather(*tasks)
        assert seen == written
        await watching.close()
        await writing.close()
