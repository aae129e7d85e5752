"""Results for people: a table on the terminal, and the one in docs/benchmarks.md.

python -m tests.benchmark.report bench/results/DATE.json ...     writes a table of each into docs/benchmarks.md

A row that several of them have is taken from the last one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from tests.benchmark.figures import Figure
from tests.benchmark.machine import ROOT

DOCUMENT = ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
HEADINGS = ("row", "what", "ours", "peer", "theirs", "ratio", "aim", "reached")
_SCALED = ("/s", "/CPU-s")
_PREFIXES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def table(figures: Sequence[dict[str, Any]]) -> Table:
    """For the terminal; `figures` as Figure.to_json gives them."""
    made = Table(title="ours and theirs, side by side", title_justify="left", header_style="bold")
    for heading in HEADINGS:
        made.add_column(heading, justify="right" if heading in ("ours", "theirs", "ratio", "aim") else "left")
    for figure, cells in zip(figures, _rows(figures), strict=True):
        style = {True: "green", False: "red", None: ""}[figure["reached"]]
        made.add_row(*cells[:-1], f"[{style}]{cells[-1]}[/]" if style else cells[-1])
    return made


def notes(figures: Sequence[dict[str, Any]]) -> list[str]:
    """What there is to say about single figures."""
    return [f"{figure['row']}, {figure['name']}: {figure['note']}" for figure in figures if figure["note"]]


def markdown(result: dict[str, Any]) -> str:
    """The table of docs/benchmarks.md, with the machine it was taken on."""
    machine = result["machine"]
    taken = (
        f"Taken {machine['time']} at commit {machine['commit']}: {machine['cpu']}, {machine['cpus']} CPUs, "
        f"{machine['memory_mb']} MB, Linux {machine['kernel']}, Python {machine['python']}; "
        f"{result['options']['turns']} turns of {result['options']['seconds']:g} s; "
        f"load at the start {machine['load_at_start']}."
    )
    lines = [
        taken,
        "",
        f"| {' | '.join(HEADINGS)} |",
        "|---|---|--:|---|--:|--:|--:|---|",
        *(f"| {' | '.join(cells)} |" for cells in _rows(result["figures"])),
    ]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes(result["figures"]))]).rstrip() + "\n"


def to_json(machine: dict[str, Any], options: dict[str, Any], figures: Sequence[Figure]) -> dict[str, Any]:
    return {"machine": machine, "options": options, "figures": [figure.to_json() for figure in figures]}


def _rows(figures: Sequence[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    for figure in figures:
        unit, theirs, ratio = figure["unit"], figure["theirs"], figure["ratio"]
        yield (
            figure["row"],
            figure["name"],
            shown(figure["ours"], unit) + _between(figure["spread"], unit),
            figure["peer"] or "",
            "" if theirs is None else shown(theirs, unit),
            "" if ratio is None else f"{ratio:.3f}{_between(figure['ratio_spread'], 'ratio')}",
            _aim(figure),
            _reached(figure),
        )


def shown(value: float, unit: str) -> str:
    """`74.1 k/s`, `12.3 ms`, `0`."""
    if unit == "ratio":
        return f"{value:.2f}"
    if unit.endswith(_SCALED):
        for factor, prefix in _PREFIXES:
            if abs(value) >= factor:
                return f"{value / factor:.3g} {prefix}{unit}"
    text = f"{value:.0f}" if value == int(value) or abs(value) >= 100 else f"{value:.3g}"
    return f"{text} {unit}".rstrip()


def _between(spread: Sequence[float] | None, unit: str) -> str:
    if spread is None or spread[0] == spread[1]:
        return ""
    low, high = (shown(value, unit).removesuffix(unit).strip() for value in spread)
    return f" ({low} to {high})"


def _aim(figure: dict[str, Any]) -> str:
    if figure["aim"] is None:
        return ""
    of, relation, bound = figure["aim"].split()
    return f"{relation} {bound} of it" if of == "ratio" else f"{relation} {shown(float(bound), figure['unit'])}"


def _reached(figure: dict[str, Any]) -> str:
    if figure["reached"] is None:
        return ""
    if figure["reached"]:
        return "yes"
    of, _, bound_text = figure["aim"].split()
    bound, value = float(bound_text), figure["ratio"] if of == "ratio" else figure["ours"]
    if not bound:
        return "missed"
    share = abs(value - bound) / bound
    return f"missed by {share:.0%}" if share >= 0.1 else f"missed by {share:.1%}"


def newest(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The results with each row in the last one that has it; those that have none left are gone."""
    last = {figure["row"]: number for number, result in enumerate(results) for figure in result["figures"]}
    kept = [
        result | {"figures": [figure for figure in result["figures"] if last[figure["row"]] == number]}
        for number, result in enumerate(results)
    ]
    return [result for result in kept if result["figures"]]


def main() -> int:
    results = newest([json.loads(Path(name).read_text(encoding="utf-8")) for name in sys.argv[1:]])
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        print(f"{DOCUMENT}: the lines {BEGIN} and {END} are missing", file=sys.stderr)
        return 1
    tables = "\n".join(markdown(result) for result in results)
    DOCUMENT.write_text(f"{before}{BEGIN}\n\n{tables}\n{END}{after}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
