"""Health: which nodes and health endpoints answer, and how soon.

Pure: `probes` has what is asked and what came back, `schedule` says who is asked when. Asking is the agent's.
"""

from pycilium.health.probes import Answer, Connectivity, NodeReport, PathReport, ProbedNode, ProbeKind
from pycilium.health.schedule import Schedule

__all__ = [
    "Answer",
    "Connectivity",
    "NodeReport",
    "PathReport",
    "ProbeKind",
    "ProbedNode",
    "Schedule",
]
