"""A ground without pods: what is probed comes to what was expected, unless a test says otherwise.

It keeps what was made, so that tests see whether anything is left.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pycilium.connectivity.agents import Question
from pycilium.connectivity.arena import NAMESPACE, Arena, Peer
from pycilium.connectivity.catalogue import ConnectivityTest
from pycilium.connectivity.flows import Flow
from pycilium.connectivity.grounds import Tell
from pycilium.connectivity.outcomes import expected
from pycilium.connectivity.policies import Plain, placeholders
from pycilium.connectivity.probes import Probe, ProbeResult
from pycilium.connectivity.scenarios import SCENARIOS, Action
from pycilium.errors import CiliumError
from tests.unit.connectivity.arenas import arena

Meddle = Callable[[Action, ProbeResult, list[Flow]], tuple[ProbeResult, list[Flow]]]


@dataclass
class FakeGround:
    """Attributes:
    tests: by whose expectations packets fare.
    meddle: makes of what an action comes to something else.
    flows_after: how often flows are asked for in vain before they are there.
    lag: how often agents are asked before they know of a change.
    """

    tests: Sequence[ConnectivityTest]
    here: Arena = field(default_factory=lambda: arena(1))
    meddle: Meddle = lambda _, result, flows: (result, flows)
    flows_after: int = 0
    lag: int = 0
    taken: bool = False
    broken: str = ""
    drops: int = 0
    errors: list[str] = field(default_factory=list)
    name: str = "a fake"
    nodes: Sequence[str] = ("node1",)
    made: set[str] = field(default_factory=set)
    policies: list[str] = field(default_factory=list)
    seen: list[Flow] = field(default_factory=list)
    asked_for_flows: int = 0
    behind: int = 0
    ports: int = 40000

    async def claim(self) -> None:
        if self.taken:
            raise CiliumError("another run is under way")
        self.made.add("claim")

    async def prepare(self, tell: Tell) -> Arena:
        self.made.add("pods")
        if self.broken == "prepare":
            raise CiliumError("no pod starts")
        return self.here

    async def clear(self, tell: Tell) -> None:
        self.made.clear()
        self.policies.clear()

    async def apply(self, policies: Sequence[Plain]) -> None:
        self.policies += [policy["metadata"]["name"] for policy in policies]
        self.behind, self.seen = self.lag, []  # a test's flows are those since it began

    async def withdraw(self, policies: Sequence[Plain]) -> None:
        for policy in policies:
            self.policies.remove(policy["metadata"]["name"])

    async def ask(self, node: str, question: Question) -> Any:
        match question:
            case "/policy":
                self.behind -= 1
                known = [] if self.behind >= 0 else self.policies
                return {"policy": json.dumps([{"metadata": {"name": name, "namespace": NAMESPACE}} for name in known])}
            case "/ip":
                addresses = [each for peer in self.here.peers for of in peer.addresses.values() for each in of]
                return [{"cidr": f"{address}/32", "identity": 40000} for address in addresses]
            case "/service":
                frontends = [each for service in self.here.services for each in service.addresses.values()]
                return [
                    {"spec": {"frontend-address": {"ip": each, "port": 8080}, "backend-addresses": [{}]}}
                    for each in frontends
                ]
            case "/map/metrics":
                self.drops += 1 if self.broken == "drops" else 0
                key = "reason=160 (No tunnel) direction=egress"
                return {"cache": [{"key": key, "value": f"packets={self.drops} bytes=1"}]}
            case _:
                return {"nodes": [{"name": "node1"}] if self.broken != "health" else []}

    async def probe(self, source: Peer, probes: Sequence[Probe]) -> list[ProbeResult]:
        if self.broken == "probe":
            raise CiliumError("the pod is gone")
        return [self._tried(source, probe) for probe in probes]

    async def flows(self, since_s: float) -> list[Flow]:
        self.asked_for_flows += 1
        return self.seen if self.asked_for_flows > self.flows_after else []

    async def log_errors(self) -> list[str]:
        return self.errors

    def _tried(self, source: Peer, probe: Probe) -> ProbeResult:
        action, test = self._meant(source, probe)
        outcome = expected(test.expectations, action, placeholders(self.here))
        self.ports += 1
        local = (action.own_address, 0 if probe.protocol == "icmp" else self.ports)
        denied = outcome.denied is not None
        result = ProbeResult(not denied, "ETIMEDOUT" if denied else "", local, took_s=0.001)
        did = "denied" if denied else "allowed"
        flow = Flow(
            time="2026-01-02T03:04:05Z",
            node=source.node,
            verdict="DROPPED" if denied else "FORWARDED",
            source=local[0],
            destination=probe.address,
            protocol=probe.protocol,
            ports=(local[1], probe.port),
            ends=(source.name, action.destination.name),
            direction=outcome.denied or "egress",
            syn=probe.protocol == "tcp",
            echo_request=probe.protocol == "icmp",
            drop_reason=outcome.reason,
            policies={f"{side}_{did}_by": (name,) for side, name in outcome.policies.items()},
        )
        result, flows = self.meddle(action, result, [flow])
        self.seen += flows
        return result

    def _meant(self, source: Peer, probe: Probe) -> tuple[Action, ConnectivityTest]:
        """The action of the test whose policies are in force."""
        for test in self.tests:
            if list(test.policies) == self.policies:
                for name in test.scenarios:
                    for action in SCENARIOS[name].actions(self.here) if name in SCENARIOS else ():
                        if action.source == source and replace(action.probe, timeout_s=probe.timeout_s) == probe:
                            return action, test
        raise AssertionError(f"nobody asked {source} for {probe}")
