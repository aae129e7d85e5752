"""Policies that nobody wrote: what a node's health endpoint admits whatever users say of it, but for deny rules.

They put nothing on default deny, so they are rules beside those of the users and nothing else.
"""

from __future__ import annotations

from pycilium.model.l4 import ANY_PORT
from pycilium.model.labels import RESERVED_SOURCE
from pycilium.model.peer import entity_peers, peer_set
from pycilium.model.policy import Direction, Policy, PolicyRef, Rule, RuleRef, Section
from pycilium.model.selector import LabelSelector, Operator, Requirement

_NAME = "nodes always reach health endpoints"
_PROBERS = ("host", "remote-node", "health")

HEALTH_POLICY = Policy(
    key=PolicyRef("", "", _NAME).key,
    sections=(
        Section(
            policy=PolicyRef("", "", _NAME),
            index=0,
            subject=LabelSelector((Requirement(RESERVED_SOURCE, "health", Operator.EXISTS),)),
            enforces=frozenset(),
            rules=(
                Rule(
                    RuleRef(kind="", namespace="", name=_NAME, direction=Direction.INGRESS, index=0, path=""),
                    peer_set(peer for entity in _PROBERS for peer in entity_peers(entity, "")),
                    (ANY_PORT,),
                ),
            ),
        ),
    ),
)
"""A deny-all of all endpoints must not make every node look as if it were down."""
