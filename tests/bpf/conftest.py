"""Programs loaded once per module and configuration, in a bpffs and a network namespace of the tests' own."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pycilium.datapath import bpffs, layouts, netns
from pycilium.datapath.layouts import Aggregation
from pycilium.datapath.loader import OBJECTS, Datapath, DatapathConfig, load
from pycilium.datapath.maps import possible_cpus
from tests.bpf.node import DEVICES, GATEWAY4, GATEWAY6, HOST_MAC, Node, mac, packed

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
import build_bpf

_CLONE_NEWNET = 0x40000000
SMALL_MAPS = {
    "services4": 256,
    "services6": 256,
    "service_ips4": 64,
    "service_ips6": 64,
    "service_slots": 65536,
    "backends": 1024,
    "source_ranges4": 64,
    "source_ranges6": 64,
    "affinity": 1024,
    "service_flows4": 1024,
    "service_flows6": 1024,
    "socket_flows": 1024,
    "ct4": 1024,
    "ct6": 1024,
    "ct_transients": 256,
    "fragments": 64,
    "nat4": 1024,
    "nat6": 1024,
    "masquerade": 16,
    "no_masquerade4": 64,
    "no_masquerade6": 64,
    "l2_announced": 64,
    "endpoints4": 64,
    "endpoints6": 64,
    "ipcache4": 1024,
    "ipcache6": 1024,
    "policies": 64,
    "identity_bits": 1024,
    "policy_rows": 1024,
    "nodes": 64,
    "path_mtus": 64,
    "events": 1 << 16,
}


@pytest.fixture(scope="session", autouse=True)
def objects() -> Path:
    build_bpf.build()
    return OBJECTS


def new_namespace() -> int:
    """A descriptor of a new network namespace; the thread that made it is gone, so it lives by this alone."""
    made: list[int] = []

    def make() -> None:
        assert ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET) == 0
        made.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    return made[0]


def _make_devices() -> dict[str, int]:
    lines = [
        f"link add {name} address {address} type veth peer name {name}_p\nlink set {name} up"
        for name, address in DEVICES.items()
    ]
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)
    listed = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    return {line.split(": ")[1].split("@")[0]: int(line.split(": ")[0]) for line in listed.splitlines()}


@pytest.fixture(scope="session")
def netns_fd() -> Iterator[int]:
    fd = new_namespace()
    yield fd
    os.close(fd)


@pytest.fixture(scope="session")
def devices(netns_fd: int) -> dict[str, int]:
    return netns.run_in(netns_fd, _make_devices)


def constants(devices: dict[str, int], **changes: object) -> layouts.ProgramConfig:
    """An ordinary node's configuration, with `changes`."""
    ordinary: dict[str, object] = {
        "aggregation": Aggregation.NONE,
        "event_wakeup_ns": 1_000_000,
        "gateway_ipv4": int.from_bytes(packed(GATEWAY4)[12:], "big"),
        "gateway_ipv6": packed(GATEWAY6),
        "host_ifindex": devices["cilium_host"],
        "host_mac": mac(HOST_MAC),
        "overlay_ifindex": devices.get("cilium_vxlan", 0),
        "report_interval_s": 5,
        "masquerade": 1,
        "services": 1,
        "beside_kube_proxy": 0,
        "tunnel_port": 8472,
        "cpus": possible_cpus(),
    }
    return layouts.ProgramConfig(**{**ordinary, **changes})


LoadDatapath = Callable[..., Datapath]


def _loading(devices: dict[str, int], folders: pytest.TempPathFactory) -> Iterator[LoadDatapath]:
    with ExitStack() as stack:

        def load_it(sizes: dict[str, int] | None = None, **changes: object) -> Datapath:
            root = folders.mktemp("bpf")
            bpffs.ensure(root)
            stack.callback(bpffs.unmount, root)
            config = DatapathConfig(str(root), constants(devices, **changes), {**SMALL_MAPS, **(sizes or {})})
            return stack.enter_context(load(config))

        yield load_it


@pytest.fixture(scope="module")
def load_datapath(devices: dict[str, int], tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadDatapath]:
    """Loads the programs under a configuration with the changes that it is called with."""
    yield from _loading(devices, tmp_path_factory)


@pytest.fixture
def load_for_this_test(devices: dict[str, int], tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadDatapath]:
    """The same, where many are loaded one after the other: each holds more than 70 descriptors."""
    yield from _loading(devices, tmp_path_factory)


NodeWith = Callable[..., Node]


@pytest.fixture(scope="module")
def node_with(load_datapath: LoadDatapath, netns_fd: int, devices: dict[str, int]) -> Iterator[NodeWith]:
    """A node under a configuration; one for all tests of the module that ask for the same, its maps as at first."""
    nodes: dict[str, Node] = {}

    def node(**changes: object) -> Node:
        name = repr(sorted(changes.items()))
        if name not in nodes:
            nodes[name] = Node(load_datapath(**changes), netns_fd, devices)
        nodes[name].reset()
        return nodes[name]

    yield node
    for made in nodes.values():
        made.close()


@pytest.fixture
def node(node_with: NodeWith) -> Node:
    """A node that reports every packet."""
    return node_with()
