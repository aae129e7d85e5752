"""Docker, asked through its socket: names, labels and processes of containers, and whenever one starts or ends.

Docker calls no plugin, so its containers are followed (`docker_network`). Of its Engine API only that is used which all
servers since Docker 18.09 have.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from pycilium.agent.runtimes.container import Container
from pycilium.errors import RuntimeUnreadable

if TYPE_CHECKING:
    import aiohttp

ATTACHED = "io.cilium.network=true"
"""The label by which a container asks for our network. One without a network may well be meant to have none."""
NO_NETWORK = "none"
_API = "http://docker/v1.39"
_HEX = frozenset("0123456789abcdef")
_ID_LENGTH = 64
_TIMEOUT_S = 10.0


class _Config(msgspec.Struct, frozen=True, rename={"labels": "Labels"}):
    labels: dict[str, str] | None = None


class _State(msgspec.Struct, frozen=True, rename={"pid": "Pid"}):
    pid: int = 0


class _HostConfig(msgspec.Struct, frozen=True, rename={"network_mode": "NetworkMode"}):
    network_mode: str = ""


class _Inspected(msgspec.Struct, frozen=True, rename="pascal"):
    """What `docker inspect` says, as far as it matters here."""

    id: str
    name: str = ""
    config: _Config = _Config()
    state: _State = _State()
    host_config: _HostConfig = _HostConfig()


class _Listed(msgspec.Struct, frozen=True, rename={"id": "Id"}):
    id: str


@dataclass(frozen=True, slots=True)
class Running:
    """A container that runs."""

    container_id: str
    pid: int
    """Of its first process."""
    network_mode: str
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def netns(self) -> str:
        return f"/proc/{self.pid}/ns/net"


class Docker:
    """The Docker that listens at `socket`."""

    name = "docker"
    tells_late = False

    def __init__(self, socket: str) -> None:
        self._socket = socket

    @property
    def is_there(self) -> bool:
        """Its socket exists, and the file with its process's id beside it.

        The socket alone may be systemd's: who calls there starts a Docker that somebody has stopped.
        """
        return all(map(os.path.exists, (self._socket, f"{self._socket.removesuffix('.sock')}.pid")))

    async def container(self, container_id: str) -> Container | None:
        """By its whole id."""
        if len(container_id) != _ID_LENGTH or not _HEX.issuperset(container_id):
            return None
        found = await self._inspected(container_id)
        return Container(found.name.removeprefix("/"), found.config.labels or {}) if found else None

    async def close(self) -> None:
        """Nothing is open between questions."""

    async def running(self) -> Sequence[Running]:
        """Those that ask for our network, and run."""
        filters = {"label": [ATTACHED], "status": ["running"]}
        async with self._asked("/containers/json", filters=json.dumps(filters)) as answer:
            listed = self._decoded(await answer.read(), list[_Listed])
        inspected = [await self._inspected(each.id) for each in listed]
        return [
            Running(each.id, each.state.pid, each.host_config.network_mode, each.config.labels or {})
            for each in inspected
            if each is not None and each.state.pid
        ]

    async def changes(self) -> AsyncIterator[None]:
        """Once when Docker listens to us, and then whenever such a container has started or ended."""
        filters = {"type": ["container"], "label": [ATTACHED], "event": ["start", "die"]}
        async with self._asked("/events", timeout_s=None, filters=json.dumps(filters)) as answer:
            yield
            async for _ in answer.content:
                yield

    async def _inspected(self, container_id: str) -> _Inspected | None:
        async with self._asked(f"/containers/{container_id}/json") as answer:
            return None if answer.status == 404 else self._decoded(await answer.read(), _Inspected)

    @asynccontextmanager
    async def _asked(
        self, path: str, *, timeout_s: float | None = _TIMEOUT_S, **query: str
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """RuntimeUnreadable if there is no answer, or one that says of a fault."""
        import aiohttp

        limits = aiohttp.ClientTimeout(total=timeout_s, sock_connect=_TIMEOUT_S)
        try:
            async with (
                aiohttp.ClientSession(connector=aiohttp.UnixConnector(self._socket), timeout=limits) as session,
                session.get(f"{_API}{path}", params=query) as answer,
            ):
                if answer.status not in (200, 404):
                    raise RuntimeUnreadable(f"{self._socket}: {(await answer.text())[:200].strip()}")
                yield answer
        except aiohttp.ClientConnectorError as error:
            why = os.strerror(error.os_error.errno or 0)
            raise RuntimeUnreadable(f"{self._socket}: no connection: {why}") from error
        except aiohttp.ClientPayloadError as error:
            raise RuntimeUnreadable(f"{self._socket}: Docker has ended") from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise RuntimeUnreadable(f"{self._socket}: {str(error) or type(error).__name__}") from error

    def _decoded(self, body: bytes, kind: Any) -> Any:
        try:
            return msgspec.json.decode(body, type=kind)
        except msgspec.MsgspecError as error:
            raise RuntimeUnreadable(f"{self._socket} answers what Docker does not: {error}") from error
