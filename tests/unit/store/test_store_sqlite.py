"""The embedded store: the conformance suite, and what only a file of several processes can go wrong with."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest

from pycilium.errors import (
    ConfigError,
    NotFound,
    PermissionRequired,
    ResourceUnreadable,
    StoreUnavailable,
    WatchExpired,
)
from pycilium.model.resources import Namespace, ObjectMeta, Pod, ResourceKey
from pycilium.store import open_blocking, open_store
from pycilium.store.sqlite import SqliteStore
from pycilium.store.sqlite_file import SqliteFile
from pycilium.testing.unprivileged import unprivileged
from tests.unit.store.conformance import NOW, StoreConformance, asleep, names, pod, watching

SOURCE = Path(__file__).parents[3] / "src"


class SqliteBackend:
    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pycilium-store-"))
        self.path = self.folder / "store.db"

    def open(self, *, history=1000, lock_timeout_s=20.0):
        return SqliteStore(self.path, clock=lambda: NOW, history=history, lock_timeout_s=lock_timeout_s)

    def remove(self) -> None:
        shutil.rmtree(self.folder)


class TestSqliteConforms(StoreConformance):
    @pytest.fixture
    def make_backend(self):
        return SqliteBackend


@pytest.fixture
def backend():
    backend = SqliteBackend()
    yield backend
    backend.remove()


def python(program: str, *arguments: object) -> subprocess.Popen[str]:
    """Another process, with the store's modules at hand."""
    header = """
    import asyncio, os, signal, sqlite3, sys
    from pathlib import Path
    from pycilium.model.resources import ObjectMeta, Pod
    from pycilium.store.sqlite import SqliteStore
    from pycilium.store.wakeups import waking_watchers

    path = Path(sys.argv[1])

    def pod(name):
        return Pod(metadata=ObjectMeta(name=name, namespace="default"))
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(header) + textwrap.dedent(program), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        stdout=subprocess.PIPE,
        text=True,
    )


class TestSeveralProcesses:
    async def test_a_watch_sees_what_another_process_writes(self, backend):
        store = backend.open()
        async with watching(store, Pod, "0") as next_event:
            waiting = asyncio.create_task(next_event())
            with python("asyncio.run(SqliteStore(path).create(pod('web')))", backend.path) as process:
                event = await waiting
                assert await asyncio.to_thread(process.wait) == 0

        assert (event.type, event.object.metadata.name) == ("ADDED", "web")
        await store.close()

    async def test_a_watch_sees_what_a_process_wrote_that_was_killed_right_after(self, backend):
        """The wake-up comes from the kernel's closing of the dead writer's files."""
        store = backend.open()
        program = """
        store = SqliteStore(path)
        commit = store._file.write
        import pycilium.store.sqlite_file as file
        end = file._transaction

        from contextlib import contextmanager
        @contextmanager
        def killed_after_commit(connection, mode):
            with end(connection, mode):
                yield
            if mode == "IMMEDIATE":
                os.kill(os.getpid(), signal.SIGKILL)

        file._transaction = killed_after_commit
        asyncio.run(store.create(pod("last-words")))
        """
        async with watching(store, Pod, "0") as next_event:
            waiting = asyncio.create_task(next_event())
            with python(program, backend.path) as process:
                event = await waiting
                assert await asyncio.to_thread(process.wait) == -9

        assert event.object.metadata.name == "last-words"
        await store.close()

    async def test_a_process_killed_within_its_write_leaves_nothing_of_it(self, backend):
        store = backend.open()
        program = """
        import pycilium.store.sqlite_file as file
        file.Transaction.finish = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        asyncio.run(SqliteStore(path).apply([pod("a"), pod("b")]))
        """
        with python(program, backend.path) as process:
            assert await asyncio.to_thread(process.wait) == -9

        assert (await store.list(Pod)).items == ()
        assert (await store.create(pod("a"))).metadata.resource_version == "1"
        await store.close()

    async def test_processes_that_open_a_new_store_at_once_all_succeed(self, backend):
        program = """
        async def main():
            store = SqliteStore(path)
            await store.create(pod(sys.argv[2]))
            await store.close()
        asyncio.run(main())
        """
        with ExitStack() as stack:
            processes = [stack.enter_context(python(program, backend.path, f"pod{number}")) for number in range(4)]
            codes = [process.wait() for process in processes]

        assert codes == [0, 0, 0, 0]

        store = backend.open()
        assert names(await store.list(Pod)) == [f"default/pod{number}" for number in range(4)]
        await store.close()

    def test_a_file_that_another_process_makes_while_one_looks_is_not_taken_for_a_strangers(self, backend, monkeypatch):
        connect = SqliteFile._connect
        others = []

        def make_it_meanwhile(statement: str) -> None:
            if statement == "PRAGMA user_version" and not others:
                others.append("tried")  # it must wait for us, and gives up soon
                with suppress(StoreUnavailable):
                    SqliteFile(backend.path, history=10, lock_timeout_s=0.05).close()

        def connect_watched(file):
            connection = connect(file)
            connection.set_trace_callback(make_it_meanwhile)
            return connection

        monkeypatch.setattr(SqliteFile, "_connect", connect_watched)

        SqliteFile(backend.path, history=10, lock_timeout_s=5).close()

        assert others == ["tried"]

    def test_a_new_store_opened_by_many_at_once_is_made_once(self, backend):
        """Over and over: one opener may look while another is half-way through making the file."""
        with ThreadPoolExecutor(4) as openers:
            for round_number in range(20):
                paths = [backend.folder / f"{round_number}.db"] * 4
                for file in openers.map(lambda path: SqliteFile(path, history=10, lock_timeout_s=20), paths):
                    file.close()


class TestDamage:
    def test_a_file_that_is_no_database_is_said_to_be_damaged_and_left_alone(self, backend):
        backend.path.write_bytes(b"this is not a database, it is a text\n" * 100)
        before = backend.path.read_bytes()

        with pytest.raises(StoreUnavailable, match=r"store\.db is damaged .*: stop what uses it, then restore it"):
            backend.open()

        assert backend.path.read_bytes() == before

    async def test_a_damaged_page_is_found_when_the_store_is_opened(self, backend):
        store = backend.open()
        await store.apply([pod(f"pod{number}") for number in range(200)])
        await store.close()
        size_bytes = backend.path.stat().st_size
        with backend.path.open("r+b") as file:
            file.seek(size_bytes // 2)
            file.write(b"\xff" * (size_bytes // 4))

        with pytest.raises(StoreUnavailable, match="damaged"):
            backend.open()

    async def test_a_resource_that_cannot_be_read_is_named_and_the_rest_goes_on(self, backend):
        store = backend.open()
        await store.apply([pod("good")])
        version = (await store.list(Pod)).resource_version
        odd = ResourceKey("Pod", "default", "odd")
        body = b'{"metadata": {"name": "odd", "namespace": "default"}, "spec": 7}'
        with closing(sqlite3.connect(backend.path)) as connection, connection:
            connection.execute("INSERT INTO resources VALUES (?, ?, ?, ?)", (*odd, body))
            connection.execute("INSERT INTO changes VALUES (?, 'Pod', 'ADDED', ?)", (int(version) + 1, body))
            connection.execute("UPDATE state SET version = version + 1")

        listed = await store.list(Pod)
        async with watching(store, Pod, version) as next_event:
            event = await next_event()
        with pytest.raises(ResourceUnreadable, match="Pod default/odd is kept in a form"):
            await store.get(Pod, "odd", "default")
        with pytest.raises(ResourceUnreadable, match="Pod default/odd is kept in a form"):
            await store.apply([pod("odd")])

        assert [each.metadata.name for each in listed.items] == ["good"]
        assert [each.key for each in listed.unreadable] == [event.key] == [odd]
        assert (await store.get(Pod, "good", "default")).metadata.name == "good"

        before = (await store.list(Pod)).resource_version
        await store.delete(Pod, "odd", "default")
        assert (await store.list(Pod)).unreadable == ()
        async with watching(store, Pod, before) as next_event:
            with pytest.raises(WatchExpired):
                await next_event()
        await store.close()

    @pytest.mark.parametrize(
        "body", [b"", b"\xff\xfe", b'{"kind": "Pod"', b"[" * 5000, b'{"metadata": {"name": "\xff"}}']
    )
    async def test_whatever_is_in_a_resource_s_place_disturbs_no_other(self, backend, body):
        store = backend.open()
        await store.apply([pod("good")])
        with closing(sqlite3.connect(backend.path)) as connection, connection:
            connection.execute("INSERT INTO resources VALUES ('Pod', 'default', 'odd', ?)", (body,))

        listed = await store.list(Pod)

        assert ([each.metadata.name for each in listed.items], len(listed.unreadable)) == (["good"], 1)
        await store.close()

    def test_another_programs_database_is_refused(self, backend):
        with closing(sqlite3.connect(backend.path)) as connection:
            connection.execute("CREATE TABLE theirs (a)")

        with pytest.raises(StoreUnavailable, match="another program's database"):
            backend.open()

    async def test_a_newer_schema_is_refused(self, backend):
        await backend.open().close()
        with closing(sqlite3.connect(backend.path)) as connection:
            connection.execute("PRAGMA user_version = 99")

        with pytest.raises(StoreUnavailable, match=r"newer version of pycilium .*upgrade"):
            backend.open()

    async def test_a_store_removed_while_in_use_is_noticed_by_calls_and_watches(self, backend):
        store = backend.open()
        await store.create(pod("web"))
        async with watching(store, Pod, (await store.list(Pod)).resource_version) as next_event:
            waiting = await asleep(store, next_event)
            for file in backend.folder.glob("store.db*"):
                file.unlink()

            with pytest.raises(StoreUnavailable, match="removed or replaced while it was in use"):
                await waiting
        with pytest.raises(StoreUnavailable, match="removed or replaced"):
            await store.create(pod("lost"))
        await store.close()

    async def test_a_store_that_went_back_in_time_makes_watches_list_again(self, backend):
        """As after restoring a copy: versions that were given out once are ahead of the file's."""
        store = backend.open()
        version = (await store.list(Pod)).resource_version

        async with watching(store, Pod, str(int(version) + 5)) as next_event:
            with pytest.raises(Exception, match="list again"):
                await next_event()
        await store.close()


