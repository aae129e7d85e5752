"""Durations as options take them: `90s`, `5m`, `1h30m`, as Cilium's commands do; seconds where there is no unit."""

from __future__ import annotations

import click

from pycilium.cli.hubble_time import parse_duration_ns


def seconds(text: str) -> float:
    """As the type of an option: click.BadParameter for what is no time, or before now."""
    try:
        found = float(text) if text.replace(".", "", 1).isdecimal() else parse_duration_ns(text) / 1e9
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    if found < 0:
        raise click.BadParameter(f"{text!r} is before now")
    return found
