"""Runs in one place (a pod, a host): answers others and asks them, told by lines of JSON on its standard input.

A server answers each line or datagram with its own name and the address that it sees the client by, from the address
that was asked. What a client finds is one of the words of `Outcome` in `observation`. Needs nothing but the standard
library, and every request is a thread of its own, so that waiting for what is dropped costs no time.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

PKTINFO_BYTES = 20
ASKING_AT_ONCE = 64
Answer = dict[str, Any]
_WORDS = {
    errno.ECONNREFUSED: "refused",
    errno.EPERM: "refused",  # a datagram that a rule of the sender's own node refuses
    errno.ECONNRESET: "reset",
    errno.ECONNABORTED: "ended",
    errno.EPIPE: "ended",
    errno.EDESTADDRREQ: "ended",  # of a socket that is connected to nothing any more
    errno.ETIMEDOUT: "timeout",
}


class Server:
    """TCP and UDP on one port, in both families."""

    def __init__(self, name: str, port: int) -> None:
        self._name = name
        self._listener = _bound(port, socket.SOCK_STREAM)
        self._listener.listen(1024)
        self._datagrams = _bound(port, socket.SOCK_DGRAM)
        self._datagrams.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        for run in (self._accept, self._answer_datagrams):
            threading.Thread(target=run, daemon=True).start()

    def _accept(self) -> None:
        while True:
            connection, peer = self._listener.accept()
            threading.Thread(target=self._answer, args=(connection, peer), daemon=True).start()

    def _answer(self, connection: socket.socket, peer: tuple[Any, ...]) -> None:
        try:
            while connection.recv(64):
                connection.sendall(self._said(peer))
        except OSError:
            pass
        finally:
            connection.close()

    def _answer_datagrams(self) -> None:
        while True:
            try:
                _, asked, _, sender = self._datagrams.recvmsg(64, socket.CMSG_SPACE(PKTINFO_BYTES))
                level, kind, where = asked[0]
                self._datagrams.sendmsg([self._said(sender)], [(level, kind, where[:16] + bytes(4))], 0, sender)
            except OSError:  # an error of a datagram sent before
                continue

    def _said(self, peer: tuple[Any, ...]) -> bytes:
        return f"{self._name} {peer[0].removeprefix('::ffff:')}\n".encode()


class Client:
    """One connection, or one UDP socket; it may be asked again."""

    def __init__(self, protocol: str, address: str, port: int, timeout_s: float) -> None:
        self.target = (address, port)
        self._connected = protocol != "UDP, unconnected"
        kind = socket.SOCK_STREAM if protocol == "TCP" else socket.SOCK_DGRAM
        self.socket = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
        self.socket.settimeout(timeout_s)

    def ask(self, *, first: bool = False) -> Answer:
        try:
            if first and self._connected:
                self.socket.connect(self.target)
            if self._connected:
                self.socket.sendall(b"?\n")
            else:
                self.socket.sendto(b"?\n", self.target)
            said, sender = self.socket.recvfrom(256)
            shown = self.socket.getpeername() if self._connected else sender
        except TimeoutError:
            return {"outcome": "timeout"}
        except OSError as error:
            return {"outcome": _WORDS.get(error.errno or 0, errno.errorcode.get(error.errno or 0, str(error)))}
        if not said:
            return {"outcome": "ended"}
        backend, source = said.decode().split()
        answer = {"outcome": "reached", "backend": backend, "source": source}
        return answer if shown[:2] == self.target else answer | {"shown": f"{shown[0]} {shown[1]}"}


class Place:
    """Every command is a method; its keyword arguments are the request."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(ASKING_AT_ONCE)
        self._held: dict[str, Client] = {}

    def serve(self, name: str, port: int) -> None:
        Server(name, port)

    def ask(self, targets: list[dict[str, Any]], timeout_s: float) -> list[list[Answer]]:
        """For each target the answers to as many questions, each by a socket of its own."""
        return list(self._pool.map(lambda target: _questions(target, timeout_s), targets))

    def hold(self, targets: list[dict[str, Any]], timeout_s: float) -> list[Answer]:
        """One connection for each target, kept under its `id`; of several tries one that `wanted` answered."""
        return list(self._pool.map(lambda target: self._hold(target, timeout_s), targets))

    def again(self, ids: list[str]) -> list[Answer]:
        return list(self._pool.map(lambda each: self._held[each].ask(), ids))

    def release(self) -> None:
        for client in self._held.values():
            client.socket.close()
        self._held.clear()

    def _hold(self, target: dict[str, Any], timeout_s: float) -> Answer:
        for _ in range(target["tries"]):
            client = _client(target, timeout_s)
            answer = client.ask(first=True)
            if answer.get("backend") == target["wanted"]:
                self._held[target["id"]] = client
                return answer
            client.socket.close()
        return answer


def _questions(target: dict[str, Any], timeout_s: float) -> list[Answer]:
    """Until as many different backends as there may be have answered, or the tries are used up."""
    answers: list[Answer] = []
    while len(answers) < target["tries"]:
        client = _client(target, timeout_s)
        answers.append(client.ask(first=True))
        client.socket.close()
        enough = len(answers) >= target["least"]
        if answers[-1]["outcome"] != "reached" or (
            enough and len({each.get("backend") for each in answers}) >= target["backends"]
        ):
            break
    return answers


def _client(target: dict[str, Any], timeout_s: float) -> Client:
    return Client(target["protocol"], target["address"], target["port"], timeout_s)


def _bound(port: int, kind: socket.SocketKind) -> socket.socket:
    bound = socket.socket(socket.AF_INET6, kind)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    bound.bind(("::", port))
    return bound


def main() -> None:
    place = Place()
    for line in sys.stdin:
        request = json.loads(line)
        command: Callable[..., Any] = getattr(place, request.pop("command"))
        try:
            answer = {"answer": command(**request)}
        except Exception as error:  # noqa: BLE001 - whoever asked is told
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)
    os._exit(0)  # threads that wait need not be waited for


if __name__ == "__main__":
    main()
