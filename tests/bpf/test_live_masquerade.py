"""Masquerade on devices in layers: a bridge has the node's address, the device below it has the wire, and both have the
programs. What the upper has translated, the lower must leave as it is.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pycilium.datapath import bpffs, links
from pycilium.datapath.layouts import Aggregation
from pycilium.datapath.loader import DatapathConfig, load
from tests.bpf.conftest import SMALL_MAPS, constants, new_namespace
from tests.bpf.live import UPLINK4, UPLINK6, LiveNode, ip
from tests.bpf.node import UPLINK_MAC, WORLD4, WORLD6, Node

pytestmark = pytest.mark.root

BRIDGE = f"""
link add br0 address {UPLINK_MAC} type bridge
address flush dev uplink
link set uplink master br0
link set uplink up
link set br0 addrgenmode none up
address add {UPLINK4[0]}/24 dev br0
address add {UPLINK6[0]}/64 dev br0 nodad
address add fe80::1/64 dev br0 nodad
route replace default via {UPLINK4[1]} dev br0
route replace default via {UPLINK6[1]} dev br0
"""


@pytest.fixture(scope="module")
def live() -> Iterator[LiveNode]:
    namespaces = {name: new_namespace() for name in ("node", "world", "web", "db")}
    built = LiveNode(namespaces)
    built.build()
    built.within("node", lambda: ip(BRIDGE))
    built.devices["br0"] = built.within("node", lambda: socket.if_nametoindex("br0"))
    yield built
    for fd in namespaces.values():
        os.close(fd)


@pytest.fixture(scope="module")
def node(live: LiveNode, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    root = tmp_path_factory.mktemp("live")
    bpffs.ensure(root)
    try:
        config = DatapathConfig(str(root), constants(live.devices, aggregation=Aggregation.MEDIUM), SMALL_MAPS)
        with load(config) as loaded:
            pins = Path(root) / "links"
            live.attach(loaded, pins)
            live.attach_one(loaded, pins / "br0_in", "br0", "from_netdev", links.Hook.INGRESS)
            live.attach_one(loaded, pins / "br0_out", "br0", "to_netdev", links.Hook.EGRESS)
            made = Node(loaded, live.namespaces["node"], live.devices)
            made.reset()
            made.masquerade("br0", ipv4=UPLINK4[0], ipv6=UPLINK6[0])
            yield made
            made.close()
    finally:
        bpffs.unmount(root)


@pytest.mark.usefixtures("node")
@pytest.mark.parametrize("family", [4, 6])
def test_a_connection_is_translated_once(live: LiveNode, family: int) -> None:
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    world = WORLD4 if family == 4 else WORLD6
    with closing(live.within("world", lambda: socket.create_server((world, 0), family=kind))) as server:
        server.settimeout(5)
        place = (world, server.getsockname()[1])
        with closing(live.within("web", lambda: socket.create_connection(place, timeout=5))) as client:
            accepted, seen = server.accept()
            with closing(accepted):
                accepted.settimeout(5)
                client.sendall(b"there")
                assert accepted.recv(10) == b"there"
                accepted.sendall(b"back")
                assert client.recv(10) == b"back"
            assert seen[:2] == ((UPLINK4 if family == 4 else UPLINK6)[0], client.getsockname()[1])
