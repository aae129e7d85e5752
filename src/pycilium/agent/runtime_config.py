"""What clients of Cilium read of a running agent's configuration: `state/agent-runtime-config.json`, with its names.

Written anew at each start; nothing here reads it. Cilium's connectivity test takes from it which features there are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import structlog

from pycilium.agent.config import AgentConfig
from pycilium.agent.endpoints.files import write_whole

log = structlog.get_logger()


def runtime_config(config: AgentConfig) -> dict[str, Any]:
    """The content. Pure."""
    return {
        "MonitorAggregation": config.event_aggregation,
        "EnableICMPRules": True,
        "EnableHealthChecking": config.health_checking,
        "EnableEndpointHealthChecking": config.health_checking and config.endpoint_health_checking,
        "EnableK8sNetworkPolicy": True,
        "EnableK8sClusterNetworkPolicy": False,
        "EncryptNode": False,
        "NodeEncryptionOptOutLabelsString": "",
    }


def write_runtime_config(config: AgentConfig) -> None:
    """Best effort: an agent works without it."""
    path = Path(config.run_dir) / "state" / "agent-runtime-config.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, msgspec.json.format(msgspec.json.encode(runtime_config(config))))
    except OSError as error:
        log.warning("the configuration cannot be written down", file=str(path), error=error.strerror)
