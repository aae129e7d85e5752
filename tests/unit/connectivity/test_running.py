"""A run: what it asks of a ground, what it makes of what comes back, and that nothing is left of it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from pycilium.connectivity.catalogue import ConnectivityTest, all_tests
from pycilium.connectivity.results import Report, TestResult
from pycilium.connectivity.running import Patience, Run
from pycilium.connectivity.selection import Selection
from pycilium.errors import CiliumError
from tests.unit.connectivity.arenas import arena
from tests.unit.connectivity.fake_ground import FakeGround

IMPATIENT = Patience(flows_s=0.0, settling_s=0.0)
BY_NAME = {test.name: test for test in all_tests()}
NOTHING: set[str] = set()


def run_of(ground: FakeGround, *patterns: str, patience: Patience = IMPATIENT, with_flows: bool = True) -> Run:
    return Run(ground, ground.tests, Selection.of(patterns), patience, with_flows=with_flows)


def ground_for(*names: str, **asked: object) -> FakeGround:
    return FakeGround([BY_NAME[name] for name in names], **asked)  # type: ignore[arg-type]


async def result_of(ground: FakeGround, **asked: object) -> TestResult:
    (result,) = (await run_of(ground, **asked).run()).results  # type: ignore[arg-type]
    return result


@pytest.mark.parametrize("nodes", [1, 2])
async def test_where_all_is_as_expected_every_test_passes_and_nothing_is_left(nodes: int):
    ground = FakeGround(all_tests(), arena(nodes))

    report = await run_of(ground).run()

    assert [result.name for result in report.results if result.state != "passed"] == []
    assert (len(report.results), ground.made, ground.policies) == (len(all_tests()), NOTHING, [])


async def test_only_what_is_selected_runs():
    report = await run_of(FakeGround(all_tests()), "client-egress/pod-to-pod$", "^health$").run()

    assert [result.name for result in report.results] == ["client-egress", "health"]
    assert {str(each.action.scenario) for each in report.results[0].judgements} == {"pod-to-pod"}


async def test_an_answer_that_should_not_have_come_fails_the_test_and_names_the_action():
    def let_in(action, result, flows):
        return replace(result, answered=True, error=""), flows

    result = await result_of(ground_for("all-egress-deny", meddle=let_in))

    assert result.state == "failed"
    assert result.lines()[3] == "  wrong:    it was to be denied, and was answered"


async def test_flows_that_come_late_are_waited_for():
    result = await result_of(ground_for("no-policies", flows_after=3), patience=Patience())

    assert result.state == "passed"


async def test_flows_that_never_come_fail_the_test():
    result = await result_of(ground_for("client-ingress", meddle=lambda _, result, __: (result, [])))

    assert {each for failure in result.failures for each in failure.wrong} >= {"Hubble has not seen its echo request"}


async def test_without_flow_validation_hubble_is_not_asked():
    ground = ground_for("no-policies", meddle=lambda _, result, __: (result, []))

    result = await result_of(ground, with_flows=False)

    assert (result.state, ground.asked_for_flows) == ("passed", 0)


async def test_probes_wait_until_every_agent_enforces_the_tests_policies():
    result = await result_of(ground_for("all-egress-deny", lag=3), patience=Patience())

    assert result.state == "passed"


async def test_an_agent_that_does_not_take_in_a_policy_is_named():
    ground = ground_for("all-egress-deny", lag=10**6)

    with pytest.raises(
        CiliumError, match="the agent of node1 has not taken in that these policies came or went: deny-all-"
    ):
        await run_of(ground).run()
    assert (ground.made, ground.policies) == (NOTHING, [])


async def test_what_nobody_can_take_part_in_is_skipped_with_its_reason():
    result = await result_of(ground_for("no-policies-extra", here=arena(1, services=False)))

    assert (result.state, result.why_skipped) == ("skipped", "there is one node; nobody here could take part")


@pytest.mark.parametrize(
    ("broken", "name", "found"),
    [
        ("health", "health", "node1 cannot reach everything: 0 of 1 nodes are known"),
        ("drops", "no-unexpected-packet-drops", "node1 dropped 1 packets: No tunnel"),
    ],
)
async def test_a_check_that_finds_something_fails(broken: str, name: str, found: str):
    result = await result_of(ground_for(name, broken=broken))

    assert (result.state, list(result.findings)) == ("failed", [found])


async def test_errors_in_agents_logs_fail_their_check():
    result = await result_of(ground_for("check-log-errors", errors=["node1: level=error"]))

    assert list(result.findings) == ["node1: level=error"]


@pytest.mark.parametrize("broken", ["prepare", "probe"])
async def test_a_ground_that_breaks_is_cleared_all_the_same(broken: str):
    ground = ground_for("no-policies", broken=broken)

    with pytest.raises(CiliumError):
        await run_of(ground).run()
    assert (ground.made, ground.policies) == (NOTHING, [])


async def test_a_run_that_is_interrupted_leaves_nothing():
    probing = asyncio.Event()

    class Slow(FakeGround):
        async def probe(self, source, probes):
            probing.set()
            await asyncio.Event().wait()

    ground = Slow([BY_NAME["client-egress"]])
    task = asyncio.create_task(run_of(ground).run())
    await probing.wait()
    left = set(ground.made), list(ground.policies)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert left == ({"claim", "pods"}, ["client-egress-to-echo"])
    assert (ground.made, ground.policies) == (NOTHING, [])


async def test_another_runs_pods_are_left_alone():
    ground = ground_for("no-policies", taken=True)
    ground.made.add("pods of the other")

    with pytest.raises(CiliumError, match="another run"):
        await run_of(ground).run()
    assert ground.made == {"pods of the other"}


async def test_each_test_is_told_when_it_ends():
    told: list[tuple[str, int, int]] = []
    ground = ground_for("no-policies", "health")
    run = run_of(ground)
    run.ended = lambda result, number, of: told.append((result.name, number, of))

    report: Report = await run.run()

    assert told == [("no-policies", 1, 2), ("health", 2, 2)]
    assert report.passed


def test_the_twins_are_in_the_catalogue():
    assert isinstance(BY_NAME["client-egress-port-range"], ConnectivityTest)
