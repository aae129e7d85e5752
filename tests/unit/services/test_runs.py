"""Free runs against a plain row of slots."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pycilium.services.runs import FreeRuns, Run

CAPACITY = 64


def longest_free(taken):
    longest = length = 0
    for each in taken:
        length = 0 if each else length + 1
        longest = max(longest, length)
    return longest


@given(st.lists(st.integers(1, 20) | st.integers(-8, -1), max_size=60))
def test_a_run_is_given_out_whenever_one_is_long_enough_and_never_twice(steps):
    free, taken, given_out = FreeRuns(CAPACITY), [False] * CAPACITY, []
    for step in steps:
        if step > 0:
            run = free.take(step)
            assert (run is None) == (longest_free(taken) < step)
            if run is not None:
                assert run.slots == step
                assert not any(taken[run.first : run.end])
                taken[run.first : run.end] = [True] * step
                given_out.append(run)
        elif given_out:
            run = given_out.pop(step % len(given_out))
            free.give_back(run)
            taken[run.first : run.end] = [False] * run.slots
        assert free.free == taken.count(False)


def test_the_smallest_run_that_fits_is_given_out():
    free = FreeRuns(20, in_use=[Run(3, 1), Run(6, 1), Run(12, 1)])

    assert [free.take(2), free.take(3), free.take(5)] == [Run(4, 2), Run(0, 3), Run(7, 5)]


def test_neighbours_that_are_free_join():
    free = FreeRuns(9)
    runs = [free.take(3) for _ in range(3)]
    for run in (runs[0], runs[2], runs[1]):
        free.give_back(run)

    assert free.take(9) == Run(0, 9)


def test_what_an_earlier_agent_used_is_not_given_out():
    free = FreeRuns(10, in_use=[Run(5, 5), Run(0, 3)])

    assert (free.free, free.take(2), free.take(1)) == (2, Run(3, 2), None)