class TestObstacles:
    async def test_a_locked_store_says_so_after_its_patience_and_reads_go_on(self, backend):
        store = backend.open(lock_timeout_s=0.05)
        await store.create(pod("web"))
        with closing(sqlite3.connect(backend.path, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")

            with pytest.raises(StoreUnavailable, match=r"locked by another process for 0\.05 s: nothing was changed"):
                await store.create(pod("other"))
            assert names(await store.list(Pod)) == ["default/web"]

        assert (await store.create(pod("other"))).metadata.resource_version == "2"
        await store.close()

    async def test_a_full_disk_refuses_the_write_whole_and_the_store_goes_on_when_there_is_room(self, backend):
        store = backend.open()
        await store.create(pod("web"))
        (pages,) = store._file._writer.execute("PRAGMA page_count").fetchone()
        store._file._writer.execute(f"PRAGMA max_page_count = {pages + 2}")

        with pytest.raises(StoreUnavailable, match=r"no space left .*nothing was changed; free some space"):
            await store.apply([pod(f"pod{number}", note="x" * 1000) for number in range(100)])
        assert names(await store.list(Pod)) == ["default/web"]

        store._file._writer.execute("PRAGMA max_page_count = 100000")
        await store.apply([pod(f"pod{number}") for number in range(100)])
        assert len((await store.list(Pod)).items) == 101
        await store.close()

    @pytest.mark.root
    def test_a_file_system_without_room_loses_nothing_that_was_kept(self, backend):
        """A real one: a small tmpfs in a mount namespace of its own, filled to the last page."""
        program = """
        from pycilium.errors import StoreUnavailable

        async def main():
            store = SqliteStore(path)
            kept = 0
            try:
                while True:
                    await store.apply([pod(f"pod{kept}-{number}") for number in range(100)])
                    kept += 1
            except StoreUnavailable as error:
                print(error)
            assert len((await store.list(Pod)).items) == kept * 100
            (path.parent / "ballast").unlink()
            await store.create(pod("room-again"))
            await store.close()
            assert len((await SqliteStore(path).list(Pod)).items) == kept * 100 + 1

        import ctypes, subprocess
        assert ctypes.CDLL(None).unshare(0x20000) == 0  # CLONE_NEWNS
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", path.parent], check=True)
        (path.parent / "ballast").write_bytes(bytes(1 << 20))
        asyncio.run(main())
        os._exit(0)
        """
        with python(program, backend.path) as process:
            output, _ = process.communicate(timeout=60)

        assert process.returncode == 0
        assert "no space left on its file system: nothing was changed" in output

    async def test_nobody_else_can_read_what_is_kept(self, backend):
        before = os.umask(0)
        try:
            store = backend.open()
            await store.create(pod("web"))
        finally:
            os.umask(before)

        modes = {file.name: file.stat().st_mode & 0o777 for file in backend.folder.iterdir()}
        assert modes == dict.fromkeys(("store.db", "store.db-wal", "store.db-shm", "store.db-notify"), 0o600)
        await store.close()

    async def test_who_may_not_open_it_is_told_that_root_is_needed(self, backend):
        await backend.open().close()
        backend.folder.chmod(0o755)
        backend.path.chmod(0)

        with unprivileged(), pytest.raises(PermissionRequired, match=r"store\.db: root is needed"):
            backend.open()

    def test_who_may_not_make_it_is_told_that_root_is_needed(self, backend):
        backend.folder.chmod(0o555)

        with unprivileged(), pytest.raises(PermissionRequired, match=r"store\.db: root is needed"):
            backend.open()

    def test_a_path_that_cannot_be_made_is_named(self):
        with pytest.raises(StoreUnavailable, match=r"/dev/null/store\.db cannot be used: /dev/null: "):
            open_store("sqlite:////dev/null/store.db")

    def test_a_folder_in_the_files_place_is_named(self, backend):
        backend.path.mkdir()

        with pytest.raises(StoreUnavailable, match=r"store\.db cannot be opened for writing"):
            backend.open()

    @pytest.mark.parametrize("url", ["", "mysql://host", "sqlite://relative.db", "sqlite:///relative.db"])
    def test_a_url_that_names_no_store_is_refused(self, url):
        with pytest.raises(ConfigError, match="sqlite:///"):
            open_store(url)


class TestBlocking:
    def test_commands_use_the_same_store_without_a_loop(self, backend):
        with open_blocking(f"sqlite:///{backend.path}") as store:
            made = store.create(pod("web"))
            version = store.list(Pod).resource_version
            store.apply([Namespace(metadata=ObjectMeta(name="prod"))])
            store.patch_status(Pod, "web", "default", {"phase": "Running"})
            events = list(store.watch(Pod, version, timeout_s=0.05))
            store.delete(Pod, "web", "default")

            assert [event.type for event in events] == ["MODIFIED"]
            assert made.metadata.name == "web"
            with pytest.raises(NotFound):
                store.get(Pod, "web", "default")


class TestLongLists:
    async def test_few_of_the_resources_are_in_memory_at_once(self, backend, monkeypatch):
        monkeypatch.setattr("pycilium.store.sqlite_file.PAGE", 10)
        store = backend.open()
        await store.apply([pod(f"pod-{number:03}") for number in range(100)])
        alive = []

        def counted(each: Pod) -> str:
            alive.append(sum(type(found) is Pod for found in gc.get_objects()))
            return each.metadata.name

        gc.collect()
        listed = await store.list_as(Pod, counted)

        assert len(listed.items) == 100
        assert max(alive) <= min(alive) + 20
        await store.close()

    async def test_what_is_written_while_a_list_is_read_is_not_in_it_but_in_the_watch_after_it(
        self, backend, monkeypatch
    ):
        monkeypatch.setattr("pycilium.store.sqlite_file.PAGE", 1)
        store, other = backend.open(), backend.open()
        await store.apply([pod("a"), pod("z")])
        writes = []

        def meanwhile(each: Pod) -> str:
            writes.append(asyncio.ensure_future(other.create(pod(f"{each.metadata.name}{len(writes)}"))))
            return each.metadata.name

        listed = await store.list_as(Pod, meanwhile)
        await asyncio.gather(*writes)

        assert listed.items == ("a", "z")
        async with watching(store, Pod, listed.resource_version) as next_event:
            assert {(await next_event()).object.metadata.name for _ in writes} == {"a0", "z1"}
        await store.close()
        await other.close()
