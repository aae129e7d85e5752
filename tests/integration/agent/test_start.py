"""What keeps the agent from starting is found before the node is touched."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pycilium.agent import wiring
from pycilium.agent.config import AgentConfig
from pycilium.errors import ConfigError
from pycilium.lab import namespaces

pytestmark = pytest.mark.root


@pytest.fixture
def node() -> Iterator[str]:
    name = f"cilium-test-start-{os.getpid()}"
    namespaces.create(name)
    yield name
    namespaces.delete(name)


def test_a_device_that_does_not_exist_is_named_and_nothing_was_made(node: str, tmp_path: Path) -> None:
    config = AgentConfig(
        node_name="node1",
        run_dir=str(tmp_path / "run"),
        bpf_root=str(tmp_path / "bpf"),
        store=f"sqlite:///{tmp_path}/store.db",
        devices=["lo", "eth9"],
    )

    def start() -> None:
        asyncio.run(wiring.run(config, asyncio.Event()))

    with pytest.raises(ConfigError, match="devices: there is no device eth9"):
        namespaces.run_in(node, start)

    assert namespaces.run_in(node, lambda: [name for _, name in socket.if_nameindex()]) == ["lo"]
    assert not (tmp_path / "bpf").exists()
