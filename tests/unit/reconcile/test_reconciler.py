"""One reconciler and one target: what is written, what fails, when it is tried again. Time is a number."""

from __future__ import annotations

import pytest

from pycilium.reconcile import Backoff, Outcome, Reconciler, Status
from tests.unit.reconcile.fake_target import FakeTarget, TargetError


@pytest.fixture
def target():
    return FakeTarget()


@pytest.fixture
def reconciler(target):
    return Reconciler("fake", target, backoff=Backoff(first_s=1, longest_s=4))


def run(reconciler, now):
    return reconciler.run_updates(now), reconciler.run_deletes(now)


def test_what_is_desired_is_written_in_one_batch_and_once(reconciler, target):
    reconciler.desired_set("a", 1)
    reconciler.desired_set("b", 2)
    reconciler.desired_set("b", 3)

    assert run(reconciler, now=0) == (Outcome(2, 0), Outcome(0, 0))
    assert run(reconciler, now=1) == (Outcome(0, 0), Outcome(0, 0))
    assert target.calls == ["update a=1, b=3"]
    assert reconciler.in_sync


def test_what_was_never_written_needs_no_deletion(reconciler, target):
    reconciler.desired_set("a", 1)
    reconciler.desired_delete("a")
    run(reconciler, now=0)

    assert target.calls == []


def test_what_nobody_wants_any_more_is_deleted(reconciler, target):
    reconciler.desired_set("a", 1)
    run(reconciler, now=0)
    reconciler.desired_delete("a")
    run(reconciler, now=1)

    assert target.content == {}
    assert reconciler.status("a") is None


def test_after_a_resync_only_the_difference_is_worked_off(reconciler, target):
    target.content = {"same": 1, "old": 1, "nobodys": 1}
    reconciler.desired_replace({"same": 1, "old": 2, "new": 1})

    reconciler.resync()
    run(reconciler, now=0)

    assert target.calls == ["update old=2, new=1", "delete nobodys"]
    assert target.content == {"same": 1, "old": 2, "new": 1}


def test_a_resync_that_fails_half_way_can_be_followed_by_one_that_succeeds(reconciler, target):
    target.content = {"a": 1, "b": 1, "c": 1, "d": 1}
    target.raising = True
    with pytest.raises(TargetError):
        reconciler.resync()

    target.raising = False
    reconciler.resync()
    run(reconciler, now=0)

    assert target.content == {}


class TestFailures:
    def test_a_failing_key_does_not_stop_the_others(self, reconciler, target):
        target.failing = {"bad"}
        reconciler.desired_set("bad", 1)
        reconciler.desired_set("good", 1)

        assert reconciler.run_updates(0) == Outcome(1, 1)
        assert target.content == {"good": 1}

    def test_a_failing_key_is_tried_again_with_growing_delays(self, reconciler, target):
        target.failing = {"bad"}
        reconciler.desired_set("bad", 1)

        tried = []
        for now in range(20):
            before = len(target.calls)
            reconciler.run_updates(now)
            if len(target.calls) > before:
                tried.append((now, reconciler.next_due()))

        assert tried == [(0, 1), (1, 3), (3, 7), (7, 11), (11, 15), (15, 19), (19, 23)]

    def test_a_failing_key_recovers_and_its_delays_begin_anew(self, reconciler, target):
        target.failing = {"bad"}
        reconciler.desired_set("bad", 1)
        run(reconciler, now=0)
        run(reconciler, now=1)
        target.failing = set()

        run(reconciler, now=3)

        assert reconciler.status("bad") == Status("done")
        assert reconciler.next_due() is None
        assert reconciler.errors == {}

    def test_a_new_value_for_a_failing_key_is_tried_at_once(self, reconciler, target):
        target.failing = {"bad"}
        reconciler.desired_set("bad", 1)
        run(reconciler, now=0)
        target.failing = set()
        reconciler.desired_set("bad", 2)

        run(reconciler, now=0.5)

        assert target.content == {"bad": 2}

    def test_the_same_value_again_does_not_cut_the_delay_short(self, reconciler, target):
        target.failing = {"bad"}
        reconciler.desired_set("bad", 1)
        run(reconciler, now=0)
        reconciler.desired_set("bad", 1)

        assert reconciler.run_updates(0.5) == Outcome(0, 0)

    def test_going_back_to_the_old_value_after_a_failure_writes_it_again(self, reconciler, target):
        """The failed write may have been done: believing the old value to be there still would leave the new one."""
        reconciler.desired_set("a", 1)
        run(reconciler, now=0)
        target.failing = target.applied_though_failing = {"a"}
        reconciler.desired_set("a", 2)
        run(reconciler, now=1)
        target.failing = set()

        reconciler.desired_set("a", 1)
        run(reconciler, now=2)

        assert target.content == {"a": 1}

    def test_giving_up_a_key_whose_only_write_failed_deletes_it_all_the_same(self, reconciler, target):
        target.failing = target.applied_though_failing = {"a"}
        reconciler.desired_set("a", 1)
        run(reconciler, now=0)
        target.failing = set()

        reconciler.desired_delete("a")
        run(reconciler, now=1)

        assert target.content == {}

    def test_operations_that_raise_count_as_the_failure_of_every_key(self, reconciler, target):
        target.raising = True
        reconciler.desired_replace({"a": 1, "b": 1})

        assert reconciler.run_updates(0) == Outcome(0, 2)
        assert reconciler.errors == {"a": TargetError("gone"), "b": TargetError("gone")}

    def test_a_failed_deletion_is_tried_again(self, reconciler, target):
        reconciler.desired_set("a", 1)
        run(reconciler, now=0)
        target.failing = {"a"}
        reconciler.desired_delete("a")
        run(reconciler, now=1)
        failed = reconciler.status("a")
        target.failing = set()

        run(reconciler, now=2)

        assert failed == Status("error", since=1, error=TargetError("a refused"), attempts=1)
        assert target.content == {}
        assert reconciler.next_due() is None

    def test_a_resync_that_finds_a_failed_key_in_order_ends_its_error(self, reconciler, target):
        target.failing = target.applied_though_failing = {"a"}
        reconciler.desired_set("a", 1)
        run(reconciler, now=0)

        reconciler.resync()

        assert reconciler.next_due() is None
        assert reconciler.in_sync


def test_status_says_how_far_a_key_has_come(reconciler, target):
    target.failing = {"bad"}
    reconciler.desired_set("good", 1)
    reconciler.desired_set("bad", 1)
    before = reconciler.status("good")
    run(reconciler, now=5)
    run(reconciler, now=6)

    assert before == Status("pending")
    assert reconciler.status("good") == Status("done")
    assert reconciler.status("bad") == Status("error", since=5, error=TargetError("bad refused"), attempts=2)
    assert reconciler.status("unknown") is None


def test_an_entry_that_is_not_ready_waits_and_holds_nobody_up(target):
    ready = set()
    reconciler = Reconciler("fake", target, ready=lambda key, value: key in ready)
    reconciler.desired_set("a", 1)
    reconciler.desired_set("b", 1)
    ready.add("a")
    reconciler.run_updates(0)
    first = dict(target.content)
    ready.add("b")

    reconciler.run_updates(0)

    assert first == {"a": 1}
    assert target.content == {"a": 1, "b": 1}


def test_it_shows_itself_in_one_line(reconciler):
    reconciler.desired_set("a", 1)

    assert repr(reconciler) == "<reconciler fake: <desired 1, realized 0, to update 1, to delete 0>, failing 0>"
