"""Cables that lose packets or hold them back: the program's instructions, and how a cable is told."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycilium.cli.lab_nodes import parsed_share
from pycilium.errors import ConfigError
from pycilium.lab.impairments import Cable, Late, program_of
from pycilium.lab.relay import MARK, Holding

PASSED, DROPPED, DIVERTED = "passed", "dropped", "diverted"


def run(program, dice, mark=0):
    """What the program does with a packet, by a slow machine that knows the few instructions there are."""
    steps = [struct.unpack_from("=BBhI", program, at) for at in range(0, len(program), 8)]
    registers, at, rolls, diverted = {1: "packet"}, 0, iter(dice), False
    while True:
        code, pair, offset, immediate = steps[at]
        at += 1
        match code:
            case 0x61:
                assert (pair, offset) == (0x10, 8)  # register 0 = the packet's mark
                registers[0] = mark
            case 0xB7:
                registers[pair] = immediate
            case 0x85 if immediate == 7:
                registers[0] = next(rolls)
            case 0x85:
                assert (immediate, registers[2]) == (23, 0)
                diverted, registers[0] = registers[1], 7
            case 0x05:
                at += offset
            case 0xA6:
                at += offset if registers[0] < immediate else 0
            case 0x16:
                at += offset if registers[0] == immediate else 0
            case 0x95:
                return {0: PASSED, 2: DROPPED, 7: (DIVERTED, diverted)}[registers[0]]


SHARES = st.integers(0, 10_000)
ROLLS = st.integers(0, 2**32 - 1)


@given(SHARES, SHARES, ROLLS, ROLLS)
def test_packets_meet_the_fate_that_the_dice_say(loss, late, first, second):
    def is_hit(roll, share):
        return roll < (share << 32) // 10_000

    dice = [roll for roll, share in ((first, loss), (second, late)) if 0 < share < 10_000]
    fate = run(program_of(loss, late, entrance=9), dice)

    if is_hit(first, loss):
        assert fate == DROPPED
    else:
        assert fate == ((DIVERTED, 9) if is_hit(second, late) else PASSED)


def test_what_was_late_once_is_let_pass():
    assert run(program_of(10_000, 10_000, entrance=9), [], mark=MARK) == PASSED


@pytest.mark.parametrize(("text", "per_myriad"), [("5%", 500), ("0.5%", 50), ("100", 10_000), ("0", 0)])
def test_a_loss_is_written_in_percent(text, per_myriad):
    assert parsed_share("--loss", text) == per_myriad


@pytest.mark.parametrize("text", ["", "x", "101%", "-1%", "nan"])
def test_what_is_no_share_is_refused(text):
    with pytest.raises(ConfigError, match="write a percentage"):
        parsed_share("--loss", text)


@pytest.mark.parametrize(
    ("cable", "text"),
    [
        (Cable(), "up"),
        (Cable(plugged=False, sent_loss=5), "cut"),
        (Cable(sent_loss=10_000), "loses 100% of what is sent"),
        (Cable(sent_loss=100, late="all by 5 ms"), "loses 1% of what is sent, delays all by 5 ms"),
        (Cable(sent_loss=50, received_loss=500), "loses 0.5% of what is sent and 5% of what is received"),
    ],
)
def test_a_cable_says_how_it_is(cable, text):
    assert str(cable) == text


def test_what_is_late_says_how_much_and_for_how_long():
    assert str(Late(2500, Holding(20, 5))) == "25% of what is received by 20±5 ms"
    assert all(0.015 <= Holding(20, 5).drawn_s() <= 0.025 for _ in range(50))
