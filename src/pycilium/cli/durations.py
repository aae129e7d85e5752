"""How long: `300`, `90s`, `5m`, `1h30m`, as Cilium's commands take it; seconds where there is no unit."""

from __future__ import annotations

import re

import click

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")


def seconds(text: str) -> float:
    """As the type of an option: click.BadParameter for what is no time."""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    if not re.fullmatch(rf"({_PART.pattern})+", text):
        raise click.BadParameter(f"{text!r} is no time such as 300, 90s or 5m")
    return sum(float(count) * _UNITS[unit] for count, unit in _PART.findall(text))
