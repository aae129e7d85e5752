#!/usr/bin/env python3
"""Load every program and print how much the verifier had to look at, so that growth shows.

As root. Works on a BPF file system of its own, which is gone afterwards.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass

from pycilium.datapath import bpffs, features, layouts
from pycilium.datapath.loader import DatapathConfig, load
from pycilium.errors import CiliumError


@dataclass(frozen=True, slots=True)
class Row:
    """`verified_instructions` is None where the kernel (before 5.16) does not say."""

    program: str
    object: str
    section: str
    verified_instructions: int | None
    xlated_bytes: int
    jited_bytes: int


def rows() -> tuple[list[Row], float]:
    """(one row per program, seconds that loading took)."""
    with tempfile.TemporaryDirectory(prefix="pycilium-programs-") as folder:
        root = f"{folder}/bpf"
        try:
            started = time.monotonic()
            with load(DatapathConfig(bpf_root=root, constants=_CONSTANTS, map_entries=_SIZES)) as datapath:
                took = time.monotonic() - started
                infos = {name: program.info() for name, program in datapath.programs.items()}
        finally:
            bpffs.unmount(root)
    table = [
        Row(
            program=name,
            object=layouts.PROGRAMS[name].object,
            section=layouts.PROGRAMS[name].section,
            verified_instructions=info.verified_instructions or None,
            xlated_bytes=info.xlated_bytes,
            jited_bytes=info.jited_bytes,
        )
        for name, info in sorted(infos.items())
    ]
    return table, took


# Every branch is on: what the configuration switches off, the verifier never sees.
_CONSTANTS = layouts.ProgramConfig(
    services=1,
    gateway_ipv4=0x0A000001,
    gateway_ipv6=bytes(15) + b"\1",
    host_ifindex=1,
    host_mac=bytes(5) + b"\1",
    aggregation=layouts.Aggregation.MEDIUM,
    report_interval_s=5,
    overlay_ifindex=2,
    tunnel_port=8472,
    event_wakeup_ns=1000,
    masquerade=1,
    host_netns_cookie=1,
    socket_host_only=1,
    dsr_outer_family=4,
    cpus=2,
)
_SIZES = dict.fromkeys(
    ("ct4", "ct6", "nat4", "nat6", "events", "service_flows4", "service_flows6", "socket_flows"), 1 << 16
)


def render(table: list[Row]) -> str:
    titles = ("program", "object", "section", "verified", "xlated bytes", "jited bytes")
    cells = [
        (r.program, r.object, r.section, str(r.verified_instructions or "?"), str(r.xlated_bytes), str(r.jited_bytes))
        for r in table
    ]
    widths = [max(len(row[column]) for row in [titles, *cells]) for column in range(len(titles))]
    lines = []
    for row in [titles, *cells]:
        left = [cell.ljust(width) for cell, width in zip(row[:3], widths[:3], strict=True)]
        right = [cell.rjust(width) for cell, width in zip(row[3:], widths[3:], strict=True)]
        lines.append("  ".join([*left, *right]))
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="programs and what their verification costs")
    parser.add_argument("--json", action="store_true", help="as JSON")
    as_json = parser.parse_args().json
    try:
        features.require()
        table, took = rows()
    except CiliumError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    if as_json:
        print(json.dumps({"load_s": round(took, 3), "programs": [asdict(row) for row in table]}, indent=2))
    else:
        print(render(table))
        print(f"loaded in {took * 1000:.0f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
