"""A runtime's side of CNI: configurations, environments, and a call of the plugin without starting a process."""

import json
from typing import Any

from pycilium.cni.plugin import run

CONFIG = {"cniVersion": "1.1.0", "name": "cilium", "type": "cilium-cni"}


def environment(command: str, **changes: str | None) -> dict[str, str]:
    """What a runtime sets; None leaves a variable out."""
    variables = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": "abc",
        "CNI_NETNS": "/proc/self/ns/net",
        "CNI_IFNAME": "eth0",
        "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web",
        "CNI_PATH": "/opt/cni/bin",
        **changes,
    }
    return {name: value for name, value in variables.items() if value is not None}


def call(command: str, config: Any, variables: dict[str, str | None] | None = None) -> Any:
    """The plugin's answer, decoded; None for an empty one. Raises CniError."""
    stdin = config if isinstance(config, bytes) else json.dumps(config).encode()
    answer = run(environment(command, **(variables or {})), lambda: stdin, {})
    return json.loads(answer) if answer else None
