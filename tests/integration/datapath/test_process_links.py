"""Programs on cgroups whose processes are an endpoint, and on the sockets that outlive them: in the real kernel.

Of the endpoints here the kernel has no policy, so what is theirs gets nothing; what is the host's gets everything.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pycilium.agent.link_operations import LinkOperations, SockTarget
from pycilium.datapath import bpf_syscall, bpffs, cgroup_links, layouts, netns
from pycilium.datapath.cgroup_links import BELOW_PROGRAM, PROCESS_PROGRAM
from pycilium.datapath.loader import OBJECTS, Datapath, DatapathConfig, load
from pycilium.lab import cgroups
from tests.integration.datapath.sockets import make_namespace

pytestmark = pytest.mark.root

SIZES = {
    **dict.fromkeys(("ct4", "ct6", "ipcache4", "ipcache6", "policy_rows", "identity_bits"), 1024),
    "events": 1 << 16,
    "endpoints4": 64,
    "endpoints6": 64,
}
LEVEL = 1
SILENCE_S, PATIENCE_S = 0.2, 30.0


@dataclass(frozen=True)
class Node:
    """Its programs, and a network namespace of its own."""

    datapath: Datapath
    links: LinkOperations
    namespace: int

    def endpoint(self, cgroup_id: int) -> None:
        with self.datapath.map(layouts.PROCESSES) as processes, self.datapath.map(layouts.PROCESS_LEVELS) as levels:
            levels.update(0, layouts.ProcessLevels(count=1, levels=bytes([LEVEL]).ljust(15, b"\0")))
            entry = layouts.ProcessEntry(sec_identity=1000, policy_id=7, endpoint_id=12)
            processes.update(layouts.ProcessKey(cgroup_id=cgroup_id), entry)

    def attach(self, *targets: SockTarget) -> None:
        assert self.links.update({target.key: target for target in targets}) == {}

    def detach(self, *targets: SockTarget) -> None:
        assert self.links.delete(target.key for target in targets) == {}

    def socket(self, cgroup: Path | None = None) -> socket.socket:
        with cgroups.inside(cgroup):
            made = netns.run_in(self.namespace, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        made.bind(("127.0.0.1", 0))
        made.settimeout(SILENCE_S)
        return made

    def reaches(self, server: socket.socket) -> bool:
        with self.socket() as client:
            client.sendto(b"hello", server.getsockname())
        try:
            return bool(server.recv(64))
        except TimeoutError:
            return False


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("process")
    root, objects = folder / "bpf", folder / "objects"
    objects.mkdir()
    (objects / "process.bpf.o").symlink_to(OBJECTS / "process.bpf.o")
    bpffs.ensure(root)
    namespace = make_namespace()
    try:
        with load(DatapathConfig(str(root), map_entries=SIZES), objects) as datapath:
            yield Node(datapath, LinkOperations(datapath, str(root), "auto"), namespace)
    finally:
        os.close(namespace)
        bpffs.unmount(root)


@pytest.fixture
def cgroup() -> Iterator[Path]:
    made = cgroup_links.cgroup_root() / f"pycilium-test-links-{os.getpid()}"
    cgroups.make(made)
    yield made
    cgroups.remove(made)


def wait_until_released(node: Node, cgroup_id: int) -> None:
    """The kernel does so in its own time."""
    until = time.monotonic() + PATIENCE_S
    while node.links.has_sockets(cgroup_id):
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_socket_that_outlives_its_cgroup_does_not_fall_to_the_host(node: Node, cgroup: Path) -> None:
    number = cgroup_links.cgroup_id(cgroup)
    there = SockTarget(number, PROCESS_PROGRAM, cgroup)
    with node.socket(cgroup) as kept:
        assert node.reaches(kept)
        node.endpoint(number)
        node.attach(there)
        assert not node.reaches(kept)

        cgroup.rmdir()
        node.attach(SockTarget(number, PROCESS_PROGRAM))

        assert node.links.has_sockets(number)
        assert not node.reaches(kept)
    wait_until_released(node, number)
    node.attach(SockTarget(number, PROCESS_PROGRAM))
    node.detach(there)


def test_a_last_socket_that_was_closed_while_its_link_was_looked_at_ended_the_agent(
    node: Node, cgroup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = cgroup_links.cgroup_id(cgroup)
    node.attach(SockTarget(number, BELOW_PROGRAM, cgroup))
    link_info = bpf_syscall.link_info

    def told_before_it_was_gone(link: int) -> bpf_syscall.LinkInfo:
        monkeypatch.setattr(bpf_syscall, "link_info", link_info)
        told = link_info(link)
        cgroup.rmdir()
        wait_until_released(node, number)
        return told

    monkeypatch.setattr(bpf_syscall, "link_info", told_before_it_was_gone)
    left = SockTarget(number, PROCESS_PROGRAM)

    node.attach(left)

    node.detach(left)


def test_one_made_anew_at_its_path_takes_no_link_from_the_sockets_that_are_left(node: Node, cgroup: Path) -> None:
    """An agent that starts looks for the cgroup of its file, which is another by now."""
    number = cgroup_links.cgroup_id(cgroup)
    there = SockTarget(number, PROCESS_PROGRAM, cgroup)
    node.endpoint(number)
    node.attach(there)
    with node.socket(cgroup) as kept:
        cgroup.rmdir()
        cgroup.mkdir()

        node.attach(there)

        assert node.links.has_sockets(number)
        assert not node.reaches(kept)
    node.detach(there)
    assert not node.links.has_sockets(number)


def test_one_that_lay_in_anothers_judges_itself_once_it_is_gone(node: Node, cgroup: Path) -> None:
    inner = cgroup / "inner"
    inner.mkdir()
    numbers = [cgroup_links.cgroup_id(each) for each in (cgroup, inner)]
    outer = SockTarget(numbers[0], PROCESS_PROGRAM, cgroup)
    node.endpoint(numbers[0])
    node.attach(outer, SockTarget(numbers[1], BELOW_PROGRAM, inner))
    with node.socket(inner) as kept:
        inner.rmdir()
        assert not node.reaches(kept)

        left = SockTarget(numbers[1], PROCESS_PROGRAM)
        node.attach(left)
        node.detach(outer)

        assert not node.reaches(kept)
        node.detach(left)
        assert node.reaches(kept)
