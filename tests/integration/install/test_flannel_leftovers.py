"""What flannel left is removed from a node, in a network namespace that stands for one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from pycilium.datapath import netns
from pycilium.machine import node_preflight

pytestmark = pytest.mark.root


def ip(node: int, words: str) -> str:
    argv = ["ip", *words.split()]
    done = netns.run_in(node, lambda: subprocess.run(argv, check=True, capture_output=True, text=True))
    return done.stdout


@pytest.fixture
def node(monkeypatch) -> Iterator[int]:
    monkeypatch.setattr(node_preflight.machine, "lacking", lambda: iter(()))
    fd = netns.nameless()
    ip(fd, "link add cni0 type bridge")
    ip(fd, "link add flannel.1 type vxlan id 1 dstport 8472 local 127.0.0.1 nolearning")
    yield fd
    os.close(fd)


def preflight(node: int, *words: str) -> list[str]:
    done = netns.run_in(node, lambda: CliRunner().invoke(node_preflight.preflight, words))
    return [line.partition(":")[0] for line in done.output.splitlines()]


def test_devices_of_an_ended_flannel_go_by_repair_alone(node):
    assert preflight(node) == ["warning", "warning", "error"]

    assert preflight(node, "--repair") == ["ok", "ok", "ok"]

    assert "flannel" not in ip(node, "link")
    assert preflight(node, "--repair") == ["ok"]


def test_a_bridge_with_a_pod_stays_and_so_does_the_overlay(node):
    ip(node, "link add veth0 type veth peer name pod0")
    ip(node, "link set veth0 master cni0")

    assert preflight(node, "--repair") == ["warning", "warning", "error"]
    assert "flannel.1" in ip(node, "link")
