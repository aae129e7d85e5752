"""Holds packets back for a while on their way to a node: a process in the underlay's namespace, one for each port.

A program on the port's egress sends packets into a pair of devices, at whose other end they are read here, kept, and
put out on the port. They carry a mark then, by which the program lets them pass. Frames keep their offload headers, so
that large segments arrive as they were sent. It ends when its devices are removed.

Run as `python -m pycilium.lab.relay PORT DELAY_MS JITTER_MS` with the reading socket as descriptor 3: what comes before
it has started is kept there.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import random
import select
import socket
import sys
import time
from dataclasses import dataclass

READ_FD = 3
MARK = 0x1055DE1A
_ETH_P_ALL = 3
_SOL_PACKET = 263
_PACKET_VNET_HDR = 15
_SO_RCVBUFFORCE = 33
_MAX_FRAME_BYTES = 1 << 17
_BUFFER_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Holding:
    """For how long packets are held: between delay - jitter and delay + jitter, by chance."""

    delay_ms: int
    jitter_ms: int = 0

    def __str__(self) -> str:
        return f"{self.delay_ms}±{self.jitter_ms} ms" if self.jitter_ms else f"{self.delay_ms} ms"

    def drawn_s(self) -> float:
        return max(0.0, self.delay_ms + random.uniform(-self.jitter_ms, self.jitter_ms)) / 1000  # noqa: S311


def reading_socket(device: str) -> socket.socket:
    """What arrives at the device, in the calling thread's namespace."""
    reader = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    reader.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
    reader.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
    reader.bind((device, _ETH_P_ALL))
    return reader


def relay(reader: socket.socket, writer: socket.socket, holding: Holding) -> None:
    """Passes frames on, each after its time. Returns when the reader's device is gone."""
    held: list[tuple[float, int, bytes]] = []
    numbers = itertools.count()
    while True:
        left_s = max(0.0, held[0][0] - time.monotonic()) if held else None
        if select.select([reader], [], [], left_s)[0]:
            try:
                frame, sender = reader.recvfrom(_MAX_FRAME_BYTES)
            except OSError:  # ENETDOWN: healed
                return
            if sender[2] != socket.PACKET_OUTGOING:
                heapq.heappush(held, (time.monotonic() + holding.drawn_s(), next(numbers), frame))
        while held and held[0][0] <= time.monotonic():
            with contextlib.suppress(OSError):  # a full queue or a pulled cable: the packet is lost, as on a wire
                writer.send(heapq.heappop(held)[2])


def main() -> None:
    port, delay_ms, jitter_ms = sys.argv[1:]
    with (
        socket.socket(fileno=READ_FD) as reader,
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as writer,
    ):
        writer.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
        writer.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
        writer.bind((port, 0))
        relay(reader, writer, Holding(int(delay_ms), int(jitter_ms)))


if __name__ == "__main__":
    main()
