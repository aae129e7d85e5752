"""What kubectl wrote with nonsense, and an API server took: set aside by name, and the agent goes on."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pycilium.agent.config import AgentConfig
from pycilium.agent.endpoints.identity_marks import IdentityMarks
from pycilium.agent.source_kinds import make_sources
from pycilium.model.resources import CiliumEndpoint, kind_for_word
from pycilium.services import slice_view
from pycilium.store import ResourceList, Unreadable, WatchEvent
from pycilium.store.kubernetes.objects import read_or_set_aside
from tests.unit import nonsense
from tests.unit.agent.nodes.test_cluster import Kernel as NodesKernel
from tests.unit.agent.nodes.test_cluster import started
from tests.unit.agent.service_node import Kernel, Node

OF_NODES = ("CiliumNode", "CiliumIdentity", "CiliumEndpoint", "CiliumEndpointSlice", "Namespace", "Pod")
OF_SERVICES = ("Service", "EndpointSlice", "CiliumEndpoint")


def sources(intent, *, store="kubernetes:", endpoint_slices=False):
    config = AgentConfig(node_name="self", store=store, endpoint_slices=endpoint_slices)
    made = make_sources(intent, {}, IdentityMarks(None, intent), config)
    return {source.kind: source for source in made}


def tell(by_kind, db, plain, *, whole=False):
    """As a store tells it: as news, or in a list."""
    kind = kind_for_word(plain["kind"])
    source = by_kind.get(kind.resource)
    if source is None:
        return
    found = read_or_set_aside(kind, plain)
    if isinstance(found, Unreadable):
        source.take_in(db, ResourceList((), "1", (found,)) if whole else found)
    elif whole:
        source.take_in(db, ResourceList((source.convert_for_all(found),), "1", ()))
    else:
        source.take_in(db, WatchEvent("ADDED", found))


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(nonsense.objects(*OF_NODES), st.booleans()), max_size=6),
    st.booleans(),
    st.booleans(),
)
def test_no_nonsense_of_nodes_identities_and_endpoints_ends_an_agent(told, on_kubernetes, sliced):
    agent = started(NodesKernel())
    store = "kubernetes:" if on_kubernetes or sliced else "sqlite:////x"
    by_kind = sources(agent.intent, store=store, endpoint_slices=sliced)

    for plain, whole in told:
        tell(by_kind, agent.intent.db, plain, whole=whole)
        agent.run()


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(nonsense.objects(*OF_SERVICES), st.booleans()), max_size=6), st.booleans())
def test_no_nonsense_of_services_and_their_endpoints_ends_an_agent(told, on_kubernetes):
    node = Node(Kernel())
    by_kind = sources(node.intent, store="kubernetes:" if on_kubernetes else "sqlite:////x")

    for plain, whole in told:
        tell(by_kind, node.intent.db, plain, whole=whole)
        node.round()


def good(kind, **spoiled):
    """A good object of a kind, but for one of its fields: `ports__0__port=70000`."""
    plain = {**copy.deepcopy(nonsense.GOOD[kind]), "kind": kind}
    for path, value in spoiled.items():
        *before, last = [int(step) if step.isdigit() else step.replace("_", "-") for step in path.split("__")]
        at = plain
        for step in before:
            at = at[step]
        at[last] = value
    return plain


@pytest.mark.parametrize("port", [-1, 0, 65536, 70000])
def test_a_slice_whose_port_is_none_ended_every_agent_and_is_named_now(port):
    node = Node(Kernel())
    by_kind = sources(node.intent)

    for plain in (good("Service"), good("EndpointSlice", ports__0__port=port)):
        tell(by_kind, node.intent.db, plain)
        node.round()

    assert f"EndpointSlice web-1: {port} is no port from 1 to 65535 and is left out" in str(
        list(node.services.problems())
    )
    assert not any(inside for inside, _ in node.kernel.chosen().values())


@pytest.mark.parametrize(
    ("family", "address"),
    [("IPv4", "127.0.0.1"), ("IPv4", "169.254.169.254"), ("IPv6", "ff02::1"), ("IPv6", "::ffff:10.0.1.7")],
)
def test_an_endpoint_at_an_address_of_every_machine_or_of_the_other_family_is_no_backend(family, address):
    plain = good("EndpointSlice", addressType=family, endpoints__0__addresses=[address])
    view = slice_view(read_or_set_aside(kind_for_word("EndpointSlice"), plain))

    assert address not in str(list(view.candidates.values()))
    assert f"{address} is no address that other machines reach, and is left out" in str(view.problems)


def test_an_external_ip_with_zeros_before_is_named():
    node = Node(Kernel())
    tell(sources(node.intent), node.intent.db, good("Service", spec__externalIPs=["010.8.0.1"]))
    node.round()

    assert "external IP '010.8.0.1' is not an IP address: it is not served" in str(list(node.services.problems()))


@pytest.mark.parametrize("port", [-1, 0, 65536])
def test_an_endpoint_whose_named_port_is_none_ended_agents_that_select_by_labels_and_is_set_aside_now(port):
    node = Node(Kernel())
    by_kind = sources(node.intent, store="sqlite:////x")

    tell(by_kind, node.intent.db, good("CiliumEndpoint", status__named_ports__0__port=port))

    (why,) = by_kind[CiliumEndpoint].rejected.values()
    assert "port" in why
