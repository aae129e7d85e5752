"""Another node's routes to a world, in a network namespace that stands for the node: they go with who keeps them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from pycilium.datapath import netns

pytestmark = pytest.mark.root
PATIENCE_S = 30.0
HOPS = ("172.31.0.1=198.51.100.1", "fd00:31::1=2001:db8:77::1")


def run(node: int, words: str) -> str:
    def there() -> str:
        return subprocess.run(words.split(), check=True, capture_output=True, text=True).stdout

    return netns.run_in(node, there)


@pytest.fixture
def node() -> Iterator[int]:
    fd = netns.nameless()
    run(fd, "ip link add eth0 type veth peer name far")
    for device in ("eth0", "far"):
        run(fd, f"ip link set {device} up")
    run(fd, "ip addr add 172.31.0.2/24 dev eth0")
    run(fd, "ip addr add fd00:31::2/64 dev eth0 nodad")
    yield fd
    os.close(fd)


def kept(node: int, *hops: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "pycilium.connectivity.peer", "way", *hops]
    return netns.run_in(node, lambda: subprocess.Popen(argv, stdout=subprocess.PIPE, text=True))


def world(node: int) -> list[str]:
    """Destinations of its routes, with what ends them by itself."""
    lines = (run(node, "ip route") + run(node, "ip -6 route")).splitlines()
    return [
        f"{line.split()[0]}{' expires' * ('expires' in line)}" for line in lines if "198.51" in line or "db8" in line
    ]


@pytest.mark.parametrize(
    ("end", "left"), [(signal.SIGTERM, []), (signal.SIGKILL, ["2001:db8:77::1 expires"])], ids=["asked", "killed"]
)
def test_routes_go_with_the_process_or_end_by_themselves(node, end, left):
    with kept(node, *HOPS) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert world(node) == ["198.51.100.1", "2001:db8:77::1 expires"]

        process.send_signal(end)
        process.stdout.read()  # its child has it too: at the end both are gone

    until = time.monotonic() + PATIENCE_S
    while "cilium_way" in run(node, "ip link"):  # the kernel takes devices down after the namespace's last process
        assert time.monotonic() < until
    assert world(node) == left


def test_a_node_that_is_no_neighbour_is_no_way(node):
    with kept(node, "10.9.9.9=198.51.100.1") as process:
        assert process.wait() != 0
