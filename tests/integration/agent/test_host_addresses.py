"""Which address of a device the agent prefers, by what the kernel says of each."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from pycilium.agent.config import AgentConfig
from pycilium.agent.masquerade import MasqueradeTarget, addresses_of
from pycilium.agent.plumbing import Plumbing
from pycilium.lab import namespaces

pytestmark = pytest.mark.root


@pytest.fixture
def node() -> Iterator[str]:
    name = f"cilium-test-addresses-{os.getpid()}"
    namespaces.create(name)
    yield name
    namespaces.delete(name)


def best(node: str, *commands: str) -> MasqueradeTarget:
    """Of eth0, after these `ip address add …`."""
    batch = ["link add eth0 type veth peer name eth1", "link set eth0 addrgenmode none up", "link set eth1 up"]
    batch += [f"address add {command} dev eth0" for command in commands]

    def look() -> MasqueradeTarget:
        subprocess.run(["ip", "-batch", "-"], input="\n".join(batch), text=True, check=True)
        return addresses_of("eth0", Plumbing(AgentConfig(node_name="node1"), None, None).host_addresses())

    return namespaces.run_in(node, look)


def test_the_first_address_whatever_is_added_later(node: str) -> None:
    """As a virtual address that moves between nodes is, with a number lower than the node's own."""
    found = best(
        node,
        *("192.0.2.20/24", "192.0.2.10/24", "192.0.2.5/32"),
        *("fe80::7/64 nodad", "2001:db8::20/64 nodad", "2001:db8::10/64 nodad", "2001:db8::5/128 nodad"),
    )
    assert found == MasqueradeTarget(ip_address("192.0.2.20"), ip_address("2001:db8::20"))


def test_no_deprecated_address_if_there_is_another(node: str) -> None:
    found = best(node, "2001:db8::20/64 nodad preferred_lft 0", "2001:db8::10/64 nodad")
    assert found == MasqueradeTarget(None, ip_address("2001:db8::10"))


def test_a_deprecated_address_if_there_is_no_other(node: str) -> None:
    found = best(node, "2001:db8::20/64 nodad preferred_lft 0")
    assert found == MasqueradeTarget(None, ip_address("2001:db8::20"))
