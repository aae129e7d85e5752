"""List and watch in one: the way to keep a table equal to what a store holds."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TypeVar

from pycilium.errors import WatchExpired
from pycilium.model.resources import Resource
from pycilium.store.protocol import ResourceList, Store, Unreadable, WatchEvent, whole

R = TypeVar("R", bound=Resource)
T = TypeVar("T")


def follow(store: Store, kind: type[R]) -> AsyncGenerator[ResourceList[R] | WatchEvent[R] | Unreadable, None]:
    """As `follow_as`, with the resources themselves."""
    return follow_as(store, kind, whole)


async def follow_as(
    store: Store, kind: type[R], keep: Callable[[R], T]
) -> AsyncGenerator[ResourceList[T] | WatchEvent[R] | Unreadable, None]:
    """All resources of a kind, then their changes, without end.

    A ResourceList replaces everything that was known; one comes first, and again whenever the follower fell behind what
    the store keeps of changes. It holds what `keep` makes of each; see `Store.list_as`. An Unreadable stands for a
    change whose outcome cannot be read.
    """
    while True:
        listed = await store.list_as(kind, keep)
        version = listed.resource_version
        yield listed
        del listed  # not to be held for as long as the watch lasts
        try:
            async with aclosing(store.watch(kind, version)) as events:
                async for event in events:
                    yield event
        except WatchExpired:
            continue
