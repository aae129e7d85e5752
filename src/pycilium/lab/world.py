"""The world's HTTP server: says which of its addresses answered whom, in both address families.

Run as `python -m pycilium.lab.world` with a listening socket as descriptor 3, so that it is reachable from the
moment the lab started it.
"""

from __future__ import annotations

import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from pycilium.lab import namespaces, processes
from pycilium.lab.layout import LabLayout, LabRecord

LISTEN_FD = 3
PORT = 80


def listening_socket() -> socket.socket:
    """A socket on port 80 of every address, IPv4 too, in the calling thread's namespace."""
    listener = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.bind(("::", PORT))
    listener.listen(128)
    return listener


class WorldHandler(BaseHTTPRequestHandler):
    """Answers every GET with one line."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        answering, asking = (
            _plain(address[0]) for address in (self.connection.getsockname(), self.connection.getpeername())
        )
        body = f"world {answering} answers {asking}\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class WorldServer(ThreadingHTTPServer):
    """Serves a socket that was opened by somebody else."""

    def __init__(self, listener: socket.socket) -> None:
        super().__init__(listener.getsockname(), WorldHandler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener


def start(record: LabRecord, layout: LabLayout) -> int:
    """Starts the server as the world's process; gives its pid. It answers from now on."""
    with namespaces.run_in(record.world, listening_socket) as listener:
        argv = [sys.executable, "-m", "pycilium.lab.world"]
        return processes.start_in(record.world, argv, log=layout.world_folder / "http.log", pass_fd=listener.fileno())


def _plain(address: str) -> str:
    return address.removeprefix("::ffff:")


def main() -> None:
    with WorldServer(socket.socket(fileno=LISTEN_FD)) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
