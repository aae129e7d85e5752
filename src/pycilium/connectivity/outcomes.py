"""What a test expects of an action, as data: let through, or denied by whom, why and on which side. Pure.

Invariant: of several expectations the first that fits decides; what none fits is expected to be let through.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pycilium.connectivity.flows import POLICY_DENIED, POLICY_DENY
from pycilium.connectivity.scenarios import Action

Side = Literal["egress", "ingress"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is to come of an action.

    Attributes:
        denied: on which side the first packet is to be dropped; None: it gets through.
        reason: the drop's.
        policies: who is to be named as having decided, by side. A side that is not there is not looked at.
    """

    denied: Side | None = None
    reason: str = ""
    policies: Mapping[Side, str] = field(default_factory=dict)

    def __str__(self) -> str:
        by = ", ".join(f"{side} by {name}" for side, name in self.policies.items())
        if self.denied is None:
            return f"let through{f' ({by})' if by else ''}"
        return f"dropped at {self.denied}, {self.reason}{f' ({by})' if by else ''}"


LET_THROUGH = Outcome()


def allowed(*, egress: str = "", ingress: str = "") -> Outcome:
    """Let through, by these policies."""
    named: dict[Side, str] = {}
    if egress:
        named["egress"] = egress
    if ingress:
        named["ingress"] = ingress
    return Outcome(policies=named)


def not_allowed(side: Side, restricted_by: str) -> Outcome:
    """No rule allows it, where a policy restricts."""
    return Outcome(side, POLICY_DENIED, {side: restricted_by})


def forbidden(side: Side, by: str) -> Outcome:
    """A rule denies it."""
    return Outcome(side, POLICY_DENY, {side: by})


@dataclass(frozen=True, slots=True)
class Expectation:
    """Of actions whose ends have these labels; `scenarios`, if any, are those that it is about."""

    source: Mapping[str, str]
    destination: Mapping[str, str]
    outcome: Outcome
    scenarios: tuple[str, ...] = ()
    address: str = ""
    """Only of probes of an address that this placeholder means, see `policies.placeholders`."""

    def fits(self, action: Action, addresses: Mapping[str, str]) -> bool:
        if self.scenarios and action.scenario not in self.scenarios:
            return False
        if self.address and action.probe.address not in (
            addresses.get(f"{self.address}_{family}") for family in ("IPV4", "IPV6")
        ):
            return False
        return all(action.source.labels.get(key) == value for key, value in self.source.items()) and all(
            action.destination.labels.get(key) == value for key, value in self.destination.items()
        )


def expected(expectations: Sequence[Expectation], action: Action, addresses: Mapping[str, str]) -> Outcome:
    """What is expected of an action."""
    return next((each.outcome for each in expectations if each.fits(action, addresses)), LET_THROUGH)
