"""Whether agents and operators would start with a cilium-config: keys that are right one by one may contradict.

Only they know, so this stands above both, and commands load it by its name before they change anything: a ConfigMap
that agents refuse would end all of them one by one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pycilium.agent.config import check
from pycilium.agent.config_folder import agent_config
from pycilium.config_folder import Settings
from pycilium.errors import ConfigError
from pycilium.install.kubernetes_names import CONFIG
from pycilium.operator.config import check as check_operator
from pycilium.operator.config_folder import operator_config

_NODE = "a-node"
_OF_A_NODE = {"ipv4-range": "10.0.0.0/24", "ipv6-range": "fd00:10::/112"}
"""With ipam kubernetes each Node brings its own: which ones stand here decides nothing."""


def refuse_contradictions(data: Mapping[str, Any]) -> None:
    """ConfigError with what agents or operators would say."""
    try:
        settings = Settings({**_OF_A_NODE, **data}, CONFIG)
        check(agent_config(settings, _NODE), CONFIG)
        check_operator(operator_config(settings, _NODE))
    except ConfigError as error:
        raise ConfigError(f"agents would not start: {error}") from error
