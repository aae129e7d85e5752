"""Whether an action went as expected: what came of the probe, and what Hubble saw of it. Pure.

A finding says in words what is wrong. `incomplete` tells those that may yet become right: flows that have not come in.
Invariant: an action is right only if the probe and the flows both say so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pycilium.connectivity.flows import Flow, of_connection, of_echo
from pycilium.connectivity.outcomes import Outcome
from pycilium.connectivity.probes import ProbeResult
from pycilium.connectivity.scenarios import Action

FLOWS_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was found of one action.

    Attributes:
        wrong: in words; empty: it went as expected.
        incomplete: whether all that is wrong is that flows are missing.
        flows: those of the action.
    """

    action: Action
    expected: Outcome
    result: ProbeResult
    wrong: tuple[str, ...]
    incomplete: bool
    flows: tuple[Flow, ...]

    @property
    def right(self) -> bool:
        return not self.wrong

    def lines(self) -> list[str]:
        """For people: what was tried, what is wrong, and the flows."""
        shown = [f"  {flow}" for flow in self.flows[:FLOWS_SHOWN]]
        if len(self.flows) > FLOWS_SHOWN:
            shown.append(f"  … and {len(self.flows) - FLOWS_SHOWN} more")
        head = [str(self.action), f"  expected: {self.expected}", f"  found:    {self.result}"]
        return [*head, *(f"  wrong:    {each}" for each in self.wrong), "  flows:", *(shown or ["  none"])]


def judge(
    action: Action, outcome: Outcome, result: ProbeResult, flows: Iterable[Flow], *, with_flows: bool = True
) -> Judgement:
    """`flows` are all that were seen meanwhile; without them (`with_flows` False) the probe alone is judged."""
    own = flows_of(action, result, flows)
    wrong = list(_wrong_result(outcome, result))
    missing = _wrong_flows(action, outcome, own) if with_flows else []
    return Judgement(action, outcome, result, (*wrong, *missing), not wrong and bool(missing), tuple(own))


def flows_of(action: Action, result: ProbeResult, flows: Iterable[Flow]) -> list[Flow]:
    """Those that the action caused, by its own address and port, and by those that the other side saw."""
    address, port = result.local
    if action.probe.protocol == "icmp":
        return of_echo(flows, address or action.own_address, action.probe.address)
    sides = {end for end in ((address or action.own_address, port), result.seen) if end[1]}
    return of_connection(flows, action.probe.protocol, sides)


def _wrong_result(outcome: Outcome, result: ProbeResult) -> Iterable[str]:
    if outcome.denied is None and not result.answered:
        yield "it was to be let through, and had no answer"
    elif outcome.denied is not None and result.answered:
        yield "it was to be denied, and was answered"
    elif outcome.denied is not None and result.error != "ETIMEDOUT":
        yield f"its packets were to be dropped without a word, and it failed with {result.error}"


def _wrong_flows(action: Action, outcome: Outcome, flows: Sequence[Flow]) -> list[str]:
    drops = [flow for flow in flows if flow.dropped]
    if outcome.denied is not None:
        return _wrong_drops(outcome, drops)
    wrong = [f"a packet of it was dropped: {flow.drop_reason or flow.summary}" for flow in drops[:1]]
    stays_inside = action.source == action.destination  # a socket is connected to its own pod: no packet leaves it
    if not stays_inside and not any(_begins(flow, action) for flow in flows):
        what = {"tcp": "its SYN", "udp": "its datagram", "icmp": "its echo request"}[action.probe.protocol]
        wrong.append(f"Hubble has not seen {what}")
    for side, policy in outcome.policies.items():
        if not any(policy in flow.policies.get(f"{side}_allowed_by", ()) for flow in flows):
            wrong.append(
                f"no flow names policy {policy} as having allowed it at {side}{_others(flows, side, 'allowed')}"
            )
    return wrong


def _wrong_drops(outcome: Outcome, drops: Sequence[Flow]) -> list[str]:
    fitting = [flow for flow in drops if (flow.direction, flow.drop_reason) == (outcome.denied, outcome.reason)]
    if not drops:
        return ["Hubble has seen no drop of it"]
    if not fitting:
        found = dict.fromkeys(f"{flow.drop_reason} at {flow.direction or 'no side'}" for flow in drops)
        return [f"Hubble has seen other drops of it: {', '.join(found)}"]
    return [
        f"no drop names policy {policy} as having denied it at {side}{_others(drops, side, 'denied')}"
        for side, policy in outcome.policies.items()
        if not any(policy in flow.policies.get(f"{side}_denied_by", ()) for flow in fitting)
    ]


def _begins(flow: Flow, action: Action) -> bool:
    if flow.is_reply or flow.dropped:
        return False
    return {"tcp": flow.syn, "udp": True, "icmp": flow.echo_request}[action.probe.protocol]


def _others(flows: Iterable[Flow], side: str, did: str) -> str:
    names = dict.fromkeys(name for flow in flows for name in flow.policies.get(f"{side}_{did}_by", ()))
    return f"; named are {', '.join(names)}" if names else ""
