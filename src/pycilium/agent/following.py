"""Keeping up: what the agent does over and over from its start to its end, each as a task of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import structlog

from pycilium.agent.endpoints.lifecycle import Endpoints
from pycilium.agent.endpoints.relabelling import Relabelling
from pycilium.agent.intent import Intent
from pycilium.agent.link_operations import LinkOperations
from pycilium.agent.loop import ControlLoop
from pycilium.agent.plumbing import Plumbing
from pycilium.agent.sources import RETRY_FIRST_S, RETRY_MOST_S, retry_delay_s
from pycilium.datapath import netlink
from pycilium.errors import CiliumError

log = structlog.get_logger()

QUIET_S = 2.0
VANISHED_AFTER_S = 1.0
NEWS_BYTES = 1 << 16


async def follow_labels(intent: Intent, relabelling: Relabelling) -> None:
    """Give endpoints another identity whenever their labels change, or those labels have another number.

    While some have a number of this node's own, for want of the store, the store is asked again and again.
    """
    changed = asyncio.Event()
    changed.set()
    deciding = {"pods", "namespaces", "identities"}
    intent.db.on_commit(lambda tables: changed.set() if tables & deciding else None)
    delay_s = RETRY_FIRST_S
    while True:
        changed.clear()
        try:
            settled = await relabelling.refresh()
        except CiliumError as error:
            log.warning("labels could not be taken over yet", error=str(error))
            settled = False
        delay_s = RETRY_FIRST_S if settled else min(2 * delay_s, RETRY_MOST_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if settled else retry_delay_s(delay_s)):
                await changed.wait()


async def read_addresses(intent: Intent, plumbing: Plumbing) -> None:
    """Make the table of the node's own addresses what the kernel says."""
    found = {host.address: host for host in await asyncio.to_thread(plumbing.host_addresses)}
    if found != {host.address: host for host in intent.db.snapshot().all(intent.host_addresses)}:
        with intent.db.write() as txn:
            txn.replace_all(intent.host_addresses, found.values())


async def follow_addresses(intent: Intent, plumbing: Plumbing, control: ControlLoop) -> None:
    """Keep the table of the node's own addresses true: listed again whenever the kernel says that one changed.

    With an address the kernel removes the routes that hang on it, so those are read again too.
    """
    loop = asyncio.get_running_loop()
    with netlink.address_news() as news:
        while True:
            try:
                await loop.sock_recv(news, NEWS_BYTES)
            except OSError as error:
                log.debug("address news overran", error=str(error))  # listing again is the answer to that too
            await read_addresses(intent, plumbing)
            control.reread_routes()


async def follow_links(endpoints: Endpoints, changed: Callable[[], None] = lambda: None) -> None:
    """Give back what endpoints held whose interface is gone, whenever the kernel says that interfaces changed."""
    loop = asyncio.get_running_loop()
    with netlink.link_news() as news:
        while True:
            await endpoints.collect_vanished()
            changed()
            try:
                await loop.sock_recv(news, NEWS_BYTES)
            except OSError as error:
                log.debug("news of interfaces overran", error=str(error))  # listing again is the answer to that too
            await asyncio.sleep(VANISHED_AFTER_S)  # a DEL removes the interface first: let it end by itself


async def settle_links(attached: LinkOperations, endpoints: Endpoints) -> None:
    """Give new devices their links, one at a time, whenever no pod has come or gone for a while."""
    while True:
        await asyncio.sleep(QUIET_S)
        while attached.unsettled and endpoints.quiet_for_s >= QUIET_S:
            await asyncio.to_thread(attached.settle_one)
