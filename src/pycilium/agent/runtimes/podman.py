"""podman, asked through its database: bbolt (podman 4), or SQLite (4.8 and newer).

podman holds a container's lock while it waits for its network, so neither `podman inspect` nor its API would answer a
question about that container before we have answered podman. Its database is not locked then: every change of podman
opens the file, writes, and closes it. It is only read here.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import mmap
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from pycilium.agent.runtimes import bolt
from pycilium.agent.runtimes.container import Container
from pycilium.errors import RuntimeUnreadable

_PATIENCE_S = 2.0
_PAUSE_S = 0.01
_HEX = frozenset("0123456789abcdef")


class Podman:
    """The podman whose storage (`podman info`: graphRoot) is `root`."""

    name = "podman"
    tells_late = False

    def __init__(self, root: str) -> None:
        self._bolt, self._sqlite = Path(root, "libpod", "bolt_state.db"), Path(root, "db.sql")

    @property
    def is_there(self) -> bool:
        """Either database exists."""
        return self._bolt.exists() or self._sqlite.exists()

    async def container(self, container_id: str) -> Container | None:
        """A container; of one in a pod of podman's, the pod: it is the pod that has the network."""
        if not _HEX.issuperset(container_id):
            return None
        return await asyncio.to_thread(self._read, container_id)

    async def close(self) -> None:
        """Nothing is open between questions."""

    def _read(self, container_id: str) -> Container | None:
        read = _from_bolt if self._bolt.exists() else _from_sqlite
        file = self._bolt if self._bolt.exists() else self._sqlite
        try:
            return read(file, container_id)
        except (OSError, ValueError, sqlite3.Error, RuntimeUnreadable) as error:
            raise RuntimeUnreadable(f"{file}: {error}") from error


class _Config(msgspec.Struct, frozen=True):
    """Of a container, or of a pod."""

    name: str = ""
    labels: dict[str, str] | None = None
    pod: str = ""
    """Of a container: the id of its pod."""


def _container(config: _Config, pod: _Config | None) -> Container:
    if pod is None:
        return Container(config.name, config.labels or {})
    return Container(pod.name, {**(config.labels or {}), **(pod.labels or {})})


def _from_bolt(path: Path, container_id: str) -> Container | None:
    with _mapped(path) as file:
        written = bolt.value(file, [b"ctr", container_id.encode(), b"config"])
        if written is None:
            return None
        config = msgspec.json.decode(written, type=_Config)
        pod = bolt.value(file, [b"pod", config.pod.encode(), b"config"]) if config.pod else None
    return _container(config, msgspec.json.decode(pod, type=_Config) if pod else None)


@contextlib.contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap]:
    """The file's bytes, with nobody writing them meanwhile."""
    with path.open("rb") as file:
        _lock_shared(file.fileno())
        with mmap.mmap(file.fileno(), os.fstat(file.fileno()).st_size, access=mmap.ACCESS_READ) as mapped:
            yield mapped


def _lock_shared(fd: int) -> None:
    """As bbolt's own readers do. Closing the file lets go."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise RuntimeUnreadable(f"locked by a podman for more than {_PATIENCE_S:g} s") from None
            time.sleep(_PAUSE_S)
        else:
            return


def _from_sqlite(path: Path, container_id: str) -> Container | None:
    address = f"{path.absolute().as_uri()}?mode=ro"
    with contextlib.closing(sqlite3.connect(address, timeout=_PATIENCE_S, uri=True)) as db:
        written = _row(db, "SELECT JSON FROM ContainerConfig WHERE ID = ?", container_id)
        if written is None:
            return None
        config = msgspec.json.decode(written, type=_Config)
        pod = _row(db, "SELECT JSON FROM PodConfig WHERE ID = ?", config.pod) if config.pod else None
    return _container(config, msgspec.json.decode(pod, type=_Config) if pod else None)


def _row(db: sqlite3.Connection, query: str, key: str) -> str | None:
    row = db.execute(query, (key,)).fetchone()
    return row[0] if row else None
