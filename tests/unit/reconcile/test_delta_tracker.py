"""The difference between desired and realized, against the obvious computation of it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pycilium.reconcile import UNCERTAIN, DeltaTracker


class NaiveTracker:
    """Computes the difference anew each time it is asked."""

    def __init__(self):
        self.desired, self.realized = {}, {}

    def pending_updates(self):
        return {
            key: value for key, value in self.desired.items() if key not in self.realized or self.realized[key] != value
        }

    def pending_deletions(self):
        return self.realized.keys() - self.desired.keys()


def dump_that_fails_after(entries, count):
    for number, entry in enumerate(entries):
        if number == count:
            raise OSError
        yield entry
    raise OSError


KEYS, VALUES = st.sampled_from("abcde"), st.sampled_from([0, 1, None])
ENTRIES = st.lists(st.tuples(KEYS, VALUES), max_size=6)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set_desired"), KEYS, VALUES),
        st.tuples(st.just("delete_desired"), KEYS),
        st.tuples(st.just("set_realized"), KEYS, VALUES),
        st.tuples(st.just("delete_realized"), KEYS),
        st.tuples(st.just("set_uncertain"), KEYS),
        st.tuples(st.just("replace_realized"), ENTRIES),
        st.tuples(st.just("dump_fails"), ENTRIES, st.integers(0, 6)),
    ),
    max_size=40,
)


@settings(deadline=None)  # machines are busy
@given(STEPS)
def test_for_any_history_the_difference_is_the_obvious_one(steps):
    tracker, naive = DeltaTracker(), NaiveTracker()
    for what, *arguments in steps:
        match what:
            case "set_desired":
                naive.desired[arguments[0]] = arguments[1]
            case "delete_desired":
                naive.desired.pop(arguments[0], None)
            case "set_realized":
                naive.realized[arguments[0]] = arguments[1]
            case "delete_realized":
                naive.realized.pop(arguments[0], None)
            case "set_uncertain":
                naive.realized[arguments[0]] = UNCERTAIN
            case "replace_realized":
                naive.realized = dict(arguments[0])
            case _:
                naive.realized.update(arguments[0][: arguments[1]])
        if what == "dump_fails":
            with pytest.raises(OSError):
                tracker.replace_realized(dump_that_fails_after(*arguments))
        else:
            getattr(tracker, what)(*arguments)

        assert tracker.desired == naive.desired
        assert tracker.realized == naive.realized
        assert tracker.pending_updates == naive.pending_updates()
        assert tracker.pending_deletions == naive.pending_deletions()
        assert tracker.in_sync == (not naive.pending_updates() and not naive.pending_deletions())


def test_an_uncertain_key_is_written_or_else_deleted_whatever_is_desired():
    tracker = DeltaTracker[str, int]()
    tracker.set_desired("a", 1)
    tracker.set_realized("a", 1)

    tracker.set_uncertain("a")
    wanted = dict(tracker.pending_updates), set(tracker.pending_deletions)
    tracker.delete_desired("a")
    unwanted = dict(tracker.pending_updates), set(tracker.pending_deletions)

    assert wanted == ({"a": 1}, set())
    assert unwanted == ({}, {"a"})


def test_it_shows_itself_in_one_line():
    tracker = DeltaTracker[str, int]()
    tracker.set_desired("a", 1)
    tracker.set_realized("b", 1)

    assert repr(tracker) == "<desired 1, realized 1, to update 1, to delete 1>"
