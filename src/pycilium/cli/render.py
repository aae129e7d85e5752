"""How results are printed: plain tables, JSON, YAML. Widths come from the content; nothing is cut off."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click
import msgspec

_JSONPATH = "jsonpath="


def output_option(*formats: str, default: str | None = None) -> Callable[[Any], Any]:
    """Adds `-o FORMAT`."""
    return click.option("-o", "--output", "output", type=click.Choice(formats), default=default, help="Output format.")


class MachineFormat(click.ParamType[str]):
    """`json`, `yaml` or `jsonpath=TEMPLATE`: what Cilium's clients ask of an agent's commands."""

    name = "json|yaml|jsonpath=TEMPLATE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value not in ("json", "yaml") and not str(value).startswith(_JSONPATH):
            self.fail(f"{value!r} is none of json, yaml, jsonpath=TEMPLATE", param, ctx)
        return str(value)


def machine_output_option() -> Callable[[Any], Any]:
    """Adds `-o FORMAT` for programs that read the answer: `print_as` prints it."""
    return click.option("-o", "--output", "output", type=MachineFormat(), default=None, help="Output format.")


def print_as(value: object, output: str) -> None:
    """Prints `value` as one of `MachineFormat`."""
    if output.startswith(_JSONPATH):
        from pycilium.cli.jsonpath import rendered

        click.echo(rendered(output.removeprefix(_JSONPATH), msgspec.to_builtins(value, str_keys=True)))
    elif output == "yaml":
        print_yaml(value)
    else:
        print_json(value)


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


class Progress:
    """Tells the steps of long work on stderr, and results on stdout without the two running into each other.

    `status`: a live line that shows the step; None prints a line for each.
    """

    def __init__(self, title: str, status: Any = None) -> None:
        self._title, self._status = title, status

    def __call__(self, step: str) -> None:
        if self._status is None:
            print(f"{self._title}: {step}", file=sys.stderr, flush=True)
        else:
            self._status.update(f"{self._title}: {step}")

    def result(self, text: str) -> None:
        """A result that is known before the work is done."""
        if self._status is not None:
            self._status.stop()
        click.echo(text)
        if self._status is not None:
            self._status.start()


@contextmanager
def progress(title: str) -> Iterator[Progress]:
    """Shows the steps of long work on stderr: one live line on a terminal, one line per step elsewhere."""
    if not sys.stderr.isatty():
        yield Progress(title)
        return
    from rich.console import Console

    with Console(stderr=True).status(title) as status:
        yield Progress(title, status)
