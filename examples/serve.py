"""A tiny HTTP server for the pods of the demo: `serve.py NAME PORT` answers with one line, in both families."""

import socket
import sys
from socketserver import StreamRequestHandler, ThreadingTCPServer

name, port = sys.argv[1], int(sys.argv[2])


class Handler(StreamRequestHandler):
    def handle(self) -> None:
        while self.rfile.readline().strip():
            pass  # the request and its headers, up to the empty line
        body = f"{name} says hello to {self.client_address[0].removeprefix('::ffff:')}\n"
        self.wfile.write(f"HTTP/1.0 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())


class Server(ThreadingTCPServer):
    address_family = socket.AF_INET6
    allow_reuse_address = True
    daemon_threads = True

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


Server(("::", port), Handler).serve_forever()
