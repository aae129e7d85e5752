"""A process that makes the kernel write flow events: `python -m tests.benchmark.flow_source BPF_ROOT IFINDEX RATE COUNT`.

It runs the pinned program `from_container` on a packet that no endpoint may send, over and over (BPF_PROG_TEST_RUN):
each run is one drop, and each drop one event. RATE is events per second, 0 as fast as it goes. Prints how many packets
it ran and in how many seconds. To be started in the network namespace that has the device.
"""

from __future__ import annotations

import json
import struct
import sys
import time

from pycilium.datapath.loader import Program, open_pinned

PROGRAM = "from_container"
SLICE_S = 0.005
CONTEXT_BYTES, IFINDEX_OFFSET = 192, 40
"""Of struct __sk_buff."""


def packet() -> bytes:
    """A TCP segment with a source address that no endpoint has."""
    ethernet = bytes.fromhex("0a0000000002 0a0000000001 0800")
    ipv4 = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 60, 1, 0x4000, 64, 6, 0, bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2)))
    tcp = struct.pack("!HHIIBBHHI", 40000, 80, 1, 0, 0x60, 2, 65535, 0, 0) + bytes(16)
    return ethernet + ipv4 + tcp


def run(program: Program, ifindex: int, rate: int, count: int) -> tuple[int, float]:
    context = bytearray(CONTEXT_BYTES)
    struct.pack_into("=I", context, IFINDEX_OFFSET, ifindex)
    sample, done, started = packet(), 0, time.perf_counter()
    at_once = max(1, int(rate * SLICE_S)) if rate else 10_000
    while done < count:
        repeat = min(at_once, count - done)
        program.test_run(sample, context=bytes(context), repeat=repeat)
        done += repeat
        ahead = done / rate - (time.perf_counter() - started) if rate else 0
        if ahead > 0:
            time.sleep(ahead)
    return done, time.perf_counter() - started


def main() -> None:
    bpf_root, ifindex, rate, count = sys.argv[1], *map(int, sys.argv[2:])
    with open_pinned(bpf_root) as datapath:
        done, seconds = run(datapath.programs[PROGRAM], ifindex, rate, count)
    print(json.dumps({"packets": done, "seconds": seconds}))


if __name__ == "__main__":
    main()
