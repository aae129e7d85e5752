"""How results are printed: plain tables, JSON, YAML. Widths come from the content; nothing is cut off."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click
import msgspec

Output = str


def output_option(*formats: str, default: str | None = None) -> Callable[[Any], Any]:
    """Adds `-o FORMAT`."""
    return click.option("-o", "--output", "output", type=click.Choice(formats), default=default, help="Output format.")


def print_json(value: object) -> None:
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def print_yaml(value: object) -> None:
    import yaml

    documents = value if isinstance(value, list) else [value]
    yaml.safe_dump_all(
        [msgspec.to_builtins(document, str_keys=True) for document in documents],
        sys.stdout,
        sort_keys=False,
        default_flow_style=False,
        allow_unicode=True,
    )


def print_table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns as wide as their longest cell, three spaces apart. A cell of several lines takes several lines."""
    lines: list[list[str]] = [list(headers)]
    for row in rows:
        cells = [str(cell if cell is not None else "").split("\n") for cell in row]
        height = max((len(cell) for cell in cells), default=1)
        lines += [[cell[line] if line < len(cell) else "" for cell in cells] for line in range(height)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headers))]
    for line in lines:
        text = "   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        sys.stdout.write(text.rstrip() + "\n")


@contextmanager
def progress(title: str) -> Iterator[Callable[[str], None]]:
    """Shows the steps of long work on stderr: one live line on a terminal, one line per step elsewhere."""
    if not sys.stderr.isatty():
        yield lambda step: print(f"{title}: {step}", file=sys.stderr, flush=True)
        return
    from rich.console import Console

    console = Console(stderr=True)
    with console.status(title) as status:

        def tell(step: str) -> None:
            status.update(f"{title}: {step}")

        yield tell
