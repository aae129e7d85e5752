"""`cilium policy explain`, and the nearest rule for a denied flow: questions to the policy engine in the API's words."""

from __future__ import annotations

from pycilium.agent.intent import Intent
from pycilium.api.messages import ExplainReply, ExplainRequest
from pycilium.errors import CiliumError
from pycilium.hubble.directories import Decision
from pycilium.policy import PolicyEngine


def answer(intent: Intent, engine: PolicyEngine, request: ExplainRequest) -> ExplainReply:
    """Who decides whether `source` may reach `destination`, and how."""
    raise CiliumError("not wired yet")


def nearest(intent: Intent, engine: PolicyEngine, decision: Decision) -> str:
    """One line: the rule that comes nearest to allowing what was denied."""
    return ""
