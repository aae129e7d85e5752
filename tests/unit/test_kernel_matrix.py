"""What a virtual machine's console says decides whether its kernel passed; a machine that fell silent has not."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
import kernel_matrix
import pytest
from kernel_guest import ENDED, MARK

PANIC = ["Kernel panic - not syncing: Fatal exception", "Rebooting in 1 seconds.."]


def passed(check: str, yes: bool = True) -> str:
    return MARK + json.dumps({"check": check, "passed": yes, "summary": "", "seconds": 1, "failures": []})


def test_a_machine_that_panics_during_a_command_has_failed() -> None:
    """It reboots, and qemu ends with 0 as after any other end."""
    assert not kernel_matrix.command_passed(["hello", *PANIC])


@pytest.mark.parametrize(("code", "is_good"), [("0", True), ("7", False)])
def test_a_command_fares_as_its_exit_code_says(code: str, is_good: bool) -> None:
    assert kernel_matrix.command_passed(["hello", ENDED + code]) == is_good


@pytest.mark.parametrize("said", [[passed("features")], [passed("features"), passed("programs", yes=False)]])
def test_every_check_has_to_come_and_to_pass(said: list[str]) -> None:
    assert not kernel_matrix.checks_passed([*said, f"{ENDED}0"], ["features", "programs"])


def test_a_machine_that_panics_after_its_last_check_has_failed() -> None:
    assert not kernel_matrix.checks_passed([passed("features"), *PANIC], ["features"])
    assert kernel_matrix.checks_passed([passed("features"), f"{ENDED}0"], ["features"])
