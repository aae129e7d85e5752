"""Which candidates become backends, and which of those take new connections: the rules of kube-proxy.

* Ready ones take connections. If there is none at all, those that are terminating and still serving do.
* If every ready one has hints for nodes, and one of them for this node, only those for this node are chosen; else
  likewise for zones. A hint that would leave nothing is no hint.
* Where only local ones count (a traffic policy Local), only this node's are backends, and hints do not count.

What is not chosen stays a backend of weight 0: connections that it has go on. Of UDP only while it serves, for a client
that always uses one port would else never leave it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

import msgspec

from pycilium.model.l4 import Protocol
from pycilium.model.service import Backend, BackendState
from pycilium.services.candidates import Candidate


@dataclass(frozen=True, slots=True)
class Viewpoint:
    """From where a choice is made."""

    node: str
    zone: str


class _Near(Enum):
    ANYWHERE = 0
    SAME_NODE = 1
    SAME_ZONE = 2


def of_cluster(candidates: Sequence[Candidate], view: Viewpoint) -> tuple[Backend, ...]:
    """Backends for those who may use any of them."""
    near = _near(candidates, view)
    return tuple(_backends(candidates, near, view))


def of_node(candidates: Iterable[Candidate], view: Viewpoint) -> tuple[Backend, ...]:
    """Backends for those who may only use this node's."""
    local = [candidate for candidate in candidates if view.node and candidate.backend.node == view.node]
    return tuple(_backends(local, _Near.ANYWHERE, view))


def _backends(candidates: Iterable[Candidate], near: _Near, view: Viewpoint) -> Iterable[Backend]:
    for candidate in candidates:
        backend = candidate.backend
        if candidate.ready:
            yield (
                backend
                if near is _Near.ANYWHERE or _is_near(candidate, near, view)
                else msgspec.structs.replace(backend, weight=0)
            )
        elif candidate.terminating and candidate.serving:
            yield msgspec.structs.replace(backend, state=BackendState.TERMINATING)
        elif candidate.serving or backend.at.protocol is not Protocol.UDP:
            yield msgspec.structs.replace(backend, state=BackendState.TERMINATING, weight=0)


def _near(candidates: Iterable[Candidate], view: Viewpoint) -> _Near:
    """How the hints of all ready candidates together narrow the choice."""
    ready = [candidate for candidate in candidates if candidate.ready]
    if not ready or not (ready[0].for_nodes or ready[0].for_zones):
        return _Near.ANYWHERE
    if all(candidate.for_nodes for candidate in ready) and any(view.node in each.for_nodes for each in ready):
        return _Near.SAME_NODE
    if all(candidate.for_zones for candidate in ready) and any(view.zone in each.for_zones for each in ready):
        return _Near.SAME_ZONE
    return _Near.ANYWHERE


def _is_near(candidate: Candidate, near: _Near, view: Viewpoint) -> bool:
    if near is _Near.SAME_NODE:
        return view.node in candidate.for_nodes
    return view.zone in candidate.for_zones
