"""Services: from what the resources say to frontends, and from frontends to writes of the kernel's maps. Pure.

resources, endpoints, host ports ──► catalogue ──► frontends ──► plan ──► ids, slots, entries
"""

from pycilium.services.addresses import ServiceAddresses
from pycilium.services.candidates import SliceView, slice_view
from pycilium.services.catalogue import Catalogue, CatalogueChanges, all_frontends
from pycilium.services.frontends import HostPortMapping
from pycilium.services.map_values import (
    BackendRows,
    Capacities,
    FrontendEntry,
    MapContents,
    Plan,
    Retired,
    SourceRange,
)
from pycilium.services.plan import ServicePlanner
from pycilium.services.runs import NO_RUN, Run
from pycilium.services.settings import NodePlace, ServiceSettings

__all__ = [
    "NO_RUN",
    "BackendRows",
    "Capacities",
    "Catalogue",
    "CatalogueChanges",
    "FrontendEntry",
    "HostPortMapping",
    "MapContents",
    "NodePlace",
    "Plan",
    "Retired",
    "Run",
    "ServiceAddresses",
    "ServicePlanner",
    "ServiceSettings",
    "SliceView",
    "SourceRange",
    "all_frontends",
    "slice_view",
]
