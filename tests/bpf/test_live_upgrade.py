"""An agent with maps of another type or size takes over from one whose programs run: connections go on."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from pycilium.agent.link_operations import LinkOperations, LinkTarget
from pycilium.datapath import bpf_syscall as bpf
from pycilium.datapath import bpffs, layouts, loader
from pycilium.datapath.codec import MapType
from pycilium.datapath.earlier_maps import EarlierMaps
from pycilium.datapath.layouts import Direction
from pycilium.datapath.links import Hook
from pycilium.datapath.loader import Datapath, DatapathConfig, load
from tests.bpf.conftest import SMALL_MAPS, constants, new_namespace
from tests.bpf.live import UPLINK4, UPLINK6, LiveNode
from tests.bpf.node import WEB, Node
from tests.bpf.test_live import connected, receive

pytestmark = pytest.mark.root

LARGER = {name: 2 * SMALL_MAPS[name] for name in ("ct4", "ct6", "ct_transients", "nat4", "nat6", "endpoints4")}


@dataclass
class Upgrading:
    """A node whose programs are exchanged."""

    live: LiveNode
    root: Path
    stack: ExitStack

    def load(self, sizes: dict[str, int] | None = None) -> Datapath:
        """As an agent does at its start: nothing is attached yet."""
        config = DatapathConfig(str(self.root), constants(self.live.devices), {**SMALL_MAPS, **(sizes or {})})
        return self.stack.enter_context(load(config))

    def attach(self, datapath: Datapath) -> None:
        """As an agent does in its first round."""
        targets = {name: LinkTarget(self.live.devices[name], "from_container") for name in ("web", "db")}
        targets["cilium_host"] = LinkTarget(self.live.devices["cilium_host"], "from_host", Hook.EGRESS)
        targets["uplink"] = LinkTarget(self.live.devices["uplink"], "from_netdev")
        targets["uplink:egress"] = LinkTarget(self.live.devices["uplink"], "to_netdev", Hook.EGRESS)
        operations = LinkOperations(datapath, str(self.root), "auto")
        assert self.live.within("node", lambda: operations.update(targets)) == {}

    def node(self, datapath: Datapath) -> Node:
        made = Node(datapath, self.live.namespaces["node"], self.live.devices)
        self.stack.callback(made.close)
        return made


@pytest.fixture
def upgrading(tmp_path: Path) -> Iterator[Upgrading]:
    namespaces = {name: new_namespace() for name in ("node", "world", "web", "db")}
    live = LiveNode(namespaces)
    live.build()
    bpffs.ensure(tmp_path / "bpf")
    with ExitStack() as stack:
        stack.callback(bpffs.unmount, tmp_path / "bpf")
        yield Upgrading(live, tmp_path / "bpf", stack)
    for fd in namespaces.values():
        os.close(fd)


def closed_to_db(node: Node) -> None:
    """Nothing may come to web: what db says of web's connections passes because conntrack knows them."""
    node.reset()
    node.masquerade("uplink", ipv4=UPLINK4[0], ipv6=UPLINK6[0])
    node.row(WEB, Direction.INGRESS, 900, allow=(), enforced=True)


@contextmanager
def older_conntrack(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is loaded meanwhile has conntrack in maps that forget whom they have not seen for longest."""
    (root / "maps").mkdir()
    for spec in (layouts.CT4, layouts.CT6):
        fd = bpf.map_create(MapType.LRU_HASH, spec.key.size, spec.value.size, 256, name=spec.name)
        loader.replace_pins([(root / "maps" / spec.name, fd)])
        os.close(fd)
    kept = EarlierMaps.kept
    with monkeypatch.context() as patched:
        for name in ("CT4", "CT6"):
            patched.setattr(layouts, name, replace(getattr(layouts, name), type=MapType.LRU_HASH))
        patched.setattr(EarlierMaps, "kept", lambda self: {n: e.raw.fd for n, e in self._pinned.items()} | kept(self))
        yield


def talks(client: socket.socket, server: socket.socket) -> None:
    """The end that was connected to speaks first: what only it sends is nobody's unless the connection is known."""
    for here, there in ((server, client), (client, server)):
        here.sendall(b"x" * 2000)
        there.settimeout(5)
        receive(there, 2000)


@pytest.mark.parametrize(
    ("family", "to", "before"),
    [(4, "db", "smaller"), (6, "world", "smaller"), (6, "db", "forgetful"), (4, "world", "forgetful")],
)
def test_connections_go_on_when_maps_have_another_size_or_type(
    upgrading: Upgrading, monkeypatch: pytest.MonkeyPatch, family: int, to: str, before: str
) -> None:
    with older_conntrack(upgrading.root, monkeypatch) if before == "forgetful" else nullcontext():
        older = upgrading.load()
        closed_to_db(upgrading.node(older))
    upgrading.attach(older)
    with ExitStack() as connections:
        first = connections.enter_context(connected(upgrading.live, "web", to, family))
        talks(*first)

        newer = upgrading.load(LARGER)
        second = connections.enter_context(connected(upgrading.live, "web", to, family))
        talks(*first)
        upgrading.attach(newer)

        assert newer.moved.lost == ()
        assert newer.sizes()["ct4"] == LARGER["ct4"]
        talks(*first)
        talks(*second)
        assert len(upgrading.node(newer).connections()) == 2

        back = upgrading.load()  # and the way back is the same way
        upgrading.attach(back)
        talks(*first)
        talks(*second)
        assert {path.name for path in (upgrading.root / "maps").iterdir()} == set(back.sizes())


def test_an_agent_that_ended_before_it_had_exchanged_programs_costs_no_connection(upgrading: Upgrading) -> None:
    older = upgrading.load()
    closed_to_db(upgrading.node(older))
    upgrading.attach(older)
    upgrading.load(LARGER).close()
    with connected(upgrading.live, "web", "db", 4) as since:
        upgrading.load({**LARGER, "ct4": 512}).close()
        newer = upgrading.load(LARGER)
        upgrading.attach(newer)

        talks(*since)

    assert not newer.moved.under_way
    assert {path.name for path in (upgrading.root / "maps").iterdir()} == set(newer.sizes())


def test_programs_that_run_keep_what_the_agent_wrote_for_them(upgrading: Upgrading) -> None:
    older = upgrading.load()
    closed_to_db(upgrading.node(older))
    upgrading.attach(older)

    newer = upgrading.node(upgrading.load(LARGER))
    newer.clear()  # as an agent removes what nothing refers to any more

    with connected(upgrading.live, "web", "db", 4) as connection:
        talks(*connection)


def test_db_cannot_open_a_connection_by_an_older_ones_leave(upgrading: Upgrading) -> None:
    """The other side of it: what is not allowed is not let in by maps that were made anew."""
    older = upgrading.load()
    closed_to_db(upgrading.node(older))
    upgrading.attach(older)
    upgrading.attach(upgrading.load(LARGER))

    with (
        pytest.raises(TimeoutError),
        upgrading.live.within("web", lambda: socket.create_server((WEB.ipv4, 0))) as server,
    ):
        upgrading.live.within("db", lambda: socket.create_connection(server.getsockname(), timeout=0.5))
