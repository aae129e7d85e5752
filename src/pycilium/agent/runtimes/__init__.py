"""Container runtimes of this machine, asked what a container is: its name and its labels.

Owns the questions, by container id; what the answers mean for identity is `pod_labelling`'s and `model.labels`'.
One module for each runtime. Each asks in a way that a runtime can answer while it waits for us: see there.
"""

from pycilium.agent.runtimes.asking import Runtimes
from pycilium.agent.runtimes.container import Container, Runtime
from pycilium.agent.runtimes.opening import DEFAULT, open_runtimes

__all__ = ["DEFAULT", "Container", "Runtime", "Runtimes", "open_runtimes"]
