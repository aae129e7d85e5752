"""The figures of the project, ours and the peers' in one run: `make bench`, as root.

Every row builds both sides in network namespaces and BPF file systems of its own and takes them away again, also when
it fails or is interrupted. Sides are measured in turns, so that the machine's mood meets both alike. A figure that
misses its aim is printed as a miss; the exit code is 1 only if a row could not be measured.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import traceback
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from tests.benchmark import (
    machine,
    report,
    row_api,
    row_cni,
    row_flows,
    row_identity,
    row_memory,
    row_node_port,
    row_nodes,
    row_packets,
    row_pod,
    row_podman,
    row_programming,
    row_reach,
    row_restart,
    row_scale,
    row_services,
    row_starts,
    row_xdp,
)
from tests.benchmark.figures import Figure, Options

ROWS = {
    "pod": row_pod.measure,
    "nodes": row_nodes.measure,
    "cni": row_cni.measure,
    "podman": row_podman.measure,
    "starts": row_starts.measure,
    "identity": row_identity.measure,
    "flows": row_flows.measure,
    "restart": row_restart.measure,
    "memory": row_memory.measure,
    "reach": row_reach.measure,
    "scale": row_scale.measure,
    "services": row_services.measure,
    "nodeport": row_node_port.measure,
    "xdp": row_xdp.measure,
    "packets": row_packets.measure,
    "programming": row_programming.measure,
    "api": row_api.measure,
}
QUICK = Options(turns=1, seconds=0.3, quick=True)


def main() -> int:
    arguments = _parser().parse_args()
    if os.geteuid() != 0:
        print("Error: the benchmarks make network namespaces and load eBPF programs: run them as root", file=sys.stderr)
        return 1
    ordinary = QUICK if arguments.quick else Options()
    options = Options(
        turns=arguments.turns or ordinary.turns, seconds=arguments.seconds or ordinary.seconds, quick=arguments.quick
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that everything is taken away then, too
    console = Console(stderr=True)
    facts = machine.facts()
    figures: list[Figure] = []
    failed: list[str] = []
    try:
        for row in arguments.rows:
            try:
                with console.status(row) as status:
                    figures += ROWS[row](options, lambda what, row=row: status.update(f"{row}: {what}"))  # type: ignore[misc]
            except Exception:  # noqa: BLE001 - one row's fault must not cost the others' figures
                failed.append(row)
                console.print(f"[red]row {row} could not be measured[/]")
                traceback.print_exc()
    except KeyboardInterrupt:
        console.print("interrupted; what was made is taken away again")
        return 130
    result = report.to_json(facts, asdict(options), figures)
    printed = Console(width=None if sys.stdout.isatty() else 180)
    printed.print(report.table(result["figures"]))
    for note in report.notes(result["figures"]):
        printed.print(f"  {note}", highlight=False, soft_wrap=True)
    path = Path(arguments.json or machine.ROOT / "bench" / "results" / f"{facts['time'][:19].replace(':', '')}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    console.print(f"written to {path}")
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make bench BENCH_OPTIONS=…", description="Measure ours beside the peers.")
    parser.add_argument("--rows", type=_rows, default=list(ROWS), metavar="A,B", help=f"of {','.join(ROWS)}")
    parser.add_argument("--turns", type=int, metavar="N", help=f"measurements of each side (default {Options().turns})")
    parser.add_argument("--seconds", type=float, metavar="S", help=f"of each one (default {Options().seconds:g})")
    parser.add_argument("--json", metavar="FILE", help="where to write the result (default bench/results/<time>.json)")
    parser.add_argument("--quick", action="store_true", help="only to see that all rows work: the figures mean little")
    return parser


def _rows(text: str) -> list[str]:
    rows = text.split(",")
    if unknown := [row for row in rows if row not in ROWS]:
        raise argparse.ArgumentTypeError(f"no row {', '.join(unknown)}; there are {', '.join(ROWS)}")
    return rows


if __name__ == "__main__":
    sys.exit(main())
