"""What answers of the agent's API are made from: the running agent's parts, gathered once by the composition root."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pycilium.agent.config import AgentConfig
from pycilium.agent.controller import Controller
from pycilium.agent.deadman import Deadman
from pycilium.agent.endpoints.lifecycle import Endpoints
from pycilium.agent.endpoints.processes import Processes
from pycilium.agent.explaining import Explainer
from pycilium.agent.flows import FlowIngestion
from pycilium.agent.health.node import NodeHealth
from pycilium.agent.intent import Intent
from pycilium.agent.loop import ControlLoop
from pycilium.agent.map_fill import MapFill
from pycilium.agent.nodes.operator_lease import OperatorLease
from pycilium.agent.nodes.publishing import NodePublisher
from pycilium.agent.plumbing import Plumbing
from pycilium.agent.runtimes.cni_folder import CniFolder
from pycilium.agent.services.node import NodeServices
from pycilium.agent.sources import Source
from pycilium.datapath.loader import Datapath
from pycilium.hubble.store import FlowStore


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything that an answer may be made from."""

    config: AgentConfig
    attach_mode: str
    acceleration: Callable[[], str]
    intent: Intent
    sources: Sequence[Source[Any, Any]]
    controller: Controller
    loop: ControlLoop
    endpoints: Endpoints
    processes: Processes
    plumbing: Plumbing
    node: NodePublisher
    datapath: Datapath
    flows: FlowStore
    ingestion: FlowIngestion
    explainer: Explainer
    health: NodeHealth
    operator_lease: OperatorLease
    cni: CniFolder | None
    """None: somebody else writes the runtime's configuration."""
    deadman: Deadman
    fill: MapFill
    sizes: Mapping[str, int]
    """Room of each map, by name."""
    node_services: NodeServices | None
    """None: services are off."""
    resources: Mapping[Any, Any]
    """The policies as users wrote them, by key."""
