"""Maps that the programs fill: said before they are full."""

from __future__ import annotations

from pycilium.agent.map_fill import MapFill


def test_a_map_that_is_nearly_full_is_named_with_what_to_raise():
    fill = MapFill({"ct4": 1000, "nat4": 1000, "service_flows6": 100})

    fill.note("ct4", 801)
    fill.note("nat4", 800)
    fill.note("service_flows6", 100)

    connections, flows = fill.problems()
    assert connections == (
        "map ct4 is nearly full (801 of 1000): new connections are dropped when it is: raise conntrack_capacity"
    )
    assert flows == (
        "map service_flows6 is nearly full (100 of 100): new connections are dropped when it is: "
        "raise service_flow_capacity"
    )


def test_connections_that_found_no_room_are_told_of_until_they_find_some():
    fill = MapFill({"ct4": 1000})

    fill.note_refused(7)
    (problem,) = fill.problems()
    assert problem == (
        "7 packets of new connections were dropped (CT: Map insertion failed), for conntrack is full: "
        "raise conntrack_capacity"
    )

    fill.note_refused(0)
    assert list(fill.problems()) == []


def test_a_map_that_has_room_again_is_not_named():
    fill = MapFill({"ct4": 1000})
    fill.note("ct4", 1000)

    fill.note("ct4", 10)

    assert list(fill.problems()) == []
