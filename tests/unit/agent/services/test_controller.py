"""From Services in the intent tables to entries of the maps: after any path, restarts among them, and at the edges."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

from hypothesis import given, settings
from hypothesis import strategies as st

from pycilium.datapath import layouts
from pycilium.model.host_port import HostPort
from pycilium.model.l4 import Protocol
from pycilium.model.node import Node as NodeResource
from pycilium.services import slice_view
from tests.unit.agent.service_node import NODE_ADDRESS, SETTINGS, SLOTS, Kernel, Node, service, slice_of
from tests.unit.agent.test_controller import ENDPOINTS
from tests.unit.services.builders import pod

WEB = service("web")
WEB_SLICE = slice_of("web", "10.0.0.5", "10.0.0.6")


def test_a_service_and_its_slice_become_a_frontend_and_its_backends():
    node = Node(Kernel())

    node.change(WEB, WEB_SLICE)

    assert node.kernel.chosen() == {"10.96.0.1:80/TCP": (["10.0.0.5:8080", "10.0.0.6:8080"], [])}


def test_a_node_port_is_served_at_the_nodes_addresses_and_for_all_other_nodes():
    node = Node(Kernel())

    node.change(service("web", type="NodePort", node_port=30080), slice_of("web", "10.0.0.5"))

    assert {at: outside for at, (_, outside) in node.kernel.chosen().items()} == {
        "10.96.0.1:80/TCP": [],
        "0.0.0.0:30080/TCP": ["10.0.0.5:8080"],
        "192.168.0.1:30080/TCP": ["10.0.0.5:8080"],
    }


def test_a_pods_host_ports_are_frontends_of_its_node_alone():
    node = Node(Kernel())
    pod = replace(ENDPOINTS[0], host_ports=(HostPort(8080, 80), HostPort(5353, 53, Protocol.UDP)))

    with node.intent.db.write() as txn:
        txn.insert(node.intent.endpoints, pod)
    node.round()
    chosen = node.kernel.chosen()
    with node.intent.db.write() as txn:
        txn.delete(node.intent.endpoints, pod.endpoint_id)
    node.settle()

    assert {at for at in chosen if not at.startswith("0.0.0.0")} == {"192.168.0.1:8080/TCP", "192.168.0.1:5353/UDP"}
    assert chosen["192.168.0.1:8080/TCP"] == ([f"{pod.ipv4}:80"], [f"{pod.ipv4}:80"])
    assert node.kernel.chosen() == {}


def test_host_ports_of_an_endpoint_whose_file_is_lost_are_known_from_the_kernel():
    kernel = Kernel()
    node = Node(kernel)
    wanted = (HostPort(8080, 80), HostPort(9090, 90, Protocol.UDP, NODE_ADDRESS))
    with node.intent.db.write() as txn:
        txn.insert(node.intent.endpoints, replace(ENDPOINTS[0], host_ports=wanted))
    node.round()

    again = Node(kernel)

    assert again.targets.host_ports()[ENDPOINTS[0].ipv4] == wanted


def test_two_endpoints_whose_pods_nobody_knows_yet_keep_their_host_ports():
    node = Node(Kernel())
    with node.intent.db.write() as txn:
        for endpoint, port in zip(ENDPOINTS, (8080, 8081), strict=False):
            unnamed = replace(endpoint, pod_name="", namespace="", host_ports=(HostPort(port, 80),))
            txn.insert(node.intent.endpoints, unnamed)
    node.round()

    assert {"192.168.0.1:8080/TCP", "192.168.0.1:8081/TCP"} <= set(node.kernel.chosen())


def test_endpoints_that_a_selector_selects_are_backends_and_lie_where_their_node_says():
    node = Node(Kernel())
    web = pod("web-1", "10.0.1.5", node="192.168.0.2")
    with node.intent.db.write() as txn:
        txn.insert(node.intent.nodes, NodeResource("two", (ip_address("192.168.0.2"),), zone="b"))
        txn.insert(node.intent.remote_endpoints, web)

    node.change(service("web", selector={"app": "web"}))

    ((_, backends),) = [(frontend.at, frontend.inside) for frontend, _ in node.services.frontends()]
    assert node.kernel.chosen() == {"10.96.0.1:80/TCP": (["10.0.1.5:80"], [])}
    assert (backends[0].node, backends[0].zone) == ("two", "b")


def test_what_a_frontend_left_rests_and_is_gone_in_the_end():
    node = Node(Kernel())
    node.change(WEB, WEB_SLICE)

    node.change(slice_of("web", "10.0.0.6"))
    at_once = node.kernel.arrays["backends"].values["state"].tolist()
    node.settle()
    node.change(without=(WEB, WEB_SLICE))
    node.settle()

    assert sorted(at_once)[-2:] == [0, layouts.BackendState.ACTIVE]
    assert not node.kernel.arrays["backends"].values["state"].any()
    assert node.kernel.chosen() == {}


def test_a_backend_that_left_is_told_of_with_the_numbers_that_clients_may_remember():
    node = Node(Kernel())
    node.change(WEB, WEB_SLICE)
    first = next(backend.at for frontend, _ in node.services.frontends() for backend in frontend.inside)
    number = node.services.planner.backend_id(first)

    node.change(slice_of("web", "10.0.0.6"))

    assert [(each.service_id, each.backend_id) for each in node.left] == [(1, number)]


def test_a_service_that_loses_an_address_forgets_none_of_its_clients():
    node = Node(Kernel())
    affine = service("web", type="NodePort", node_port=30080, session_affinity="ClientIP")
    node.change(affine, WEB_SLICE)
    (affinity_id,) = {entry.affinity_id for _, entry in node.services.frontends() if entry is not None}

    node.change(service("web", session_affinity="ClientIP"))
    by_address = [each.affinity_id for each in node.left]
    node.change(without=(WEB, WEB_SLICE))

    assert set(by_address) == {0}
    assert {each.affinity_id for each in node.left[len(by_address) :]} == {affinity_id}


def test_a_backend_that_has_come_back_is_gone_no_longer():
    node = Node(Kernel())
    node.change(WEB, WEB_SLICE)
    node.change(slice_of("web", "10.0.0.6"))
    (left,) = node.left
    assert node.services.still_gone(node.left) == [left]

    node.change(WEB_SLICE)
    assert node.services.still_gone([left]) == []

    assert node.services.still_gone([replace(left, service_id=99)]) == [replace(left, service_id=99)]
    node.change(without=(WEB, WEB_SLICE))
    assert node.services.still_gone([left]) == [left]


def test_a_backend_that_flaps_a_hundred_times_a_second_takes_no_more_room_the_longer_it_does():
    node = Node(Kernel())
    node.change(WEB, WEB_SLICE)
    free = []

    for turn in range(400):
        with node.intent.db.write() as txn:
            txn.insert(node.intent.slices, slice_view(WEB_SLICE if turn % 2 else slice_of("web", "10.0.0.5")))
        node.round(0.01)
        free.append((node.services.planner.free_slots, node.services.planner.backends_used))
        assert len(node.kernel.chosen()["10.96.0.1:80/TCP"][0]) == 1 + turn % 2

    assert set(free[1:]) == {(SLOTS - 3, 2)}
    node.settle()
    assert node.services.planner.free_slots == SLOTS - 2


def test_intents_that_come_between_two_rounds_are_one_change_and_those_that_undo_one_another_none():
    node = Node(Kernel())
    node.change(WEB, WEB_SLICE)
    node.changes.clear()

    for addresses in (["10.0.0.5"], ["10.0.0.7"], ["10.0.0.5", "10.0.0.6"]):
        with node.intent.db.write() as txn:
            txn.insert(node.intent.slices, slice_view(slice_of("web", *addresses)))
    node.round()

    assert node.changes == []
    assert node.kernel.chosen() == {"10.96.0.1:80/TCP": (["10.0.0.5:8080", "10.0.0.6:8080"], [])}


def test_backends_that_left_while_no_agent_ran_are_told_of_too():
    kernel = Kernel()
    Node(kernel).change(WEB, WEB_SLICE)

    again = Node(kernel)
    again.change(WEB, slice_of("web", "10.0.0.6"))

    assert [each.service_id for each in again.left] == [1]
    assert kernel.chosen() == {"10.96.0.1:80/TCP": (["10.0.0.6:8080"], [])}


def test_addresses_are_in_the_kernel_for_as_long_as_frontends_have_them_also_over_a_restart():
    kernel = Kernel()
    node = Node(kernel)
    external = service("api", "10.96.0.2", external_ips=("198.51.100.1",))
    node.change(WEB, external)
    before = kernel.addresses()

    again = Node(kernel)
    again.change(WEB)

    assert before == {"10.96.0.1": True, "10.96.0.2": True, "198.51.100.1": False}
    assert kernel.addresses() == {"10.96.0.1": True}


def test_a_restart_without_changes_writes_nothing():
    kernel = Kernel()
    node = Node(kernel)
    node.change(
        WEB, WEB_SLICE, service("api", "10.96.0.2", type="NodePort", node_port=30080), slice_of("api", "10.0.0.7")
    )
    node.settle()
    before = {name: fake.writes for name, fake in kernel.maps.items()}
    memory = {name: array.values.copy() for name, array in kernel.arrays.items()}

    again = Node(kernel)
    again.change(
        WEB, WEB_SLICE, service("api", "10.96.0.2", type="NodePort", node_port=30080), slice_of("api", "10.0.0.7")
    )
    again.settle()

    assert {name: fake.writes for name, fake in kernel.maps.items()} == before
    assert all((array.values == memory[name]).all() for name, array in kernel.arrays.items())


def test_a_full_map_leaves_what_is_there_alone_and_is_named_with_what_to_raise():
    node = Node(Kernel(frontends=1))
    node.change(WEB, WEB_SLICE)

    node.change(service("api", "10.96.0.2"), slice_of("api", "10.0.0.7"))
    problems = list(node.services.problems())
    node.change(slice_of("web", "10.0.0.6"))

    assert node.kernel.chosen() == {"10.96.0.1:80/TCP": (["10.0.0.6:8080"], [])}
    assert problems == [
        f"{name} is full, 1 entries do not fit: raise service_capacity" for name in ("services4", "service_ips4")
    ]


def test_when_backends_are_full_new_ones_are_named_and_old_ones_stay():
    node = Node(Kernel())
    node.change(WEB, WEB_SLICE)

    node.change(service("big", "10.96.0.2"), slice_of("big", *(f"10.1.{i // 250}.{i % 250 + 1}" for i in range(600))))

    assert node.kernel.chosen()["10.96.0.1:80/TCP"] == (["10.0.0.5:8080", "10.0.0.6:8080"], [])
    assert "raise backend_capacity" in " ".join(node.services.problems())


def test_changes_name_frontends_with_their_service_ids():
    node = Node(Kernel())

    node.change(WEB, WEB_SLICE)
    node.change(without=(WEB,))

    told = [(change.new is not None, change.old_id, change.new_id) for change in node.changes]
    assert told == [(True, 0, 1), (False, 1, 0)]


def test_another_zone_of_this_node_is_heeded_at_once():
    node = Node(Kernel(), replace(SETTINGS, nodes={}))
    pods = [
        pod(f"web-{zone}", address, node=host)
        for zone, address, host in (("a", "10.0.0.5", "192.168.0.1"), ("b", "10.0.1.5", "two"))
    ]
    with node.intent.db.write() as txn:
        txn.insert(node.intent.nodes, NodeResource("two", (ip_address("192.168.0.2"),), zone="b"))
        txn.insert(node.intent.own_node, NodeResource("one", zone="a"))
        for each in pods:
            txn.insert(node.intent.remote_endpoints, each)

    node.change(service("web", selector={"app": "web"}, traffic_distribution="PreferClose"))
    in_a = node.kernel.chosen()
    with node.intent.db.write() as txn:
        txn.insert(node.intent.own_node, NodeResource("one", zone="b"))
    node.round()

    assert in_a == {"10.96.0.1:80/TCP": (["10.0.0.5:80"], [])}
    assert node.kernel.chosen() == {"10.96.0.1:80/TCP": (["10.0.0.5:80", "10.0.1.5:80"], [])}


# == the law ==

NAMES = ("web", "api", "dns")
ADDRESSES = [f"10.0.0.{i}" for i in range(1, 7)]
MAGLEV = {"service.cilium.io/lb-algorithm": "maglev"}


@st.composite
def documents(draw):
    """Services and slices, as a dict so that a later one of a name takes the place of the one before."""
    name = draw(st.sampled_from(NAMES))
    if draw(st.booleans()):
        chosen = draw(st.lists(st.sampled_from(ADDRESSES), max_size=4, unique=True))
        leaving = tuple(draw(st.lists(st.sampled_from(chosen), unique=True))) if chosen else ()
        return slice_of(name, *chosen, terminating=leaving)
    return service(
        name,
        draw(st.sampled_from(["10.96.0.1", "10.96.0.2"])),
        type="NodePort",
        node_port=draw(st.sampled_from([30080, 30081])),
        annotations=draw(st.sampled_from([{}, MAGLEV])),
    )


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(st.lists(documents(), max_size=3), min_size=1, max_size=6), restarts=st.sets(st.integers(0, 5)))
def test_any_order_split_and_restarts_end_in_what_one_step_makes(steps, restarts):
    """Numbers may differ; who is chosen may not."""
    present = {}
    kernel = Kernel()
    node = Node(kernel)
    for number, step in enumerate(steps):
        if number in restarts:
            node = Node(kernel)
            node.change(*present.values())
        for resource in step:
            present[type(resource), resource.metadata.name] = resource
        node.change(*step)
    node.settle()

    once = Node(Kernel())
    once.change(*present.values())

    assert kernel.chosen() == once.kernel.chosen()


@settings(max_examples=40, deadline=None)
@given(steps=st.lists(st.lists(documents(), max_size=3), min_size=1, max_size=5))
def test_ids_stay_with_their_frontends_over_restarts(steps):
    kernel = Kernel()
    node = Node(kernel)
    present = {}
    for step in steps:
        for resource in step:
            present[type(resource), resource.metadata.name] = resource
        node.change(*step)
    before = kernel.ids()

    Node(kernel).change(*present.values())

    assert kernel.ids() == before
