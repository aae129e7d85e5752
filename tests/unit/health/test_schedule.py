"""Turns of the prober, against time as a value."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pycilium.health import Schedule

NAMES = st.sampled_from([f"node{number}" for number in range(6)])


def test_every_node_has_its_turn_once_an_interval():
    schedule = Schedule(60)
    schedule.set_nodes({"a", "b"}, now=0)

    turns = [(second, name) for second in range(180) for name in schedule.take_due(second, room=10)]

    assert turns == [(0, "a"), (1, "b"), (60, "a"), (61, "b"), (120, "a"), (121, "b")]


def test_a_thousand_nodes_that_come_at_once_are_spread_over_the_interval():
    schedule = Schedule(60)
    schedule.set_nodes({f"node{number}" for number in range(1000)}, now=0)

    in_each_second = [len(schedule.take_due(second, room=1000)) for second in range(60)]

    assert sum(in_each_second) == 1000
    assert max(in_each_second) <= 21


def test_what_finds_no_room_is_due_still_and_comes_first():
    schedule = Schedule(60)
    schedule.set_nodes({"a", "b", "c"}, now=0)

    assert schedule.take_due(10, room=2) == ["a", "b"]
    assert schedule.take_due(10, room=2) == ["c"]
    assert schedule.next_due() == 70


def test_a_node_that_goes_and_comes_again_is_new():
    schedule = Schedule(60)
    schedule.set_nodes({"a"}, now=0)
    schedule.take_due(0, room=1)
    schedule.set_nodes(set(), now=1)
    assert schedule.next_due() is None

    schedule.set_nodes({"a"}, now=2)

    assert schedule.take_due(2, room=1) == ["a"]
    assert schedule.take_due(61, room=1) == []


def test_nodes_that_stay_keep_their_turns():
    schedule = Schedule(60)
    schedule.set_nodes({"a"}, now=0)
    schedule.take_due(0, room=1)

    schedule.set_nodes({"a", "b"}, now=30)

    assert schedule.take_due(30, room=5) == ["b"]
    assert schedule.take_due(60, room=5) == ["a"]


@given(
    st.lists(st.tuples(st.sets(NAMES), st.floats(0, 100), st.integers(0, 5)), max_size=30),
)
def test_no_node_is_forgotten_and_none_has_two_turns_within_an_interval(steps):
    schedule, now = Schedule(60), 0.0
    latest: dict[str, float] = {}
    for names, pause, room in steps:
        now += pause
        schedule.set_nodes(names, now)
        latest = {name: at for name, at in latest.items() if name in names}
        taken = schedule.take_due(now, room)
        assert len(taken) <= room
        assert set(taken) <= names
        for name in taken:
            assert now - latest.get(name, float("-inf")) >= 60
            latest[name] = now

        assert (schedule.next_due() is not None) == bool(names)

    everybody = set(schedule.take_due(now + 1000, room=100))
    assert everybody == (steps[-1][0] if steps else set())


def test_who_is_brought_forward_has_a_turn_now_and_the_next_an_interval_later():
    schedule = Schedule(60)
    schedule.set_nodes({"a", "b"}, now=0)
    schedule.take_due(1, room=2)

    schedule.bring_forward(["b"], now=10)

    assert schedule.take_due(10, room=5) == ["b"]
    assert schedule.take_due(61, room=5) == ["a"]
    assert schedule.take_due(70, room=5) == ["b"]
