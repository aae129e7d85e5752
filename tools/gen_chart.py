#!/usr/bin/env python3
"""Write Helm's chart, install/kubernetes/cilium, from pycilium.install; `--check` only says whether it is so."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pycilium.install import chart

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "install" / "kubernetes" / "cilium"


def main() -> None:
    parser = argparse.ArgumentParser(description="write Helm's chart")
    parser.add_argument("--check", action="store_true", help="only say whether it is up to date")
    check = parser.parse_args().check
    wanted = chart.files()
    present = {str(path.relative_to(FOLDER)): path.read_text() for path in FOLDER.rglob("*") if path.is_file()}
    if check and present != wanted:
        differing = sorted(name for name in wanted.keys() | present if wanted.get(name) != present.get(name))
        sys.exit(f"{FOLDER.relative_to(ROOT)} is not up to date ({', '.join(differing)}): run `make gen`")
    if check:
        return
    for name in present.keys() - wanted:
        (FOLDER / name).unlink()
    for name, text in wanted.items():
        path = FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main()
