"""Durations as options take them."""

from __future__ import annotations

import click
import pytest

from pycilium.cli.durations import seconds


@pytest.mark.parametrize(
    ("text", "expected"), [("300", 300), ("0", 0), ("90s", 90), ("5m", 300), ("1h30m", 5400), ("500ms", 0.5)]
)
def test_a_number_and_its_unit(text, expected):
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "5x", "m", "-1", "5 m"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(click.BadParameter, match=r"is not a duration|is before now"):
        seconds(text)
