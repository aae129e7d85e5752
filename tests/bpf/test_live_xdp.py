"""Before the stack of a real device: connections from outside to backends on another node, and how programs get there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from pycilium.agent.link_operations import OUTDATED, LinkOperations, XdpTarget
from pycilium.datapath import links, xdp_links
from pycilium.datapath.layouts import ServiceFlags
from pycilium.lab.wires import be_like_a_wire
from tests.bpf.conftest import new_namespace
from tests.bpf.live_nodes import API, NODE1, LiveNodes
from tests.bpf.services import NODE_PORT
from tests.bpf.test_live_services import pod_address, serve, services_of, talk

pytestmark = pytest.mark.root

KEY = "uplink:xdp"
WAYS = pytest.mark.parametrize(("mode", "family"), [("tunnel", 4), ("tunnel", 6), ("native", 4)])
MODES = pytest.mark.parametrize("way", ["native", "generic"])


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveNodes]:
    namespaces = {name: new_namespace() for name in ("node1", "node2", "router", "web", "api")}
    with ExitStack() as stack:
        for fd in namespaces.values():
            stack.callback(os.close, fd)
        nodes = LiveNodes(namespaces, stack, tmp_path_factory.mktemp("nodes"))
        for place, device in (("router", "to1"), ("router", "to2"), ("node2", "wire")):
            nodes.within(place, lambda device=device: be_like_a_wire(device))
        yield nodes


@pytest.fixture
def operations(live: LiveNodes) -> Iterator[LinkOperations]:
    made = LinkOperations(live.datapaths["node1"], str(live.roots["node1"]), "auto")
    yield made
    live.within("node1", lambda: made.delete([KEY]))


def uplink(live: LiveNodes) -> int:
    return live.nodes["node1"].devices["uplink"]


def accelerate(live: LiveNodes, operations: LinkOperations, mode: xdp_links.Mode = "native") -> dict[str, Exception]:
    """On trial, and kept."""
    failures = live.within("node1", lambda: operations.update({KEY: XdpTarget(uplink(live), "xdp_netdev", mode)}))
    if KEY in operations.trials:
        operations.confirm(KEY)
    return failures


def without_from_netdev(live: LiveNodes) -> None:
    live.within("node1", lambda: links.detach(uplink(live), live.roots["node1"] / "links" / "uplink"))


def with_from_netdev(live: LiveNodes) -> None:
    program = live.datapaths["node1"].programs["from_netdev"].fd
    live.within("node1", lambda: links.attach(uplink(live), program, live.roots["node1"] / "links" / "uplink"))


@WAYS
def test_from_outside_to_a_pod_of_another_node(
    live: LiveNodes, operations: LinkOperations, mode: str, family: int
) -> None:
    """The second time nothing but the program before the stack can have sent it on."""
    services = services_of(live, mode)
    live.nodes["node1"].masquerade("uplink", ipv4=NODE1.ipv4, ipv6=NODE1.ipv6)
    assert not accelerate(live, operations)
    own = NODE1.ipv4 if family == 4 else NODE1.ipv6
    with closing(serve(live, "api", pod_address(API, family), family)) as server:
        backend = services.backend(pod_address(API, family), server.getsockname()[1])
        services.frontend(own, NODE_PORT, (backend,), (backend,), flags=ServiceFlags.EXTERNAL)
        first = talk(live, server, "router", (own, NODE_PORT))
        without_from_netdev(live)
        try:
            second = talk(live, server, "router", (own, NODE_PORT))
        finally:
            with_from_netdev(live)

    assert first == second == (NODE1.gateway4 if family == 4 else NODE1.gateway6)


def test_a_link_is_found_exchanged_and_detached(live: LiveNodes, operations: LinkOperations) -> None:
    assert not accelerate(live, operations)
    assert live.within("node1", lambda: xdp_links.way_of("uplink")) == "native"
    assert dict(live.within("node1", lambda: list(operations.dump())))[KEY] == XdpTarget(uplink(live), "xdp_netdev")

    assert not accelerate(live, operations)  # as a restarted agent does
    live.within("node1", lambda: operations.delete([KEY]))

    assert live.within("node1", lambda: xdp_links.way_of("uplink")) == ""
    assert KEY not in dict(live.within("node1", lambda: list(operations.dump())))
    assert OUTDATED == ""


def test_a_trial_that_fails_leaves_nothing(live: LiveNodes, operations: LinkOperations) -> None:
    target = XdpTarget(uplink(live), "xdp_netdev")
    assert not live.within("node1", lambda: operations.update({KEY: target}))

    live.within("node1", lambda: operations.roll_back(KEY))

    assert live.within("node1", lambda: xdp_links.way_of("uplink")) == ""
