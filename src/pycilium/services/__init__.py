"""Services: from what the resources say to frontends, and from frontends to writes of the kernel's maps. Pure.

resources, endpoints, host ports ──► catalogue ──► frontends ──► plan ──► ids, slots, entries
"""

from pycilium.services.plan import (
    BackendRows,
    Capacities,
    FrontendEntry,
    MapContents,
    Plan,
    Retired,
    ServicePlanner,
    SourceRange,
)
from pycilium.services.runs import NO_RUN, Run

__all__ = [
    "NO_RUN",
    "BackendRows",
    "Capacities",
    "FrontendEntry",
    "MapContents",
    "Plan",
    "Retired",
    "Run",
    "ServicePlanner",
    "SourceRange",
]
