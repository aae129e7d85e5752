"""Stages: what is referred to is written first and removed last."""

from __future__ import annotations

import pytest

from pycilium.reconcile import Backoff, Reconciler, RoundResult, Stages, Status
from tests.unit.reconcile.fake_target import FakeTarget, TargetError


class Bench:
    """Two stages, rows and the policies that refer to them, with one trace of both."""

    def __init__(self):
        self.trace = []
        self.row_target, self.policy_target = FakeTarget(self.trace, "rows"), FakeTarget(self.trace, "policies")
        backoff = Backoff(first_s=1)
        self.rows = Reconciler("rows", self.row_target, backoff=backoff)
        self.policies = Reconciler("policies", self.policy_target, backoff=backoff)
        self.link_target = FakeTarget(self.trace, "links")
        self.links = Reconciler("links", self.link_target, backoff=backoff)
        self.stages = Stages([self.rows, self.policies])
        self.grouped = Stages([self.rows, Stages([self.policies]), self.links])


@pytest.fixture
def bench():
    return Bench()


def test_updates_go_in_order_and_deletions_in_reverse(bench):
    bench.rows.desired_set("row1", "old")
    bench.policies.desired_set("policy1", "row1")
    bench.stages.run_round(0)
    bench.rows.desired_delete("row1")
    bench.policies.desired_delete("policy1")
    bench.rows.desired_set("row2", "new")
    bench.policies.desired_set("policy2", "row2")

    result = bench.stages.run_round(1)

    assert bench.trace[2:] == [
        "rows update row2=new",
        "policies update policy2=row2",
        "policies delete policy1",
        "rows delete row1",
    ]
    assert result == RoundResult(updated=2, deleted=2, failed=0, next_due=None)
    assert bench.stages.in_sync


def test_a_deletion_waits_until_what_may_refer_to_it_was_updated(bench):
    bench.rows.desired_set("row1", "old")
    bench.policies.desired_set("policy", "row1")
    bench.stages.run_round(0)
    bench.policy_target.failing = {"policy"}
    bench.rows.desired_delete("row1")
    bench.rows.desired_set("row2", "new")
    bench.policies.desired_set("policy", "row2")

    held_back = bench.stages.run_round(1)
    content_between = dict(bench.row_target.content)
    bench.policy_target.failing = set()
    finished = bench.stages.run_round(2)

    assert held_back == RoundResult(updated=1, deleted=0, failed=1, next_due=2)
    assert content_between == {"row1": "old", "row2": "new"}
    assert finished == RoundResult(updated=1, deleted=1, failed=0, next_due=None)
    assert bench.row_target.content == {"row2": "new"}


def test_a_deletion_waits_until_what_refers_to_it_is_deleted(bench):
    bench.rows.desired_set("row", "x")
    bench.policies.desired_set("policy", "row")
    bench.stages.run_round(0)
    bench.policy_target.failing = {"policy"}
    bench.rows.desired_delete("row")
    bench.policies.desired_delete("policy")

    bench.stages.run_round(1)

    assert bench.row_target.content == {"row": "x"}


def test_a_failing_stage_does_not_hold_back_its_own_deletions_or_later_updates(bench):
    """A full map must be able to make room."""
    bench.rows.desired_set("row1", "old")
    bench.stages.run_round(0)
    bench.row_target.failing = {"row2"}
    bench.rows.desired_delete("row1")
    bench.rows.desired_set("row2", "new")
    bench.policies.desired_set("policy", "row2")

    bench.stages.run_round(1)

    assert bench.row_target.content == {}
    assert bench.policy_target.content == {"policy": "row2"}


def test_what_fails_can_be_listed_for_health(bench):
    bench.row_target.failing = {"row1"}
    bench.rows.desired_set("row1", "x")
    bench.stages.run_round(3)

    assert list(bench.stages.failing()) == [("rows", "row1", Status("error", 3, TargetError("row1 refused"), 1))]


def test_a_target_that_cannot_be_read_does_not_keep_the_others_from_it(bench):
    bench.row_target.raising = True
    bench.policy_target.content = {"policy": "x"}

    with pytest.raises(ExceptionGroup) as caught:
        bench.stages.resync()

    assert [error.__notes__ for error in caught.value.exceptions] == [["while reading rows"]]
    assert set(bench.policies.tracker.pending_deletions) == {"policy"}


def test_stages_within_stages_hold_back_nothing_outside_of_them(bench):
    for reconciler in (bench.rows, bench.policies, bench.links):
        reconciler.desired_set("old", "x")
    bench.grouped.run_round(0)
    bench.policy_target.failing = {"new"}
    bench.policies.desired_set("new", "x")
    for reconciler in (bench.rows, bench.policies, bench.links):
        reconciler.desired_delete("old")

    result = bench.grouped.run_round(1)

    assert bench.trace[-4:] == ["policies update new=x", "links delete old", "policies delete old", "rows delete old"]
    assert result == RoundResult(updated=0, deleted=3, failed=1, next_due=2)
    assert bench.grouped.in_sync
    assert [(name, key) for name, key, _ in bench.grouped.failing()] == [("policies", "new")]
    assert [reconciler.name for reconciler in bench.grouped.reconcilers] == ["rows", "policies", "links"]
