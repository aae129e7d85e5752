"""A run's results, for people, for programs and for CI."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from pycilium.connectivity.judging import judge
from pycilium.connectivity.junit import render
from pycilium.connectivity.outcomes import LET_THROUGH
from pycilium.connectivity.probes import ProbeResult
from pycilium.connectivity.results import Report, TestResult
from pycilium.connectivity.scenarios import SCENARIOS
from tests.unit.connectivity.arenas import arena

ACTION = SCENARIOS["pod-to-pod"].actions(arena(1))[0]
RIGHT = judge(ACTION, LET_THROUGH, ProbeResult(True), [], with_flows=False)
WRONG = judge(ACTION, LET_THROUGH, ProbeResult(False, "ETIMEDOUT", took_s=5.0), [], with_flows=False)
PASSED = TestResult("no-policies", (RIGHT, RIGHT), took_s=1.5)
FAILED = TestResult("client-egress", (RIGHT, WRONG), skipped={"pod-to-world": "there is no world"}, took_s=2.0)
UNHEALTHY = TestResult("health", checked=("cilium-health",), findings=("node1 is \x00 alone",))
SKIPPED = TestResult("north-south", skipped={"outside-to-nodeport": "there is no world"})


def test_a_test_is_what_its_actions_and_findings_are():
    assert [result.state for result in (PASSED, FAILED, UNHEALTHY, SKIPPED)] == [
        "passed",
        "failed",
        "failed",
        "skipped",
    ]


def test_all_that_passed_is_one_sentence():
    assert (
        Report("lab x", (PASSED, SKIPPED), 61.2).summary() == "All tests passed: 1 test, 2 actions, 1 skipped, in 61 s."
    )


def test_what_failed_is_named():
    assert Report("lab x", (PASSED, FAILED, UNHEALTHY, SKIPPED), 61.2).summary().splitlines() == [
        "2 of 3 tests failed: 4 actions, 1 skipped, in 61 s.",
        "  client-egress: 1 wrong",
        "  health: 1 wrong",
    ]


def test_that_no_flows_were_looked_at_is_said():
    assert Report("lab x", (PASSED,), 1.0, "--flow-validation disabled").summary() == (
        "All tests passed: 1 test, 2 actions, in 1 s. Flows were not looked at: --flow-validation disabled."
    )


def test_programs_get_all_of_it():
    plain = Report("lab x", (FAILED,), 3.0).plain

    assert (plain["passed"], plain["flows"], plain["tests"][0]["state"]) == (False, "checked", "failed")
    assert plain["tests"][0]["failures"][0]["wrong"] == ["it was to be let through, and had no answer"]


def test_junit_has_a_case_for_each_test_and_what_is_wrong_in_it():
    suites = ET.fromstring(render(Report("lab x", (PASSED, FAILED, UNHEALTHY, SKIPPED), 61.2), "2026-01-02T03:04:05Z"))
    (suite,) = suites
    cases = {case.get("name"): case for case in suite}

    assert {name: suites.get(name) for name in ("tests", "failures", "skipped")} == {
        "tests": "4",
        "failures": "2",
        "skipped": "1",
    }
    assert list(cases["no-policies"]) == []
    failure = cases["client-egress"].find("failure")
    assert failure is not None
    assert failure.get("message") == f"{ACTION}: it was to be let through, and had no answer"
    assert "expected: let through" in str(failure.text)
    assert cases["health"].find("failure").get("message") == "node1 is ? alone"
    assert cases["north-south"].find("skipped").get("message") == "there is no world"
