"""The store for commands: the same calls, blocking, over a private event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from pycilium.model.resources import Resource, ResourceKey
from pycilium.store.protocol import Applied, ResourceList, Store, Unreadable, WatchEvent

R = TypeVar("R", bound=Resource)


class BlockingStore:
    """Wraps a Store; use it as a context manager, from one thread and not within a running event loop."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._runner = asyncio.Runner()

    def list(self, kind: type[R], namespace: str | None = None) -> ResourceList[R]:
        return self._runner.run(self._store.list(kind, namespace))

    def get(self, kind: type[R], name: str, namespace: str = "") -> R:
        return self._runner.run(self._store.get(kind, name, namespace))

    def create(self, resource: R) -> R:
        return self._runner.run(self._store.create(resource))

    def replace(self, resource: R) -> R:
        return self._runner.run(self._store.replace(resource))

    def patch_status(self, kind: type[R], name: str, namespace: str, patch: Mapping[str, Any]) -> R:
        return self._runner.run(self._store.patch_status(kind, name, namespace, patch))

    def delete(self, kind: type[Resource], name: str, namespace: str = "", *, resource_version: str = "") -> None:
        self._runner.run(self._store.delete(kind, name, namespace, resource_version=resource_version))

    def apply(self, resources: Sequence[Resource]) -> Sequence[Applied[Resource]]:
        return self._runner.run(self._store.apply(resources))

    def delete_all(self, keys: Sequence[ResourceKey]) -> Sequence[ResourceKey]:
        return self._runner.run(self._store.delete_all(keys))

    def watch(
        self, kind: type[R], from_version: str, *, timeout_s: float | None = None
    ) -> Iterator[WatchEvent[R] | Unreadable]:
        """Changes as they come; ends when none came for `timeout_s`."""
        events = self._store.watch(kind, from_version)

        async def upcoming() -> WatchEvent[R] | Unreadable | None:
            try:
                async with asyncio.timeout(timeout_s):
                    return await anext(events)
            except TimeoutError:
                return None

        while (event := self._runner.run(upcoming())) is not None:
            yield event

    def close(self) -> None:
        self._runner.run(self._store.close())
        self._runner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
