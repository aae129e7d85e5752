"""Which Hubble servers are meant, whether they are there, and what their errors mean to a user.

Of a lab of many nodes all are asked, unless one is named: `hubble_nodes` makes one of them.
"""

from __future__ import annotations

import argparse
import os
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc

from pycilium.cli.hubble_arguments import WrongUseError
from pycilium.cli.hubble_nodes import ManyHealths, ManyObservers
from pycilium.cli.hubble_time import parse_duration_ns
from pycilium.cli.target import MACHINE_RUN_DIR, Target
from pycilium.errors import CiliumError, PermissionRequired
from pycilium.hubble.proto import observer_pb2_grpc, peer_pb2_grpc

DEFAULT_SERVER = "localhost:4245"
CONNECT_TIMEOUT_S = 5.0
REQUEST_TIMEOUT_S = 12.0
_HOST_PORT = re.compile(r"(?P<host>\[[^]]+\]|[^:/]+):(?P<port>\d+)")
_HINT = (
    "Is the agent running (`cilium status`)? A lab is started with `cilium lab up`; "
    "another server is named with --server or HUBBLE_SERVER"
)


class HubbleUnavailableError(CiliumError):
    """No Hubble server answers; the message says where it was looked for and what to do."""


@dataclass(frozen=True, slots=True)
class Server:
    """An open connection, or several that are used as one."""

    address: str
    request_timeout_s: float
    observer: Any
    peer: Any
    health: Any


@contextmanager
def connect(options: argparse.Namespace) -> Iterator[Server]:
    """Connects to the servers that are meant and puts their errors into words."""
    timeout_s = options.timeout or _timeout_from_environment("HUBBLE_TIMEOUT", CONNECT_TIMEOUT_S)
    addresses = _reachable(server_addresses(options), timeout_s)
    request_timeout_s = options.request_timeout or _timeout_from_environment(
        "HUBBLE_REQUEST_TIMEOUT", REQUEST_TIMEOUT_S
    )
    shown = ", ".join(addresses.values())
    with ExitStack() as open_channels:
        channels = {
            name: open_channels.enter_context(grpc.insecure_channel(address)) for name, address in addresses.items()
        }
        try:
            yield _server(shown, request_timeout_s, channels)
        except grpc.RpcError as error:
            raise _in_words(error, shown) from error


def server_addresses(options: argparse.Namespace) -> dict[str, str]:
    """1. --server 2. --lab 3. HUBBLE_SERVER 4. the lab that is up 5. this machine's agent 6. localhost:4245.

    By name: a lab has a server on each node, all of which are meant unless --node or CILIUM_NODE says one.
    """
    if options.server:
        return {"": _checked(options.server)}
    target = Target()
    target.lab_option, target.node_option = options.lab, options.node
    if options.lab is None and (named := os.environ.get("HUBBLE_SERVER")):
        return {"": _checked(named)}
    if target.lab is not None:
        return {node: f"unix://{target.hubble_socket(node)}" for node in target.nodes}
    machine = MACHINE_RUN_DIR / "hubble.sock"
    return {"": f"unix://{machine}" if machine.exists() else DEFAULT_SERVER}


def _reachable(addresses: dict[str, str], timeout_s: float) -> dict[str, str]:
    """Those that answer; of several, those that do not are told and left out, unless none does."""
    found, missing = {}, []
    for name, address in addresses.items():
        try:
            _check_reachable(address, timeout_s)
            found[name] = address
        except HubbleUnavailableError as error:
            missing.append((name, error))
    if missing and not found:
        raise missing[0][1]
    for name, _ in missing:
        print(f"{name} is left out: its agent does not answer", file=sys.stderr)
    return found


def _server(shown: str, request_timeout_s: float, channels: dict[str, grpc.Channel]) -> Server:
    stubs = [
        {name: stub(channel) for name, channel in channels.items()}
        for stub in (observer_pb2_grpc.ObserverStub, peer_pb2_grpc.PeerStub, health_pb2_grpc.HealthStub)
    ]
    observers, peers, healths = stubs
    if len(channels) == 1:
        (observer,), (peer,), (health,) = observers.values(), peers.values(), healths.values()
        return Server(shown, request_timeout_s, observer, peer, health)
    first_peer = next(iter(peers.values()))
    return Server(shown, request_timeout_s, ManyObservers(observers), first_peer, ManyHealths(healths.values()))


def _checked(address: str) -> str:
    if address.startswith("tls://"):
        raise WrongUseError(f"{address}: TLS is not built yet; use host:port or unix:///path")
    if address.startswith("/"):
        return f"unix://{address}"
    return address


def _timeout_from_environment(name: str, default_s: float) -> float:
    text = os.environ.get(name)
    try:
        return parse_duration_ns(text) / 1e9 if text else default_s
    except ValueError as error:
        raise WrongUseError(f"{name}: {error}") from error


def _check_reachable(address: str, timeout_s: float) -> None:
    """Tries the address once, so that a server that is not there is told at once and in plain words."""
    try:
        if address.startswith("unix:"):
            path = address.removeprefix("unix:")
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(timeout_s)
                probe.connect(path.removeprefix("//"))
        elif match := _HOST_PORT.fullmatch(address):
            host = match["host"].strip("[]")
            socket.create_connection((host, int(match["port"])), timeout_s).close()
    except PermissionError as error:
        if not address.startswith("unix:"):
            raise HubbleUnavailableError(f"no Hubble server at {address}: {error.strerror}. {_HINT}") from error
        raise PermissionRequired(f"{address}: root is needed; run the command with sudo") from error
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise HubbleUnavailableError(f"no Hubble server at {address}: {reason}. {_HINT}") from error


def _in_words(error: grpc.RpcError, address: str) -> Exception:
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return WrongUseError(f"the server refuses: {details}")
    if code is grpc.StatusCode.UNAVAILABLE:
        return HubbleUnavailableError(f"the Hubble server at {address} does not answer (any more): {details}. {_HINT}")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return HubbleUnavailableError(f"the Hubble server at {address} is too slow; try --request-timeout 60s")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return CiliumError(f"the Hubble server at {address} does not offer this: {details}")
    return CiliumError(f"{code.name}: {details}")
