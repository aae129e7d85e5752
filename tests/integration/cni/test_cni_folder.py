"""The runtime's folder beside others who write there, on a disk that is full, and read-only."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pycilium.agent.runtimes.cni_folder import CniFolder
from pycilium.install import cni_configuration

pytestmark = pytest.mark.root
OURS, SOCKET = "05-cilium.conflist", "/run/s"
WANTED = cni_configuration.text(SOCKET)
PATIENCE_S = 20.0


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, and of few bytes."""
    folder = tmp_path / "net.d"
    folder.mkdir()
    mount("-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder))
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@asynccontextmanager
async def kept(folder: Path, *, exclusive: bool = True) -> AsyncIterator[CniFolder]:
    async def soon(_: float) -> None:
        await asyncio.sleep(0.01)

    keeper = CniFolder(str(folder / OURS), SOCKET, exclusive=exclusive, sleep=soon)
    running = asyncio.create_task(keeper.run())
    try:
        yield keeper
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():  # noqa: ASYNC110  another process could be the one who changes it
            await asyncio.sleep(0.01)


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def is_in_place(folder: Path) -> bool:
    path = folder / OURS
    return path.exists() and path.read_text() == WANTED


async def test_another_plugins_configuration_that_appears_is_set_aside(folder: Path) -> None:
    async with kept(folder) as keeper:
        await keeper.in_place.wait()
        for text in ("{}", "written anew"):
            (folder / "10-flannel.conflist").write_text(text)
            await until(lambda: names(folder) == [OURS, "10-flannel.conflist.cilium_bak"])

    assert (folder / "10-flannel.conflist.cilium_bak").read_text() == "written anew"
    assert is_in_place(folder)


async def test_another_plugins_configuration_stays_where_ours_is_not_to_be_the_only_one(folder: Path) -> None:
    async with kept(folder, exclusive=False) as keeper:
        await keeper.in_place.wait()
        (folder / "10-flannel.conflist").write_text("{}")
        (folder / OURS).unlink()
        await until(lambda: is_in_place(folder))

    assert names(folder) == [OURS, "10-flannel.conflist"]


@pytest.mark.parametrize("damage", ["deleted", "emptied", "exchanged", "moved"])
async def test_ours_is_put_back_whatever_somebody_did_to_it(folder: Path, damage: str) -> None:
    async with kept(folder) as keeper:
        await keeper.in_place.wait()
        path = folder / OURS
        match damage:
            case "deleted":
                path.unlink()
            case "emptied":
                path.write_text("")
            case "exchanged":
                path.write_text('{"type": "bridge"}')
            case _:
                path.rename(folder / "kept-for-later")
        await until(lambda: is_in_place(folder))


async def test_a_folder_that_was_removed_is_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "net.d"
    async with kept(folder) as keeper:
        await keeper.in_place.wait()
        shutil.rmtree(folder)
        await until(lambda: is_in_place(folder))


async def test_on_a_full_disk_the_other_plugins_stay_until_there_is_room_for_ours(folder: Path) -> None:
    (folder / "10-flannel.conflist").write_text("{}")
    ballast = folder / "ballast"
    with pytest.raises(OSError, match="No space left"):
        ballast.write_bytes(bytes(1 << 20))

    async with kept(folder) as keeper:
        await until(lambda: bool(keeper.problem))
        problem, left = keeper.problem, names(folder)
        ballast.unlink()
        await keeper.in_place.wait()
        await until(lambda: names(folder) == [OURS, "10-flannel.conflist.cilium_bak"])

    assert problem == f"{folder / OURS}: cannot be written: No space left on device"
    assert left == ["10-flannel.conflist", "ballast"]
    assert keeper.problem == ""
    assert is_in_place(folder)


async def test_on_a_read_only_disk_nothing_changes_until_it_is_written_to_again(folder: Path) -> None:
    mount("-o", "remount,ro", str(folder))

    async with kept(folder) as keeper:
        await until(lambda: bool(keeper.problem))
        problem = keeper.problem
        mount("-o", "remount,rw", str(folder))
        await keeper.in_place.wait()

    assert problem.endswith("cannot be written: Read-only file system")
    assert names(folder) == [OURS]
