"""One kind of the store, followed for as long as a piece of work lasts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NoReturn, TypeVar

import structlog

from pycilium.errors import StoreError
from pycilium.model.resources import Resource
from pycilium.store import ResourceList, Store, Unreadable, WatchEvent, follow

R = TypeVar("R", bound=Resource)
log = structlog.get_logger()

RETRY_S = 1.0


async def keep_following(
    store: Store,
    kind: type[R],
    take_in: Callable[[ResourceList[R] | WatchEvent[R] | Unreadable], None],
    failed: Callable[[str], None] = lambda _: None,
) -> NoReturn:
    """Hand on whatever the store says of `kind`, until cancelled.

    That it cannot be read is logged once and tried again; `failed` is told each time why.
    """
    told = ""
    while True:
        try:
            async for step in follow(store, kind):
                take_in(step)
                del step  # the next one may be long in coming
                told = ""
        except StoreError as error:
            if str(error) != told:
                log.warning("store cannot be read", kind=kind.__name__, error=str(error))
            told = str(error)
            failed(told)
        await asyncio.sleep(RETRY_S)
