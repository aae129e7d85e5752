"""The CustomResourceDefinitions in the API server: made, brought up to date, never taken back by an older operator."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from pycilium.errors import StoreError
from pycilium.install.crds import definitions, established, is_newer
from pycilium.install.kubernetes_cluster import CRD, Cluster

log = structlog.get_logger()
_POLL_S = 0.5
_RETRY_S = 5.0


async def ensure(cluster: Cluster, sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep) -> None:
    """Return once all are served. What the server refuses is said and tried again: nothing works without them."""
    for wanted in definitions():
        name = wanted["metadata"]["name"]
        while True:
            try:
                present = await cluster.get(CRD, name)
                if present is None or not is_newer(present):
                    present = await cluster.apply(wanted)
                while not established(present):
                    await sleep(_POLL_S)
                    present = await cluster.get(CRD, name)
                break
            except StoreError as error:
                log.warning("a CRD cannot be made", crd=name, error=str(error))
                await sleep(_RETRY_S)
