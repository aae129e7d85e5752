"""What slices say of CiliumEndpoints follows from those alone, however they came."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from pycilium.endpoint.slice_entries import SliceEntries, name_of
from pycilium.endpoint.slices import EndpointName
from pycilium.model.resources import CiliumEndpoint, ObjectMeta
from pycilium.model.resources.cilium_objects import (
    AddressPair,
    CoreEndpoint,
    EndpointIdentity,
    EndpointNetworking,
    EndpointStatus,
    NamedPort,
)

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def endpoint(
    name: str, *addresses: str, node: str = "172.18.0.2", identity: int = 1000, age: int = 0
) -> CiliumEndpoint:
    """`age`: how many seconds after the first it was made."""
    pairs = tuple(AddressPair(**{"ipv6" if ":" in each else "ipv4": each}) for each in addresses)
    return CiliumEndpoint(
        metadata=ObjectMeta(
            name=name,
            namespace="default",
            uid="1",
            creation_timestamp=BEGAN + timedelta(seconds=age),
            labels={"a": "b"},
        ),
        status=EndpointStatus(
            id=7,
            identity=EndpointIdentity(id=identity, labels=("k8s:app=web",)),
            networking=EndpointNetworking(addressing=pairs, node=node),
            named_ports=(NamedPort(name="http", port=80, protocol="TCP"),),
            state="ready",
        ),
    )


def entries_of(*endpoints: CiliumEndpoint) -> SliceEntries:
    entries = SliceEntries()
    assert entries.replace(endpoints, ()) == []
    return entries


def addresses(entries: SliceEntries) -> dict[str, list[str]]:
    return {
        name.name: [text for pair in core.networking.addressing for text in (pair.ipv4, pair.ipv6) if text]
        for name, core in sorted(entries.wanted.items())
        if core.networking is not None
    }


def test_an_entry_is_what_other_nodes_need():
    assert entries_of(endpoint("web", "10.0.0.1")).wanted == {
        EndpointName("default", "web"): CoreEndpoint(
            name="web",
            id=1000,
            networking=EndpointNetworking(addressing=(AddressPair(ipv4="10.0.0.1"),), node="172.18.0.2"),
            named_ports=(NamedPort(name="http", port=80, protocol="TCP"),),
        )
    }


def test_one_without_an_address_is_in_no_slice():
    assert entries_of(endpoint("web")).wanted == {}


def test_of_two_that_claim_an_address_the_younger_has_it_and_the_other_keeps_what_is_left():
    entries = entries_of(endpoint("old", "10.0.0.1", "fd00::1"), endpoint("new", "10.0.0.1", age=5))

    assert addresses(entries) == {"new": ["10.0.0.1"], "old": ["fd00::1"]}

    entries.remove(EndpointName("default", "new"))
    assert addresses(entries) == {"old": ["10.0.0.1", "fd00::1"]}


def test_claims_of_two_nodes_and_of_nobody_yet_are_left_to_the_agents():
    entries = entries_of(
        endpoint("old", "10.0.0.1"),
        endpoint("elsewhere", "10.0.0.1", node="172.18.0.3", age=5),
        endpoint("without-identity", "10.0.0.1", identity=0, age=9),
    )

    assert addresses(entries) == {each: ["10.0.0.1"] for each in ("elsewhere", "old", "without-identity")}


def test_one_that_cannot_be_understood_is_named_and_unknown_until_it_is_right():
    entries = entries_of(endpoint("web", "10.0.0.1"))

    assert "is not an IP address" in entries.change(endpoint("web", "10.0.0"))
    assert (entries.wanted, set(entries.unknown)) == ({}, {EndpointName("default", "web")})

    assert entries.change(endpoint("web", "10.0.0.2")) == ""
    assert (addresses(entries), set(entries.unknown)) == ({"web": ["10.0.0.2"]}, set())


some = st.builds(
    endpoint,
    st.sampled_from("abc"),
    st.sampled_from(["10.0.0.1", "10.0.0.2"]),
    node=st.sampled_from(["n1", "n2"]),
    identity=st.sampled_from([0, 1000]),
    age=st.integers(0, 2),
)


@given(st.lists(st.one_of(some, st.sampled_from("abc"))))
def test_what_is_wanted_depends_on_the_endpoints_alone_and_not_on_the_path(path):
    entries, last = SliceEntries(), {}
    for each in path:
        if isinstance(each, str):
            entries.remove(EndpointName("default", each))
            last.pop(each, None)
        else:
            entries.change(each)
            last[name_of(each).name] = each

    assert entries.wanted == entries_of(*last.values()).wanted
