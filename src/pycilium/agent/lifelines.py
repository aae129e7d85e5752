"""What the node must not lose by a program on one of its devices: its default gateways, and the store.

Each check asks as the node's own processes do, so that what they would notice is noticed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from pycilium.agent.config import AgentConfig
from pycilium.agent.deadman import LOOK_TIMEOUT_S, Check
from pycilium.datapath.echo import Echo
from pycilium.datapath.reachability import GatewayCheck, default_gateways
from pycilium.errors import NotFound, StoreError
from pycilium.model.resources import CiliumNode
from pycilium.store import Store


def lifelines(config: AgentConfig, store: Store, echo: Echo, devices: Mapping[str, int]) -> dict[str, Check]:
    """What the node must not lose by a program on one of its devices: its default gateways, and the store."""

    async def store_answers() -> bool:
        try:
            async with asyncio.timeout(LOOK_TIMEOUT_S):
                await store.get(CiliumNode, config.node_name)
        except NotFound:
            return True
        except (StoreError, TimeoutError):
            return False
        return True

    checks: dict[str, Check] = {
        f"default gateway {gateway.address}": GatewayCheck(gateway, echo, LOOK_TIMEOUT_S)
        for gateway in default_gateways(set(devices.values()))
    }
    return {**checks, "store": store_answers}
