"""When the dead-man switch keeps, watches on, or rolls back: looks in, verdicts out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycilium.agent.deadman import AGAIN_S, FAILURES, LOOK_EVERY_S, PATIENCE_S, Look, Retrial, Verdict, Vigil

GATEWAY, STORE = "default gateway 172.18.0.1", "store"
BOTH = frozenset({GATEWAY, STORE})
WINDOW_S = 3.0
FINE = {GATEWAY: True, STORE: True}
CUT_OFF = {GATEWAY: False, STORE: True}


def judged(looks, before=BOTH) -> list[Verdict]:
    """The verdicts of looks that come every LOOK_EVERY_S, up to the first that ends the vigil."""
    vigil = Vigil(before, 0.0, WINDOW_S)
    verdicts = []
    for number, look in enumerate(looks, start=1):
        works, late = look if isinstance(look, tuple) else (look, False)
        verdicts.append(vigil.take(Look(number * LOOK_EVERY_S, works, late)))
        if verdicts[-1] is not Verdict.WATCH:
            break
    return verdicts


def test_what_does_no_harm_is_kept_when_the_window_is_over():
    verdicts = judged([FINE] * 40)

    assert verdicts[-1] is Verdict.KEEP
    assert len(verdicts) == WINDOW_S / LOOK_EVERY_S


@pytest.mark.parametrize("lost", [GATEWAY, STORE])
def test_what_worked_and_fails_for_a_while_is_rolled_back_before_the_window_is_over(lost):
    verdicts = judged([{**FINE, lost: False}] * 40)

    assert verdicts[-1] is Verdict.ROLL_BACK
    assert len(verdicts) * LOOK_EVERY_S < WINDOW_S


def test_what_did_not_work_before_is_not_held_against_the_change():
    assert judged([CUT_OFF] * 40, before=frozenset({STORE}))[-1] is Verdict.KEEP
    assert judged([{}] * 40, before=frozenset())[-1] is Verdict.KEEP


def test_a_lost_answer_is_no_reason():
    assert judged([FINE, CUT_OFF, CUT_OFF, FINE] * 10)[-1] is Verdict.KEEP


def test_a_failure_at_the_end_of_the_window_is_watched_until_it_is_clear_what_it_is():
    at_the_end = [FINE] * 11
    assert judged([*at_the_end, *[CUT_OFF] * 20])[-1] is Verdict.ROLL_BACK
    assert judged([*at_the_end, CUT_OFF, CUT_OFF, FINE])[-1] is Verdict.KEEP


def test_looks_that_came_late_prove_nothing():
    verdicts = judged([(CUT_OFF, True)] * 11 + [FINE] * 2)

    assert verdicts[-1] is Verdict.KEEP


def test_the_reason_says_what_was_lost_and_when():
    vigil = Vigil(BOTH, 100.0, WINDOW_S)
    for at in (100.25, 100.5, 101.0, 101.6):
        vigil.take(Look(at, {GATEWAY: at < 100.4, STORE: True}))

    assert vigil.reason(101.6) == "default gateway 172.18.0.1 stopped answering 0.5 s after the change"


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60))
def test_it_rolls_back_exactly_when_failures_last_too_long(history):
    """The oracle: some run of looks without an answer, late ones aside, that is long enough."""
    looks = [({GATEWAY: works}, late) for works, late in history]
    verdicts = judged(looks, before=frozenset({GATEWAY}))

    counted = history[: len(verdicts)]
    since, times, lost = None, 0, False
    for number, (works, late) in enumerate(counted, start=1):
        now = number * LOOK_EVERY_S
        if works:
            since, times = None, 0
        elif not late:
            since, times = (now if since is None else since), times + 1
        lost = since is not None and times >= FAILURES and now - since >= PATIENCE_S
        assert not lost or number == len(counted)
    assert (bool(verdicts) and verdicts[-1] is Verdict.ROLL_BACK) == lost


NO_STORE = {GATEWAY: True, STORE: False}


def tried_again_at(looks, *, second: bool) -> float | None:
    """When a change that was rolled back at 0 for want of the store is tried again; looks are spans and what works."""
    retrial = Retrial([STORE], BOTH, 0.0, WINDOW_S, second=second)
    at = 0.0
    for span_s, works in looks:
        for _ in range(round(span_s / LOOK_EVERY_S)):
            at += LOOK_EVERY_S
            if retrial.take(Look(at, works)):
                return at
    return None


def test_a_store_that_stays_away_after_the_rollback_was_not_cut_off_by_the_change():
    for second in (False, True):
        assert tried_again_at([(2 * WINDOW_S, NO_STORE), (60, FINE)], second=second) == 2 * WINDOW_S + LOOK_EVERY_S


def test_a_change_that_seems_to_be_to_blame_is_tried_once_more_and_then_left_alone():
    assert tried_again_at([(1, NO_STORE), (60, FINE)], second=False) == AGAIN_S
    assert tried_again_at([(1, NO_STORE), (60, FINE)], second=True) is None


def test_nothing_is_tried_again_while_something_that_worked_before_does_not():
    assert tried_again_at([(2 * WINDOW_S, NO_STORE), (60, CUT_OFF)], second=False) is None
