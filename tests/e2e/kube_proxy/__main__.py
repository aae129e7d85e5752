"""The whole matrix, as root:  python -m tests.e2e.kube_proxy [--store etcd] [--nodes 3] [--table FILE] [--set FIELD=JSON]

Prints what differs from kube-proxy without a reason and how much is explained; the exit code is 1 if anything is
unexplained. `--table` writes every case with what all sides saw.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.e2e.kube_proxy.cases import Case, cases, change_cases
from tests.e2e.kube_proxy.differences import Comparison, compare
from tests.e2e.kube_proxy.ours import ours
from tests.e2e.kube_proxy.runs import run_cases, run_changes
from tests.e2e.kube_proxy.side import Side
from tests.e2e.kube_proxy.twin import twin

Seen = Mapping[Case, object]


def main() -> int:
    arguments = _parser().parse_args()
    count = arguments.nodes
    wanted = [each for each in cases(count) if _is_wanted(each, arguments.only)]
    sides: dict[str, Seen] = {}
    for mode in ("iptables", "nftables"):
        with twin(mode, count) as side:
            sides[side.name] = _run(side, wanted, count)
    if not arguments.twins:
        config = {name: json.loads(value) for name, _, value in (each.partition("=") for each in arguments.set)}
        with ours(arguments.store, count, **config) as side:
            sides[side.name] = _run(side, wanted, count)
    if arguments.table:
        arguments.table.write_text(_table(sides), encoding="utf-8")
    *theirs, mine = sides.values()
    found: Comparison = compare(mine, theirs)
    print(found)
    return 1 if found.unexplained else 0


def _run(side: Side, wanted: list[Case], count: int) -> Seen:
    print(side.name, file=sys.stderr)
    return run_cases(side, wanted) | run_changes(side, change_cases(count))


def _is_wanted(case: Case, only: str) -> bool:
    return only in str(case)


def _table(sides: Mapping[str, Seen]) -> str:
    lines = ["\t".join(("case", *sides))]
    first = next(iter(sides.values()))
    lines += ["\t".join((str(case), *(str(seen[case]) for seen in sides.values()))) for case in first]
    return "\n".join([*lines, ""])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.e2e.kube_proxy", description="The matrix against kube-proxy."
    )
    parser.add_argument("--store", default="sqlite", choices=("sqlite", "etcd"))
    parser.add_argument("--nodes", type=int, default=3, metavar="N")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose name has the text")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=JSON", help="of the agents' configuration")
    parser.add_argument("--table", type=Path, metavar="FILE", help="every case with what all sides saw")
    parser.add_argument(
        "--twins", action="store_true", help="only kube-proxy's two modes, the second against the first"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
