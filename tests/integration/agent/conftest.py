"""A node and its default gateway as two network namespaces; programs that break a node, compiled once per run."""

from __future__ import annotations

import contextlib
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pycilium.datapath.loader import OBJECTS
from pycilium.lab import namespaces

sys.path.insert(0, str(Path(__file__).parents[3] / "tools"))
import build_bpf

GATEWAY = {4: "192.0.2.1", 6: "2001:db8::1"}
NODE = {4: "192.0.2.2", 6: "2001:db8::2"}
SOURCES = build_bpf.SOURCES


@dataclass(frozen=True)
class Place:
    """Names of the namespaces; the node's device is eth0."""

    node: str
    gateway: str

    def in_node(self, *argv: str) -> subprocess.CompletedProcess[str]:
        return _run(self.node, *argv)

    def in_gateway(self, *argv: str) -> subprocess.CompletedProcess[str]:
        return _run(self.gateway, *argv)

    def gateway_reaches_node(self, version: int = 4) -> bool:
        return self.in_gateway("ping", "-c1", "-W1", NODE[version]).returncode == 0


@pytest.fixture
def place() -> Iterator[Place]:
    with plumbed() as place:
        yield place


@contextlib.contextmanager
def plumbed() -> Iterator[Place]:
    """A node beside its gateway, for as long as the block runs."""
    place = Place(*(f"cilium-test-{role}-{secrets.token_hex(3)}" for role in ("node", "gateway")))
    namespaces.create(place.node)
    namespaces.create(place.gateway)
    try:
        _plumb(place)
        yield place
    finally:
        namespaces.delete(place.gateway)
        namespaces.delete(place.node)


@pytest.fixture(scope="session")
def breaking_programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the programs of breaking.bpf.c."""
    folder = tmp_path_factory.mktemp("breaking")
    build_bpf.compile_object(Path(__file__).with_name("breaking.bpf.c"), folder / "breaking.bpf.o")
    return folder


@pytest.fixture(scope="session")
def breaking_agent_objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The agent's objects, of which from_netdev drops everything."""
    folder = tmp_path_factory.mktemp("objects")
    for path in OBJECTS.glob("*.o"):
        (folder / path.name).write_bytes(path.read_bytes())
    source = folder / "netdev.bpf.c"
    text = (SOURCES / "netdev.bpf.c").read_text()
    opening = "int from_netdev(struct __sk_buff *skb)\n{\n"
    assert opening in text
    text = text.replace('"../', '"')
    source.write_text(text.replace(opening, f"{opening}\tif (skb->len)\n\t\treturn TC_ACT_SHOT;\n"))
    build_bpf.compile_object(source, folder / "netdev.bpf.o")
    source.unlink()
    return folder


def _plumb(place: Place) -> None:
    words = f"link add eth0 type veth peer name port netns {place.gateway}"
    for argv in (
        words,
        f"addr add {NODE[4]}/24 dev eth0",
        f"addr add {NODE[6]}/64 dev eth0 nodad",
        "link set lo up",
        "link set eth0 up",
    ):
        _must(place.in_node("ip", *argv.split()))
    for argv in (
        f"addr add {GATEWAY[4]}/24 dev port",
        f"addr add {GATEWAY[6]}/64 dev port nodad",
        "link set lo up",
        "link set port up",
    ):
        _must(place.in_gateway("ip", *argv.split()))
    for version, gateway in GATEWAY.items():
        _must(place.in_node("ip", f"-{version}", "route", "add", "default", "via", gateway))


def _run(netns: str, *argv: str) -> subprocess.CompletedProcess[str]:
    return namespaces.run_in(netns, lambda: subprocess.run(argv, capture_output=True, text=True, check=False))


def _must(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, f"{done.args}: {done.stderr}"
