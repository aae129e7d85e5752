"""Traffic that notices everything: each lost packet, each retransmission, each connection that was cut."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from tests.e2e.lab import Pod, inside

_SO_RCVBUFFORCE = 33
_TOTAL_RETRANS_OFFSET = 100  # tcp_info.tcpi_total_retrans
DATAGRAM_PORT, ECHO_PORT, IPERF_PORT = 9000, 9001, 5201
_PAUSE_S = 0.003
"""Between connections: a client's port rests for a minute, and there are 28,000 of them."""


@dataclass
class Losses:
    """What went wrong; a perfect run equals Losses()."""

    datagrams_lost: int = 0
    retransmissions: int = 0
    failed_connections: list[str] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)


@dataclass
class Volume:
    """How much was sent, so that a run that sent nothing does not count as perfect."""

    datagrams: int = 0
    connections: int = 0
    echoes: int = 0


class Traffic:
    """From client to server: a datagram every millisecond, one long connection, and short ones one after another."""

    def __init__(self, client: Pod, server: Pod, family: int) -> None:
        self._client, self._server, self._address = client, server, server.address[family]
        self.losses, self.volume = Losses(), Volume()
        self._stop = threading.Event()
        self._received = 0
        self._receiver = inside(server.netns, lambda: _bound(DATAGRAM_PORT, socket.SOCK_DGRAM))
        self._listener = inside(server.netns, lambda: _bound(ECHO_PORT, socket.SOCK_STREAM))
        servers = (self._receive_datagrams, self._accept)
        clients = (self._send_datagrams, self._short_connections, self._long_connection)
        self._servers = [threading.Thread(target=run, daemon=True) for run in servers]
        self._clients = [threading.Thread(target=inside, args=(client.netns, run), daemon=True) for run in clients]
        for thread in (*self._servers, *self._clients):
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._clients:
            thread.join(timeout=30)
        time.sleep(0.2)  # what is on its way arrives
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._servers:
            thread.join(timeout=30)
        self._receiver.close()
        self.losses.datagrams_lost = self.volume.datagrams - self._received

    def _send_datagrams(self) -> None:
        with socket.socket(_family(self._address), socket.SOCK_DGRAM) as sender:
            sender.connect((self._address, DATAGRAM_PORT))
            while not self._stop.is_set():
                sender.send(b"x" * 200)
                self.volume.datagrams += 1
                time.sleep(0.001)

    def _receive_datagrams(self) -> None:
        self._receiver.settimeout(0.1)
        idle_since = None
        while idle_since is None or time.monotonic() - idle_since < 0.2:
            try:
                self._receiver.recv(2048)
                self._received += 1
            except TimeoutError:
                idle_since = (idle_since or time.monotonic()) if self._stop.is_set() else None

    def _short_connections(self) -> None:
        while not self._stop.is_set():
            try:
                with socket.create_connection((self._address, ECHO_PORT), timeout=5) as connection:
                    _exchange(connection)
                    self.losses.retransmissions += _retransmissions(connection)
                self.volume.connections += 1
                time.sleep(_PAUSE_S)
            except OSError as error:
                self.losses.failed_connections.append(str(error))

    def _long_connection(self) -> None:
        try:
            with socket.create_connection((self._address, ECHO_PORT), timeout=5) as connection:
                while not self._stop.is_set():
                    _exchange(connection)
                    self.volume.echoes += 1
                    time.sleep(0.005)
                self.losses.retransmissions += _retransmissions(connection)
        except OSError as error:
            self.losses.cut.append(str(error))

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=_echo, args=(connection,), daemon=True).start()


@contextmanager
def flowing(client: Pod, server: Pod, family: int) -> Iterator[Traffic]:
    """Traffic while the block runs; its losses are complete after it."""
    traffic = Traffic(client, server, family)
    try:
        time.sleep(0.3)
        yield traffic
        time.sleep(0.3)
    finally:
        traffic.stop()


@contextmanager
def iperf3(client: Pod, server: Pod, family: int, seconds: int) -> Iterator[list[int]]:
    """A bulk transfer around the block; gives the bytes of each tenth of a second, complete after it."""
    serve = ["iperf3", "--server", "--one-off", "--port", str(IPERF_PORT)]
    send = ["iperf3", "--client", server.address[family], "--port", str(IPERF_PORT), "--time", str(seconds)]
    send += ["--interval", "0.5", "--json", "--bitrate", "200M"]
    receiver = inside(server.netns, lambda: subprocess.Popen(serve, stdout=subprocess.DEVNULL))
    time.sleep(0.3)
    sender = inside(client.netns, lambda: subprocess.Popen(send, stdout=subprocess.PIPE, text=True))
    intervals: list[int] = []
    try:
        yield intervals
        output, _ = sender.communicate(timeout=seconds + 20)
        report = json.loads(output)
        assert sender.returncode == 0, report.get("error")
        intervals += [interval["sum"]["bytes"] for interval in report["intervals"]]
    finally:
        for process in (sender, receiver):
            process.kill()
            process.wait()
        if sender.stdout:
            sender.stdout.close()


def _exchange(connection: socket.socket) -> None:
    connection.sendall(b"ping")
    if not connection.recv(16):
        raise ConnectionError("closed by the peer")


def _retransmissions(connection: socket.socket) -> int:
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TOTAL_RETRANS_OFFSET + 4)
    return int(struct.unpack_from("=I", info, _TOTAL_RETRANS_OFFSET)[0])


def _bound(port: int, kind: socket.SocketKind) -> socket.socket:
    bound = socket.socket(socket.AF_INET6, kind)
    bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 16 << 20)  # our own slowness must not count as a loss
    bound.bind(("::", port))
    if kind == socket.SOCK_STREAM:
        bound.listen(512)
    return bound


def _echo(connection: socket.socket) -> None:
    with suppress(OSError), connection:
        while message := connection.recv(65536):
            connection.sendall(message)


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET
