"""Cables that lose packets: the program's instructions, and how a cable is told."""

import struct

import pytest

from pycilium.cli.lab_nodes import parsed_loss
from pycilium.errors import ConfigError
from pycilium.lab.impairments import Cable, losing_program


def chance(program):
    """What share of all 32-bit random numbers the program drops at."""
    instructions = [struct.unpack_from("=BBhI", program, offset) for offset in range(0, len(program), 8)]
    limits = [immediate for code, _, _, immediate in instructions if code == 0xA6]
    return limits[0] / 2**32 if limits else 1.0


@pytest.mark.parametrize("per_myriad", [1, 50, 500, 5000, 9999, 10_000])
def test_the_share_that_is_lost_is_the_one_asked_for(per_myriad):
    assert chance(losing_program(per_myriad)) == pytest.approx(per_myriad / 10_000, abs=1e-9)


@pytest.mark.parametrize(("text", "per_myriad"), [("5%", 500), ("0.5%", 50), ("100", 10_000), ("0", 0)])
def test_a_loss_is_written_in_percent(text, per_myriad):
    assert parsed_loss(text) == per_myriad


@pytest.mark.parametrize("text", ["", "x", "101%", "-1%", "nan"])
def test_what_is_no_share_is_refused(text):
    with pytest.raises(ConfigError, match="write a percentage"):
        parsed_loss(text)


@pytest.mark.parametrize(
    ("cable", "text"),
    [
        (Cable(), "up"),
        (Cable(plugged=False, sent_loss=5), "cut"),
        (Cable(sent_loss=10_000), "loses 100% of what is sent"),
        (Cable(sent_loss=50, received_loss=500), "loses 0.5% of what is sent and 5% of what is received"),
    ],
)
def test_a_cable_says_how_it_is(cable, text):
    assert str(cable) == text
