"""A TCP connection of a pair that stands and is silent: who its ends are, and what each would send next.

Rules that track connections drop what is out of their windows, and translations are of ports that chance gave, so frames
that are to pass for a connection's must continue a real one.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

from pycilium.lab import namespaces
from tests.benchmark.peers import PORT, Pair

TIMEOUT_S = 10.0
_REPAIR, _REPAIR_QUEUE, _QUEUE_SEQUENCE, _TIMESTAMP = 19, 20, 21, 24  # linux/tcp.h
_RECEIVED, _SENT = 1, 2
_REPAIRED_IN_SILENCE = -1


@dataclass(frozen=True, slots=True)
class End:
    """One end as the other side sees it, or as it sees itself."""

    address: str
    port: int


@dataclass(frozen=True, slots=True)
class Speech:
    """What one end would send next."""

    sequence: int
    acknowledged: int
    timestamp: int


@dataclass(frozen=True, slots=True)
class Connection:
    """The client knows the server as what it has called, and the server the client as what it was made to see."""

    client: End
    called: End
    server: End
    seen: End
    of_client: Speech
    of_server: Speech


@contextmanager
def connected(pair: Pair) -> Iterator[Connection]:
    """For as long as the block lasts. The server's port must be free."""
    version, address = (socket.AF_INET, pair.ipv4) if pair.ipv4 else (socket.AF_INET6, pair.ipv6)
    called = (address, pair.port)
    at = ("", PORT)
    with closing(namespaces.run_in(pair.server, lambda: socket.create_server(at, family=version))) as listener:
        listener.settimeout(TIMEOUT_S)
        made = namespaces.run_in(pair.client, lambda: socket.create_connection(called, timeout=TIMEOUT_S))
        accepted, _ = listener.accept()
        with closing(made) as near, closing(accepted) as far:
            _exchange(near, far)
            yield Connection(
                client=End(*near.getsockname()[:2]),
                called=End(*near.getpeername()[:2]),
                server=End(*far.getsockname()[:2]),
                seen=End(*far.getpeername()[:2]),
                of_client=_speech(near),
                of_server=_speech(far),
            )


def _exchange(near: socket.socket, far: socket.socket) -> None:
    """A word each, so that all between have seen packets both ways."""
    for sender, receiver in ((near, far), (far, near)):
        sender.sendall(b"x")
        receiver.settimeout(TIMEOUT_S)
        receiver.recv(1)


def _speech(end: socket.socket) -> Speech:
    end.setsockopt(socket.IPPROTO_TCP, _REPAIR, 1)
    try:
        return Speech(
            sequence=_next(end, _SENT),
            acknowledged=_next(end, _RECEIVED),
            timestamp=end.getsockopt(socket.IPPROTO_TCP, _TIMESTAMP) & 0xFFFFFFFF,
        )
    finally:
        end.setsockopt(socket.IPPROTO_TCP, _REPAIR, _REPAIRED_IN_SILENCE)


def _next(end: socket.socket, queue: int) -> int:
    end.setsockopt(socket.IPPROTO_TCP, _REPAIR_QUEUE, queue)
    return end.getsockopt(socket.IPPROTO_TCP, _QUEUE_SEQUENCE) & 0xFFFFFFFF
