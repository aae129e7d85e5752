"""What runs in the pods of a connectivity test: `python -m pycilium.connectivity.peer`, and then

    serve NAME TCP-PORT... [udp:PORT...]    answers HTTP with who it is and whom it saw, and echoes datagrams
    probe JSON                              tries every probe of a list at once; prints one line of JSON for each
    world ADDRESS...                        serves from a network namespace of its own, tied to the node by a cable
    way GATEWAY=ADDRESS...                  keeps routes from this node to the world of another
    ask TARGET                              prints what this node's agent answers; to `health` after it has probed
    clock                                   prints the time, in seconds since 1970
    --in-cgroup PATH, --in-netns PATH       before: moves there first

It starts fast, for it is started for every step of a test: only `ask`, `world` and `way` take more than the standard
library.
Invariant: nothing that it makes outlives it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import socket
import struct
import sys
import threading
import time
from typing import Any

_REQUEST = b"GET / HTTP/1.1\r\nHost: peer\r\nConnection: close\r\n\r\n"
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
_ECHO = {socket.AF_INET: (8, 0, socket.IPPROTO_ICMP), socket.AF_INET6: (128, 129, socket.IPPROTO_ICMPV6)}
"""Types of ICMP echo request and reply, and the protocol, by family."""
_BACKLOG = 512
_CLONE_NEWNET = 0x40000000


# == the client ==


def probe_all(probes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What came of each, in their order; all are tried at once."""
    results: list[dict[str, Any]] = [{} for _ in probes]

    def run(index: int) -> None:
        results[index] = probe(probes[index])

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(probes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def probe(asked: dict[str, Any]) -> dict[str, Any]:
    """One attempt; the plain form of a ProbeResult."""
    began = time.monotonic()
    address, deadline = asked["address"], began + asked["timeout_s"]
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    attempt = {"tcp": _ask_http, "udp": _ask_datagram, "icmp": _ask_echo}[asked["protocol"]]
    said: dict[str, Any] = {"answered": False}
    try:
        said |= attempt(family, address, asked["port"], deadline, said)
    except TimeoutError:
        said["error"] = "ETIMEDOUT"
    except OSError as error:
        said["error"] = errno.errorcode.get(error.errno or 0, str(error) or type(error).__name__)
    return {**said, "took_s": round(time.monotonic() - began, 4)}


def _ask_http(family: int, address: str, port: int, deadline: float, said: dict[str, Any]) -> dict[str, Any]:
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.setblocking(False)
        begun = connection.connect_ex((address, port))
        said["local"] = connection.getsockname()[:2]
        if begun not in (0, errno.EINPROGRESS):
            raise OSError(begun, os.strerror(begun))
        connection.settimeout(_left_s(deadline))
        _wait_connected(connection)
        connection.sendall(_REQUEST)
        answer = b""
        while block := connection.recv(65536):
            answer += block
            connection.settimeout(_left_s(deadline))
        if not answer.startswith(b"HTTP/1."):
            raise ConnectionResetError(errno.ECONNRESET, "the answer is no HTTP")
    return {"answered": True, **_seen(answer.rpartition(b"\r\n\r\n")[2])}


def _wait_connected(connection: socket.socket) -> None:
    """Until the connection stands; the error that befell it."""
    import select

    poll = select.poll()
    poll.register(connection, select.POLLOUT)
    if not poll.poll((connection.gettimeout() or 0) * 1000):
        raise TimeoutError
    if failed := connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        raise TimeoutError if failed == errno.ETIMEDOUT else OSError(failed, os.strerror(failed))


def _ask_datagram(family: int, address: str, port: int, deadline: float, said: dict[str, Any]) -> dict[str, Any]:
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.connect((address, port))
        said["local"] = client.getsockname()[:2]
        client.send(b"who")
        client.settimeout(_left_s(deadline))
        return {"answered": True, **_seen(client.recv(512))}


def _ask_echo(family: int, address: str, _port: int, deadline: float, said: dict[str, Any]) -> dict[str, Any]:
    request, reply, protocol = _ECHO[socket.AddressFamily(family)]
    number = threading.get_native_id() & 0xFFFF
    with socket.socket(family, socket.SOCK_RAW, protocol) as raw:
        raw.connect((address, 0))
        said["local"] = (raw.getsockname()[0], 0)
        message = struct.pack("!BBHHH", request, 0, 0, number, 1) + b"connectivity"
        if family == socket.AF_INET:  # the kernel fills it in for ICMPv6
            message = message[:2] + struct.pack("!H", _checksum(message)) + message[4:]
        raw.send(message)
        while True:
            raw.settimeout(_left_s(deadline))
            answer = raw.recv(2048)
            answer = answer[(answer[0] & 15) * 4 :] if family == socket.AF_INET else answer
            if len(answer) >= 6 and answer[0] == reply and answer[4:6] == struct.pack("!H", number):
                return {"answered": True}


def _checksum(message: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(message) // 2}H", message))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def _left_s(deadline: float) -> float:
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s


def _seen(body: bytes) -> dict[str, Any]:
    """Whom one of our servers says it saw; others say nothing that we know."""
    with contextlib.suppress(ValueError):
        value = json.loads(body)
        if isinstance(value, dict) and "seen" in value:
            return {"seen": value["seen"]}
    return {}


# == the server ==


def serve(name: str, words: list[str]) -> None:
    """Answers on the ports until the process ends. It prints `ready` once all are open."""
    for word in words:
        kind, _, port = word.rpartition(":")
        datagrams = kind == "udp"
        bound = _bound(int(port), socket.SOCK_DGRAM if datagrams else socket.SOCK_STREAM)
        target = _answer_datagrams if datagrams else _accept
        threading.Thread(target=target, args=(bound, name), daemon=True).start()
    print("ready", flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})


def _bound(port: int, kind: int) -> socket.socket:
    """A socket on every address of both families, or of IPv4 where IPv6 is off."""
    try:
        made = socket.socket(socket.AF_INET6, kind)
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        anywhere = "::"
    except OSError:
        made, anywhere = socket.socket(socket.AF_INET, kind), "0.0.0.0"  # noqa: S104 -- pods are asked at any address
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((anywhere, port))
    if kind == socket.SOCK_STREAM:
        made.listen(_BACKLOG)
    return made


def _accept(listening: socket.socket, name: str) -> None:
    while True:
        connection, seen = listening.accept()
        threading.Thread(target=_answer, args=(connection, name, seen), daemon=True).start()


def _answer(connection: socket.socket, name: str, seen: tuple[Any, ...]) -> None:
    with contextlib.suppress(OSError), connection:
        connection.settimeout(10)
        asked = b""
        while b"\r\n\r\n" not in asked and (block := connection.recv(4096)):
            asked += block
        body = _described(name, seen)
        connection.sendall(_HEAD % len(body) + body)


def _answer_datagrams(bound: socket.socket, name: str) -> None:
    while True:
        with contextlib.suppress(OSError):
            _, seen = bound.recvfrom(512)
            bound.sendto(_described(name, seen), seen)


def _described(name: str, seen: tuple[Any, ...]) -> bytes:
    return json.dumps({"peer": name, "seen": (seen[0].removeprefix("::ffff:"), seen[1])}).encode()


# == the agent ==


def ask(target: str) -> Any:
    """What the agent of this node's API answers to a GET, or its health API to `health`."""
    from pycilium.api.client import AgentClient, HealthClient

    return HealthClient().probe() if target == "health" else AgentClient().get(target)


# == where it runs ==


def enter_netns(path: str) -> None:
    """Moves this process, which must have one thread, into another network namespace."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(descriptor, _CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, f"{path}: setns: {os.strerror(number)}")
    finally:
        os.close(descriptor)


def enter_cgroup(path: str) -> None:
    """By its cgroup a node tells whose sockets are to be translated."""
    with open(os.path.join(path, "cgroup.procs"), "w", encoding="ascii") as procs:
        procs.write(str(os.getpid()))


def main(words: list[str]) -> None:
    match words:
        case ["--in-cgroup", path, *rest]:
            enter_cgroup(path)
            main(rest)
        case ["--in-netns", path, *rest]:
            enter_netns(path)
            main(rest)
        case ["serve", name, *ports]:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
            serve(name, ports)
        case ["probe", text]:
            _print(probe_all(json.loads(text)))
        case ["ask", target]:
            print(json.dumps(ask(target)))
        case ["clock"]:
            print(time.time())
        case ["world", *addresses]:
            from pycilium.connectivity.world import serve_world

            serve_world(addresses)
        case ["way", *hops]:
            from pycilium.connectivity.way import keep_way

            keep_way(hops)
        case _:
            sys.exit(__doc__)


def _print(results: list[dict[str, Any]]) -> None:
    sys.stdout.write("".join(f"{json.dumps(result)}\n" for result in results))


if __name__ == "__main__":
    main(sys.argv[1:])
