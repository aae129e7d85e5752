"""SCTP's sockets, one association each (RFC 6458, 4). Kernels of many machines have none; `make kernels` boots some that do."""

from __future__ import annotations

import socket

import pytest

FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


def skip_without_sockets() -> None:
    """To be called by a fixture, and not while tests are collected: asking may load the kernel's module."""
    try:
        sctp_socket(4, 1.0).close()
    except OSError:
        pytest.skip("this kernel has no SCTP sockets")


def sctp_socket(family: int, timeout_s: float) -> socket.socket:
    made = socket.socket(FAMILIES[family], socket.SOCK_STREAM, socket.IPPROTO_SCTP)
    made.settimeout(timeout_s)
    return made


def tell(near: socket.socket, far: socket.socket, speech: bytes) -> None:
    """All of it arrives, and nothing else."""
    near.sendall(speech)
    heard = b""
    while len(heard) < len(speech):
        part = far.recv(65536)
        assert part, "cut off"
        heard += part
    assert heard == speech
