"""The figures of the project, both sides in one run: `make bench`.

Each row builds its peers in network namespaces of its own, measures ours and theirs in turns (so that the machine's
mood meets both alike), takes the median of the turns, and prints the ratio beside the aim. The JSON of a run is kept
under bench/. No figure here is an assertion: a miss is printed as a miss.

    python tests/benchmark/bench.py [--rows pod,cni,identity,flows,restart,memory] [--turns N] [--seconds S] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import rows_cni
import rows_control
import rows_flows
import rows_pod
import rows_restart

ROWS: dict[str, Callable[[Options], list[Figure]]] = {}


@dataclass(frozen=True, slots=True)
class Options:
    """How long and how often."""

    turns: int = 5
    seconds: float = 2.0


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table: ours against a peer, and what we aim at."""

    row: str
    what: str
    ours: float
    unit: str
    peer: str = ""
    theirs: float | None = None
    ratio: float | None = None
    aim: str = ""
    reached: bool | None = None
    samples: dict[str, list[float]] = field(default_factory=dict)
