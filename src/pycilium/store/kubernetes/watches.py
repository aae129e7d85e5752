"""Watching a kind on an API server: one stream of changes made of many connections.

Invariant: every change after the version that was asked for is given once and in order. A connection that ends, in
time or not, is followed by another from the last version seen, which bookmarks keep recent while nothing changes.
"""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

import msgspec

from pycilium.errors import StoreUnavailable, WatchExpired
from pycilium.model.resources import Kind, Resource
from pycilium.store.kubernetes.client import ApiClient, ConnectionLost, Patience
from pycilium.store.kubernetes.failures import Call, Refusal
from pycilium.store.kubernetes.objects import read_or_set_aside, version_of
from pycilium.store.protocol import Unreadable, WatchEvent

R = TypeVar("R", bound=Resource)

_CHANGES = ("ADDED", "MODIFIED", "DELETED")
_TURN_S = (300, 600)
"""How long one connection lasts, in between: so that watchers spread over servers, and not all at one time."""

_PATIENCE_S = 120.0
"""How long connections may fail in a row before the watch does. Listing anew costs the server more than waiting."""


async def watched(
    client: ApiClient, kind: Kind[R], version: str, selection: Mapping[str, str]
) -> AsyncGenerator[WatchEvent[R] | Unreadable, None]:
    """Every change after `version` of what is selected; WatchExpired if the server no longer has them all."""
    check_version(version)
    patience = Patience(_PATIENCE_S)
    call = Call("watch", kind)
    while True:
        why = "it ends at once"
        try:
            async with aclosing(client.lines(call, {**selection, **_query(version)})) as batches:
                async for lines in batches:
                    for line in lines:
                        change, plain = _read(line)
                        version = _next_version(call, version, plain, change)
                        if change in _CHANGES:
                            yield _changed(kind, change, plain)
                    patience = Patience(_PATIENCE_S)
        except ConnectionLost as error:
            why = str(error)
        wait_s = patience.pause()
        if wait_s is None:
            raise StoreUnavailable(f"{client.server} does not keep up a watch of {kind.plural}: {why}")
        await client.sleep(wait_s)


def check_version(version: str) -> None:
    """WatchExpired if `version` is none that an API server gives."""
    if not (version.isascii() and version.isdigit() and int(version)):
        raise WatchExpired(f"{version!r} is not a version of an API server: list again and watch from there")


def _changed(kind: Kind[R], change: Any, plain: Any) -> WatchEvent[R] | Unreadable:
    found = read_or_set_aside(kind, plain)
    if not isinstance(found, Unreadable):
        return WatchEvent(change, found)
    if change == "DELETED" or not found.key.name:
        raise WatchExpired(f"a change of {found.key} cannot be read: list again")
    return found


class _Event(msgspec.Struct):
    type: str
    object: dict[str, Any]


def _query(version: str) -> dict[str, str]:
    return {
        "watch": "1",
        "resourceVersion": version,
        "allowWatchBookmarks": "true",
        "timeoutSeconds": str(random.randint(*_TURN_S)),  # noqa: S311 -- no secret
    }


def _read(line: bytes) -> tuple[str, Any]:
    try:
        event = msgspec.json.decode(line, type=_Event)
    except msgspec.MsgspecError as error:
        raise ConnectionLost(f"a line of the watch is no event: {line[:200]!r}") from error
    return event.type, event.object


def _next_version(call: Call, version: str, plain: Any, change: str) -> str:
    """The version that an event brings us to."""
    if change == "ERROR":
        refusal = Refusal(int(plain.get("code") or 500), plain)
        if refusal.expired:
            raise WatchExpired(f"{call}: {refusal.message}; list again and watch from there")
        raise ConnectionLost(refusal.message)
    reached = version_of(plain)
    if not reached.isdigit():
        return version
    if int(reached) < int(version):
        raise WatchExpired(
            f"{call}: the server went back from version {version} to {reached}, as after a restored backup; "
            f"list again and watch from there"
        )
    return reached
