"""Clients and servers of Services: who answered, as whom the client was seen, and connections that are held.

A client is a process of its own, started by `cilium lab exec`: sockets are translated for processes of the lab's
cgroups alone. Started without, in the namespace only, its packets are translated one by one.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from tests.e2e.lab import BIN, Lab, Pod, inside

_PROGRAM = """
import errno, json, socket, sys, time
held = {}
kinds = {
    "tcp": (socket.SOCK_STREAM, 0), "udp": (socket.SOCK_DGRAM, 0), "sctp": (socket.SOCK_STREAM, socket.IPPROTO_SCTP)
}
def opened(kind, address, port, timeout_s):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = socket.socket(family, *kinds[kind])
    made.settimeout(timeout_s)
    made.connect((address, port))
    return made
def said(made):
    made.send(b"who\\n")
    return made.recv(256).decode().strip()
def answer(request):
    do = request.pop("do")
    if do == "ask":
        with opened(**request) as made:
            return said(made), made.getpeername()[:2]
    if do == "hold":
        name = request.pop("name")
        held[name] = opened(**request)
        return said(held[name])
    if do == "again":
        return said(held[request["name"]])
    if do == "send":
        made = held.setdefault("unconnected", socket.socket(socket.AF_INET6 if ":" in request["address"] else socket.AF_INET, socket.SOCK_DGRAM))
        made.settimeout(request["timeout_s"])
        made.sendto(b"who\\n", (request["address"], request["port"]))
        return made.recvfrom(256)[0].decode().strip()
print("ready", flush=True)
for line in sys.stdin:
    began = time.monotonic()
    try:
        print(json.dumps({"said": answer(json.loads(line)), "seconds": time.monotonic() - began}), flush=True)
    except OSError as error:
        name = errno.errorcode.get(error.errno, type(error).__name__)
        print(json.dumps({"error": name, "seconds": time.monotonic() - began}), flush=True)
"""


class Client:
    """A process that opens connections when told to."""

    def __init__(self, *argv: str) -> None:
        self._process = subprocess.Popen(
            [*argv, sys.executable, "-u", "-c", _PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def ask(self, kind: str, address: str, port: int, timeout_s: float = 2.0) -> str:
        """Who answered a new connection, or the error's name."""
        answer = self._told({"do": "ask", "kind": kind, "address": address, "port": port, "timeout_s": timeout_s})
        return answer.get("error") or answer["said"][0].split()[0]

    def peer(self, kind: str, address: str, port: int) -> list[Any]:
        """What the process sees as the other end of its connection."""
        return self._told({"do": "ask", "kind": kind, "address": address, "port": port, "timeout_s": 2.0})["said"][1]

    def seen_as(self, kind: str, address: str, port: int) -> str:
        """The address that the server saw."""
        told = self._told({"do": "ask", "kind": kind, "address": address, "port": port, "timeout_s": 2.0})
        return str(told["said"][0].split()[1])

    def timed(self, kind: str, address: str, port: int, timeout_s: float = 10.0) -> tuple[str, float]:
        """What came of it, and after how many seconds."""
        told = self._told({"do": "ask", "kind": kind, "address": address, "port": port, "timeout_s": timeout_s})
        return told.get("error") or told["said"][0].split()[0], told["seconds"]

    def hold(self, name: str, kind: str, address: str, port: int) -> str:
        """Opens a connection that stays, and says who answers it."""
        told = self._told(
            {"do": "hold", "name": name, "kind": kind, "address": address, "port": port, "timeout_s": 2.0}
        )
        return str(told.get("error") or told["said"].split()[0])

    def again(self, name: str) -> str:
        """Who answers a held connection now."""
        told = self._told({"do": "again", "name": name})
        return str(told.get("error") or told["said"].split()[0])

    def send(self, address: str, port: int) -> str:
        """Who answers a datagram of the one socket that is not connected."""
        told = self._told({"do": "send", "address": address, "port": port, "timeout_s": 1.0})
        return str(told.get("error") or told["said"].split()[0])

    def _told(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


@contextmanager
def client_in(lab: Lab, place: str, *, sockets: bool = True) -> Iterator[Client]:
    """`place`: a pod's name, `node:NAME`, or `world`; without `sockets` its packets are translated, not its sockets."""
    words = {"world": ["--world"]}.get(place) or (
        ["--node", place.removeprefix("node:")] if place.startswith("node:") else [place]
    )
    netns = {"world": lab.world_netns}.get(place) or (
        f"cilium-{lab.name}-{place.removeprefix('node:')}"
        if place.startswith("node:")
        else f"cilium-{lab.name}-default.{place}"
    )
    by_lab = [str(BIN / "cilium"), "--lab", lab.name, "lab", "exec", *words, "--"]
    client = Client(*by_lab) if sockets else inside(netns, Client)
    try:
        yield client
    finally:
        client.close()


class NamedServer:
    """TCP and UDP on one port of a pod, and SCTP if that is said: every line and every datagram is answered with the pod's
    name and the peer.
    """

    def __init__(self, pod: Pod, port: int, *, sctp: bool = False) -> None:
        self._name = pod.name
        protocols = (0, socket.IPPROTO_SCTP) if sctp else (0,)
        self._listeners = [inside(pod.netns, partial(_bound, port, socket.SOCK_STREAM, each)) for each in protocols]
        self._udp = inside(pod.netns, partial(_bound, port, socket.SOCK_DGRAM))
        self._connections: list[socket.socket] = []
        for run in (*(partial(self._accept, each) for each in self._listeners), self._datagrams):
            threading.Thread(target=run, daemon=True).start()

    def close(self) -> None:
        for each in (*self._listeners, self._udp, *self._connections):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, peer = listener.accept()
                self._connections.append(connection)
                threading.Thread(target=self._answer, args=(connection, peer), daemon=True).start()

    def _answer(self, connection: socket.socket, peer: Any) -> None:
        with suppress(OSError):
            while connection.recv(256):
                connection.send(self._said(peer))

    def _datagrams(self) -> None:
        with suppress(OSError):
            while True:
                _, peer = self._udp.recvfrom(256)
                if peer is None:  # shut down
                    return
                self._udp.sendto(self._said(peer), peer)

    def _said(self, peer: Any) -> bytes:
        return f"{self._name} {peer[0].removeprefix('::ffff:')}\n".encode()


def _bound(port: int, kind: socket.SocketKind, protocol: int = 0) -> socket.socket:
    made = socket.socket(socket.AF_INET6, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    made.bind(("::", port))
    if kind is socket.SOCK_STREAM:
        made.listen(128)
    return made
