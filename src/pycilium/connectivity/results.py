"""What a run came to: tests, their findings, and the whole. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pycilium.connectivity.judging import Judgement

State = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class TestResult:
    """One test.

    Attributes:
        skipped: scenarios that could not run, and why.
        findings: what is wrong besides the actions, in words.
    """

    __test__ = False  # no test of pytest's

    name: str
    judgements: Sequence[Judgement] = ()
    checked: Sequence[str] = ()
    """Checks that ran: scenarios that send nothing."""
    findings: Sequence[str] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)
    took_s: float = 0.0

    @property
    def failures(self) -> list[Judgement]:
        return [judgement for judgement in self.judgements if not judgement.right]

    @property
    def state(self) -> State:
        if self.failures or self.findings:
            return "failed"
        return "passed" if self.judgements or self.checked else "skipped"

    @property
    def why_skipped(self) -> str:
        return "; ".join(dict.fromkeys(self.skipped.values()))

    def lines(self) -> list[str]:
        """For people: what is wrong."""
        return [*self.findings, *(line for judgement in self.failures for line in judgement.lines())]

    @property
    def plain(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "state": self.state,
            "actions": len(self.judgements),
            "tookSeconds": round(self.took_s, 3),
            "skippedScenarios": dict(self.skipped),
            "findings": list(self.findings),
            "failures": [
                {
                    "action": str(failed.action),
                    "expected": str(failed.expected),
                    "found": str(failed.result),
                    "wrong": list(failed.wrong),
                    "flows": [str(flow) for flow in failed.flows],
                }
                for failed in self.failures
            ],
        }


@dataclass(frozen=True, slots=True)
class Report:
    """A whole run."""

    where: str
    results: Sequence[TestResult]
    took_s: float
    without_flows: str = ""
    """Why no flows were looked at; "": they were."""

    def of(self, state: State) -> list[TestResult]:
        return [result for result in self.results if result.state == state]

    @property
    def passed(self) -> bool:
        return not self.of("failed")

    @property
    def plain(self) -> dict[str, Any]:
        return {
            "where": self.where,
            "passed": self.passed,
            "tookSeconds": round(self.took_s, 3),
            "flows": self.without_flows or "checked",
            "tests": [result.plain for result in self.results],
        }

    def summary(self) -> str:
        """The last lines that people read."""
        ran = [result for result in self.results if result.state != "skipped"]
        failed, skipped = self.of("failed"), len(self.results) - len(ran)
        counts = [f"{actions} actions"] if (actions := sum(len(result.judgements) for result in ran)) else []
        counts += [f"{skipped} skipped"] if skipped else []
        tail = ", ".join((*counts, f"in {self.took_s:.0f} s"))
        tail += f". Flows were not looked at: {self.without_flows}." if self.without_flows else "."
        if not failed:
            return f"All tests passed: {len(ran)} {'test' if len(ran) == 1 else 'tests'}, {tail}"
        names = (f"  {result.name}: {len(result.failures) + len(result.findings)} wrong" for result in failed)
        return "\n".join((f"{len(failed)} of {len(ran)} tests failed: {tail}", *names))
