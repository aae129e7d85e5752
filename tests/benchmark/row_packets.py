"""What a packet costs in each program, in nanoseconds: the kernel runs the program again and again on one packet.

The packets and what the maps hold are those of the tests that measure it (`tests/bpf/test_speed.py`, `test_xdp.py`), so
that they are run here, and what they report is read. No cache misses, no hook, no driver are in these figures.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

from tests.benchmark.figures import Figure, Options, Tell, alone
from tests.benchmark.machine import ROOT

TESTS = ("tests/bpf/test_speed.py", "tests/bpf/test_xdp.py")
PROPERTY = "ns per packet of "


def measure(options: Options, tell: Tell) -> list[Figure]:
    found: defaultdict[str, list[float]] = defaultdict(list)
    for turn in range(options.turns):
        tell(f"turn {turn + 1} of {options.turns}: running programs on packets")
        for name, ns in _measured():
            found[name].append(ns)
    return [alone("packets", name, "ns", samples) for name, samples in found.items()]


def _measured() -> Iterator[tuple[str, float]]:
    with tempfile.TemporaryDirectory(prefix="pycilium-bench-") as folder:
        report = Path(folder, "report.xml")
        reporting = ("-o", "junit_family=xunit1", f"--junitxml={report}")
        command = [sys.executable, "-m", "pytest", "-q", "-k", "speed or costs", *reporting, *TESTS]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"the tests that measure packets failed:\n{done.stdout[-2000:]}")
        cases = ET.parse(report).iter("testcase")
        for case in cases:
            for each in case.iter("property"):
                if each.get("name", "").startswith(PROPERTY):
                    yield _name(case.get("name", ""), each.get("name", "")), float(each.get("value", "nan"))


def _name(test: str, program: str) -> str:
    """`test_a_service[pod-4]` in words, after the program's name."""
    words, _, family = test.removeprefix("test_").removesuffix("]").rpartition("-")
    return f"{program.removeprefix(PROPERTY)}: {words.replace('_', ' ').replace('[', ', ')}, IPv{family}"
