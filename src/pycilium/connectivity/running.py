"""A run: the ground made ready, every test tried and judged, everything taken away again.

Tests run one after the other, since policies of one would judge the packets of another; within a test everything runs
at once. Invariant: `run` has cleared the ground when it ends, whether it returns, raises or is cancelled.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Container, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pycilium.connectivity import agents
from pycilium.connectivity.arena import PORT, Arena
from pycilium.connectivity.catalogue import CHECKS, ConnectivityTest
from pycilium.connectivity.flows import Flow
from pycilium.connectivity.grounds import Ground, Tell
from pycilium.connectivity.judging import Judgement, judge
from pycilium.connectivity.outcomes import Outcome, expected
from pycilium.connectivity.policies import load, placeholders
from pycilium.connectivity.probes import ProbeResult
from pycilium.connectivity.results import Report, TestResult
from pycilium.connectivity.scenarios import SCENARIOS, Action
from pycilium.connectivity.selection import Selection
from pycilium.errors import CiliumError

Ended = Callable[[TestResult, int, int], None]
"""Told of each test that ended, its number and how many there are."""

_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Patience:
    """How long what may be waited for.

    Attributes:
        answer_s: for an answer that is expected.
        silence_s: before no answer counts as none, where none is expected.
        flows_s: for flows that are missing.
        settling_s: for agents that are to know something.
    """

    answer_s: float = 5.0
    silence_s: float = 1.0
    flows_s: float = 10.0
    settling_s: float = 30.0


@dataclass(slots=True)
class Run:
    """One run on one ground.

    Attributes:
        with_flows: whether Hubble is asked.
    """

    ground: Ground
    tests: Sequence[ConnectivityTest]
    selection: Selection = field(default_factory=Selection)
    patience: Patience = field(default_factory=Patience)
    with_flows: bool = True
    tell: Tell = lambda _: None
    ended: Ended = lambda *_: None
    _arena: Arena = field(default_factory=lambda: Arena((), ()))
    _drops: dict[str, dict[str, int]] = field(default_factory=dict)

    async def run(self) -> Report:
        """Everything that is selected; errors are those of the ground, not of tests."""
        began = time.monotonic()
        chosen = [(test, self.selection.scenarios(test.name, test.scenarios)) for test in self.tests]
        chosen = [(test, scenarios) for test, scenarios in chosen if scenarios]
        await self.ground.claim()
        try:
            self._arena = await self.ground.prepare(self.tell)
            await self._settled({name for _, scenarios in chosen for name in scenarios})
            self._drops = {node: await self._drops_of(node) for node in self.ground.nodes}
            results = []
            for number, (test, scenarios) in enumerate(chosen, 1):
                self.tell(f"{test.name} ({number} of {len(chosen)})")
                result = await self._tested(replace(test, scenarios=scenarios))
                results.append(result)
                self.ended(result, number, len(chosen))
        finally:
            self.tell("taking everything away")
            await self.ground.clear(self.tell)
        why = "" if self.with_flows else "--flow-validation disabled"
        return Report(self.ground.name, results, time.monotonic() - began, why)

    async def _tested(self, test: ConnectivityTest) -> TestResult:
        began = time.monotonic()
        lacking = {name: SCENARIOS[name].lacking(self._arena) for name in test.scenarios if name in SCENARIOS}
        skipped = {name: why for name, why in lacking.items() if why}
        values = placeholders(self._arena)
        planned = [
            (action, expected(test.expectations, action, values))
            for name in lacking
            if name not in skipped
            for action in SCENARIOS[name].actions(self._arena)
        ]
        checks = [name for name in test.scenarios if name in CHECKS]
        findings = [finding for name in checks for finding in await self._checked(name)]
        judgements = await self._tried(test, planned, values) if planned else []
        return TestResult(test.name, judgements, checks, findings, skipped, time.monotonic() - began)

    async def _tried(
        self, test: ConnectivityTest, planned: Sequence[tuple[Action, Outcome]], values: Mapping[str, str]
    ) -> list[Judgement]:
        policies = [load(name, values) for name in test.policies]
        try:
            await self.ground.apply(policies)
            await self._in_force(frozenset(policy["metadata"]["name"] for policy in policies))
            since_s = time.time()
            results = await self._probed(planned)
            return await self._judged(planned, results, since_s)
        finally:
            await self.ground.withdraw(policies)

    async def _probed(self, planned: Sequence[tuple[Action, Outcome]]) -> list[ProbeResult]:
        """All at once, each source's in one go; in the order of `planned`."""
        of_source: dict[str, list[int]] = {}
        for index, (action, _) in enumerate(planned):
            of_source.setdefault(action.source.name, []).append(index)
        found: dict[int, ProbeResult] = {}

        async def probe(indexes: list[int]) -> None:
            probes = [self._patient(*planned[index]) for index in indexes]
            results = await self.ground.probe(planned[indexes[0]][0].source, probes)
            found.update(zip(indexes, results, strict=True))

        await _all(map(probe, of_source.values()))
        return [found[index] for index in range(len(planned))]

    def _patient(self, action: Action, outcome: Outcome) -> Any:
        patience = self.patience
        return replace(action.probe, timeout_s=patience.answer_s if outcome.denied is None else patience.silence_s)

    async def _judged(
        self, planned: Sequence[tuple[Action, Outcome]], results: Sequence[ProbeResult], since_s: float
    ) -> list[Judgement]:
        """Flows may come in later than answers: what lacks nothing else is judged again, for a while."""
        deadline = time.monotonic() + self.patience.flows_s
        while True:
            flows: list[Flow] = await self.ground.flows(since_s) if self.with_flows else []
            judgements = [
                judge(action, outcome, result, flows, with_flows=self.with_flows)
                for (action, outcome), result in zip(planned, results, strict=True)
            ]
            if not any(each.incomplete for each in judgements) or time.monotonic() > deadline:
                return judgements
            await asyncio.sleep(_POLL_S)

    async def _drops_of(self, node: str) -> dict[str, int]:
        return agents.drops(await self.ground.ask(node, "/map/metrics"))

    async def _settled(self, scenarios: Container[str]) -> None:
        """Until every agent knows all pods and, if one of the scenarios needs it, has somebody behind every Service."""
        pods = [peer for peer in self._arena.peers if peer.is_pod]
        addresses = [address for peer in pods for of_family in peer.addresses.values() for address in of_family]
        wanted = any("services" in each.needs for name, each in SCENARIOS.items() if name in scenarios)
        services = self._arena.services if wanted else ()
        frontends = [(address, PORT) for service in services for address in service.addresses.values()]
        self.tell("waiting until every agent knows them")
        await self._until(
            "/ip",
            lambda answer: agents.unknown_addresses(answer, addresses),
            lambda missing: f"does not know the pods at {', '.join(missing)}",
        )
        await self._until(
            "/service",
            lambda answer: agents.frontends_without_backends(answer, frontends),
            lambda missing: f"has nobody behind {', '.join(f'{address}:{port}' for address, port in missing)}",
        )

    async def _in_force(self, names: frozenset[str]) -> None:
        """Until every agent enforces just these of the test's policies."""
        await self._until(
            "/policy",
            lambda answer: sorted(names ^ agents.policies_in_force(answer)),
            lambda missing: f"has not taken in that these policies came or went: {', '.join(missing)}",
        )

    async def _until(
        self, question: agents.Question, missing: Callable[[Any], list[Any]], said: Callable[[list[Any]], str]
    ) -> None:
        """Until nothing is missing on any node; CiliumError, in words, when patience is at an end."""
        deadline = time.monotonic() + self.patience.settling_s

        async def wait(node: str) -> None:
            while found := missing(await self.ground.ask(node, question)):
                if time.monotonic() > deadline:
                    raise CiliumError(
                        f"the agent of {node} {said(found)} (waited {self.patience.settling_s:g} s); "
                        f"`cilium status` and its log may say why"
                    )
                await asyncio.sleep(_POLL_S)

        await _all(wait(node) for node in self.ground.nodes)

    async def _checked(self, name: str) -> list[str]:
        """What a check finds, in words."""
        if name == "no-errors-in-logs":
            return await self.ground.log_errors()
        found = []
        for node in self.ground.nodes:
            if name == "cilium-health":
                wrong = agents.unhealthy(await self.ground.ask(node, "health"), len(self.ground.nodes))
                found += [f"{node} cannot reach everything: {each}" for each in wrong]
            else:
                more = agents.unexpected_drops(self._drops.get(node, {}), await self._drops_of(node))
                found += [f"{node} dropped {count} packets: {reason}" for reason, count in more.items()]
        return found


async def _all(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """At once; the first error, by itself, ends the others."""
    try:
        async with asyncio.TaskGroup() as group:
            for each in work:
                group.create_task(each)
    except* CiliumError as errors:
        raise errors.exceptions[0] from None
