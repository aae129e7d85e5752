"""Watches of many kinds: a write wakes those that it concerns."""

import asyncio
from contextlib import aclosing, contextmanager

import pytest

from pycilium.errors import StoreUnavailable
from pycilium.model.resources import Namespace, ObjectMeta, Pod
from pycilium.store.kind_news import KindNews, Newest
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

    async def look(self, after: int) -> Newest:
        self.looks.append(after)
        if self.failure is not None:
            raise self.failure
        return self.newest

    async def wake(self, version: int, **of_kinds: int) -> None:
        self.newest = Newest(version, self.newest.compacted, of_kinds)
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

        assert await services == 12


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

            assert await services == position


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
