"""Which CiliumEndpoint stands in which slice: all of them, none moved, and no write without news."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from pycilium.endpoint.slices import EndpointName, Slice, planned
from pycilium.model.resources import CiliumEndpointSlice, ObjectMeta
from pycilium.model.resources.cilium_objects import AddressPair, CoreEndpoint, EndpointNetworking

MOST = 4


def core(name: str, identity: int = 1000, address: str = "") -> CoreEndpoint:
    pairs = (AddressPair(ipv4=address),) if address else ()
    return CoreEndpoint(name=name, id=identity, networking=EndpointNetworking(addressing=pairs, node="a"))


def wanted_of(*names: str, namespace: str = "default", identity: int = 1000) -> dict[EndpointName, CoreEndpoint]:
    return {EndpointName(namespace, name): core(name, identity) for name in names}


def written(present: dict[str, Slice], wanted, **options) -> dict[str, Slice]:
    """The slices after everything that was planned is written."""
    after = dict(present)
    for write in planned(present, wanted, MOST, **options):
        if write.slice.entries:
            after[write.name] = write.slice
        else:
            del after[write.name]
    return after


def shown(slices: dict[str, Slice]) -> dict[str, list[str]]:
    return {name: sorted(key.name for key in each.entries) for name, each in sorted(slices.items())}


names = st.builds(EndpointName, st.sampled_from(["blue", "red"]), st.sampled_from([f"pod-{n}" for n in range(12)]))
states = st.dictionaries(names, st.integers(1000, 1002)).map(
    lambda found: {key: core(key.name, identity) for key, identity in found.items()}
)


@given(st.lists(states, min_size=1, max_size=6))
def test_slices_together_are_the_endpoints_whatever_they_were_before(path):
    slices: dict[str, Slice] = {}
    for wanted in path:
        before, changes = dict(slices), changed(slices, wanted)
        writes = planned(slices, wanted, MOST)
        slices = written(slices, wanted)

        assert union(slices) == wanted
        assert all(count == 1 for count in Counter(key for each in slices.values() for key in each.entries).values())
        assert all(0 < len(each.entries) <= MOST for each in slices.values())
        assert all(key.namespace == each.namespace for each in slices.values() for key in each.entries)
        assert len(writes) <= changes
        assert all(place(before, key) in (None, place(slices, key)) for key in wanted)
        assert planned(slices, wanted, MOST) == []


@given(st.lists(states, min_size=1, max_size=4), st.data())
def test_writes_that_got_lost_are_made_up_for(path, data):
    """Any of them may fail, and an operator may end between any two: the next one decides from what is there."""
    slices: dict[str, Slice] = {}
    for wanted in path:
        for write in planned(slices, wanted, MOST):
            if data.draw(st.booleans()):
                slices = {**slices, write.name: write.slice}
                slices = {name: each for name, each in slices.items() if each.entries}

    assert union(written(slices, path[-1])) == path[-1]


@given(st.dictionaries(st.sampled_from(["ces-1", "ces-2", "by-hand"]), states, max_size=3), states)
def test_slices_that_somebody_else_wrote_become_right(found, wanted):
    """Endpoints twice, too many in one, of another namespace, none at all."""
    present = {
        name: Slice("blue", {EndpointName("blue", key.name): each for key, each in entries.items()})
        for name, entries in found.items()
    }

    slices = written(present, wanted)

    assert union(slices) == wanted
    assert sum(len(each.entries) for each in slices.values()) == len(wanted)
    for name, each in slices.items():
        assert len(each.entries) <= max(MOST, len(present[name].entries) if name in present else 0)


def union(slices: dict[str, Slice]) -> dict[EndpointName, CoreEndpoint]:
    return {key: entry for each in slices.values() for key, entry in each.entries.items()}


def changed(slices: dict[str, Slice], wanted) -> int:
    there = union(slices)
    return sum(there.get(key) != wanted.get(key) for key in there.keys() | wanted.keys())


def place(slices: dict[str, Slice], key: EndpointName) -> str | None:
    return next((name for name, each in slices.items() if key in each.entries), None)


def test_what_starts_together_is_written_together():
    wanted = wanted_of(*"abcdefghij")

    assert shown(written({}, wanted)) == {"ces-1": [*"abcd"], "ces-2": [*"efgh"], "ces-3": [*"ij"]}


def test_a_slice_that_is_written_anyway_takes_new_endpoints():
    present = written({}, wanted_of(*"abcdefgh"))
    wanted = {**wanted_of(*"acdefghi"), **wanted_of("e", identity=1001)}

    assert [write.name for write in planned(present, wanted, MOST)] == ["ces-1", "ces-2"]
    assert shown(written(present, wanted))["ces-1"] == [*"acdi"]


def test_new_endpoints_take_the_places_of_many_that_left_and_not_of_few():
    entries = [f"pod-{n:02d}" for n in range(20)]
    present = {"ces-1": Slice("default", wanted_of(*entries)), "ces-2": Slice("default", wanted_of(*"abcdefghij"))}

    one_left = planned(present, wanted_of(*entries[1:], *"abcdefghij", "new"), 20)
    many_left = planned(present, wanted_of(*entries[4:], *"abcdefghij", "new"), 20)

    assert [(write.name, write.urgency) for write in one_left] == [("ces-3", 1), ("ces-1", 2)]
    assert [(write.name, write.urgency) for write in many_left] == [("ces-1", 1)]


def test_one_new_endpoint_does_not_cost_a_large_slice_anew():
    entries = {EndpointName("default", f"pod-{n}"): core(f"pod-{n}") for n in range(20)}
    wanted = {**entries, EndpointName("default", "new"): core("new")}

    (write,) = planned({"ces-1": Slice("default", entries)}, wanted, 100)

    assert (write.name, len(write.slice.entries)) == ("ces-2", 1)


def test_a_slice_without_endpoints_goes():
    present = written({}, wanted_of(*"ab"))

    assert shown(written(present, {})) == {}


def test_an_address_leaves_one_slice_before_it_is_in_another():
    present = {
        "ces-1": Slice("blue", {EndpointName("blue", "old"): core("old", address="10.0.0.1")}),
        "ces-2": Slice("blue", {EndpointName("blue", "gone"): core("gone", address="10.0.0.2")}),
    }
    wanted = {EndpointName("red", "new"): core("new", address="10.0.0.1")}

    assert [write.name for write in planned(present, wanted, MOST)] == ["ces-1", "ces-3", "ces-2"]


def test_an_endpoint_of_which_nobody_can_say_what_it_is_stays_as_slices_have_it():
    present = written({}, wanted_of(*"ab"))
    doubtful = EndpointName("default", "a")

    assert shown(written(present, wanted_of("b"), unknown={doubtful})) == {"ces-1": ["a", "b"]}
    assert shown(written({}, {}, unknown={doubtful})) == {}


def test_an_entry_that_a_slice_has_twice_makes_it_be_written_anew():
    twice = CiliumEndpointSlice(
        metadata=ObjectMeta(name="ces-1"), namespace="default", endpoints=(core("a"), core("a", 1001))
    )

    (write,) = planned({"ces-1": Slice.of(twice)}, wanted_of("a"), MOST)

    assert write.slice.entries == wanted_of("a")
