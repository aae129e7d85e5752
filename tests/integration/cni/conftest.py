"""A node and pods: network namespaces of each test's own."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from ipaddress import IPv4Address, IPv6Address
from typing import Any, TypeVar

import pytest

from pycilium.datapath.pod_interface import PodInterface
from pycilium.lab import namespaces

Result = TypeVar("Result")
_counter = itertools.count(1)

GATEWAY_IPV4, GATEWAY_IPV6 = IPv4Address("10.77.0.1"), IPv6Address("fd77::1")


class Namespaces:
    """Makes namespaces that end with the test."""

    def __init__(self, undo: ExitStack) -> None:
        self._undo = undo

    def make(self) -> str:
        name = f"cilium-test-{os.getpid()}-{next(_counter)}"
        namespaces.create(name)
        self._undo.callback(namespaces.delete, name)
        return name


@pytest.fixture
def make_namespace() -> Iterator[Callable[[], str]]:
    with ExitStack() as undo:
        yield Namespaces(undo).make


class Node:
    """The namespace in which the agent would run."""

    def __init__(self, name: str) -> None:
        self.name = name

    def run(self, function: Callable[..., Result], *args: Any, **kwargs: Any) -> Result:
        return namespaces.run_in(self.name, lambda: function(*args, **kwargs))


@pytest.fixture
def node(make_namespace: Callable[[], str]) -> Node:
    return Node(make_namespace())


@pytest.fixture
def pod(make_namespace: Callable[[], str]) -> str:
    return make_namespace()


def wanted(pod: str, **changes: Any) -> PodInterface:
    """An interface of both families for `pod`."""
    fields: dict[str, Any] = {
        "container_id": "abc",
        "ifname": "eth0",
        "netns": str(namespaces.path_of(pod)),
        "mtu_bytes": 1400,
        "ipv4": IPv4Address("10.77.0.5"),
        "ipv6": IPv6Address("fd77::5"),
        "gateway_ipv4": GATEWAY_IPV4,
        "gateway_ipv6": GATEWAY_IPV6,
        **changes,
    }
    return PodInterface(**fields)
