"""Services when something is wrong: nobody there, no such port, files lost, endpoints that flap, maps that are small."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pycilium.model.resources import decode_object
from pycilium.store import open_blocking
from tests.e2e.lab import Lab, Pod, eventually
from tests.e2e.service_traffic import NamedServer, client_in
from tests.e2e.test_services import NODE_ADDRESS, PORT, TARGET, backends, service, slice_of

pytestmark = pytest.mark.root
HOST_PORT, OTHER_PORT = 8088, 81
ADDRESSES = {4: "10.96.0.40", 6: "fd00:96::40"}
FAMILIES = pytest.mark.parametrize("family", [4, 6])
PLACES = pytest.mark.parametrize("place", ["client", "node:node1"])
READY = {"ready": True}
FLAPS = 300


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    lab = Lab(f"e2e-{secrets.token_hex(3)}")
    lab.cilium("lab", "up", "--nodes", "2")
    yield lab
    lab.down()


@pytest.fixture(scope="module")
def pods(lab: Lab) -> Iterator[dict[str, Pod]]:
    """A client on the first node; behind a host port of the second node a server, and another one beside it."""
    made = {"client": lab.add_pod("client", node="node1"), "web": lab.add_pod("web", node="node2")}
    words = ["lab", "pod", "add", "port", "--node", "node2", "--host-port", f"{HOST_PORT}:{TARGET}", "-o", "json"]
    port = json.loads(lab.cilium(*words).stdout)
    made["port"] = Pod("port", "default", f"cilium-{lab.name}-default.port", {4: port["ipv4"], 6: port["ipv6"]})
    servers = [NamedServer(made[name], TARGET) for name in ("web", "port")]
    yield made
    for server in servers:
        server.close()


@pytest.fixture(scope="module")
def empty(lab: Lab, pods: dict[str, Pod]) -> None:
    """A Service that nobody is behind."""
    lab.apply(service("empty", ADDRESSES, selector={"app": "nobody"}))
    assert eventually(lambda: "default/empty" in names(lab))


def names(lab: Lab, node: str = "node1") -> set[str]:
    listed = json.loads(lab.run("cilium", "service", "list", "--node", node, "-o", "json").stdout)
    flags = [one["spec"]["flags"] for one in listed if one["status"]["realized"]]
    return {f"{each['namespace']}/{each['name']}" for each in flags}


@PLACES
@FAMILIES
@pytest.mark.parametrize("kind", ["tcp", "udp"])
@pytest.mark.parametrize("port", [PORT, OTHER_PORT], ids=["no backend", "no frontend"])
def test_who_asks_where_nobody_is_waits_for_no_timeout(
    lab: Lab, empty: None, place: str, family: int, kind: str, port: int
) -> None:
    with client_in(lab, place) as client:
        outcomes = [client.timed(kind, ADDRESSES[family], port) for _ in range(5)]

    assert {outcome for outcome, _ in outcomes} == {"ECONNREFUSED"}
    assert min(seconds for _, seconds in outcomes) < 0.9  # a SYN is sent again after a second


def test_what_is_for_nobody_is_counted_with_its_reason(lab: Lab, empty: None) -> None:
    with client_in(lab, "client") as client:
        client.ask("tcp", ADDRESSES[4], OTHER_PORT)

    assert "Service backend not found" in lab.run("cilium-dbg", "metrics", "list").stdout


@PLACES
@FAMILIES
@pytest.mark.parametrize("sockets", [True, False], ids=["at sockets", "per packet"])
def test_a_host_port_of_another_node_is_reached(
    lab: Lab, pods: dict[str, Pod], place: str, family: int, sockets: bool
) -> None:
    with client_in(lab, place, sockets=sockets) as client:
        at = NODE_ADDRESS[family].format(2)
        assert eventually(lambda: client.ask("tcp", at, HOST_PORT) == "port")


def test_host_ports_stay_when_the_files_of_endpoints_are_lost(lab: Lab, pods: dict[str, Pod]) -> None:
    lab.cilium("lab", "agent", "kill", "--node", "node2")
    for path in (lab.folder / "node2" / "state" / "endpoints").glob("*.json"):
        path.unlink()
    lab.cilium("lab", "agent", "start", "--node", "node2")

    with client_in(lab, "client") as client:
        assert eventually(lambda: client.ask("tcp", NODE_ADDRESS[4].format(2), HOST_PORT) == "port")
    listed: list[Any] = json.loads(lab.run("cilium", "service", "list", "--node", "node2", "-o", "json").stdout)
    assert {one["spec"]["flags"]["name"] for one in listed if one["spec"]["flags"]["type"] == "HostPort"} == {"port"}


def test_a_service_with_five_thousand_endpoints_is_served(lab: Lab, pods: dict[str, Pod]) -> None:
    made = slice_of("big", (pods["web"], READY))
    lab.apply(service("big", {4: "10.96.0.41"}), made)
    for part in range(5):
        more = json.loads(json.dumps(made))
        more["metadata"]["name"] = f"big-more-{part}"
        more["endpoints"] = [{"addresses": [f"10.9.{part * 4 + i // 250}.{i % 250 + 1}"]} for i in range(1000)]
        lab.apply(more)

    assert eventually(lambda: len(backends(lab, "10.96.0.41")) == 5001, timeout_s=20)
    lab.cilium("delete", "endpointslice", *(f"big-more-{part}" for part in range(5)))
    with client_in(lab, "client") as client:
        assert eventually(lambda: client.ask("tcp", "10.96.0.41", PORT, 0.5) == "web", timeout_s=20)


def test_connections_last_while_endpoints_flap_without_pause(lab: Lab, pods: dict[str, Pod]) -> None:
    """By sockets and per packet; the agent keeps up, so that what is in force in the end is so at once."""
    steady, flapping = (pods["web"], READY), (pods["port"], READY)
    at = "10.96.0.42"
    lab.apply(service("flapping", {4: at}), slice_of("flapping", steady))
    with client_in(lab, "client") as by_socket, client_in(lab, "client", sockets=False) as by_packet:
        clients = (by_socket, by_packet)
        assert eventually(lambda: {each.ask("tcp", at, PORT) for each in clients} == {"web"})
        held = [(each, kind) for each in clients for kind in ("tcp", "udp")]
        assert {each.hold(f"kept {kind}", kind, at, PORT) for each, kind in held} == {"web"}
        with flapping_endpoints(lab, slice_of("flapping", steady), slice_of("flapping", steady, flapping)) as changes:
            while len(changes) < FLAPS:
                assert {each.ask("tcp", at, PORT, timeout_s=10) for each in clients} <= {"web", "port"}
                assert {each.again(f"kept {kind}") for each, kind in held} == {"web"}

        assert eventually(lambda: backends(lab, at) == [f"{pods['web'].address[4]} active"])
        assert {each.ask("tcp", at, PORT) for each in clients for _ in range(5)} == {"web"}
        assert {each.again(f"kept {kind}") for each, kind in held} == {"web"}


@contextmanager
def flapping_endpoints(lab: Lab, one: dict[str, Any], other: dict[str, Any]) -> Iterator[list[int]]:
    """Written in turn, more than a hundred times a second if the machine is quick; how often so far. `one` is the last."""
    written: list[int] = []
    stop = threading.Event()

    def write() -> None:
        with open_blocking(f"sqlite:///{lab.folder}/store.db") as store:
            while not stop.is_set() or len(written) % 2:
                store.apply([decode_object((other, one)[len(written) % 2])])
                written.append(1)
                time.sleep(0.005)

    writing = threading.Thread(target=write)
    writing.start()
    try:
        yield written
    finally:
        stop.set()
        writing.join()


def test_endpoints_of_a_family_that_the_service_has_not_are_named(lab: Lab, pods: dict[str, Pod]) -> None:
    wrong = slice_of("wrong", (pods["web"], READY))
    wrong["addressType"], wrong["endpoints"] = "IPv6", [{"addresses": [pods["web"].address[6]]}]
    lab.apply(service("wrong", {4: "10.96.0.43"}), wrong)

    assert eventually(lambda: "its IPv6 endpoints are left out" in lab.cilium("status", "--verbose").stdout)
    lab.cilium("delete", "service", "wrong")
    lab.cilium("delete", "endpointslice", "wrong-1")


def test_a_node_port_that_another_service_has_is_refused_with_its_owner(lab: Lab, pods: dict[str, Pod]) -> None:
    lab.apply(service("first", {4: "10.96.0.44"}, selector={"app": "nobody"}, node_port=30444))

    refused = lab.cilium(
        *("apply", "-f", "-"),
        text=json.dumps([service("second", {4: "10.96.0.45"}, selector={"app": "nobody"}, node_port=30444)]),
        check=False,
    )

    assert refused.returncode != 0
    assert "node port 30444 is taken: Service default/first has it" in refused.stderr
