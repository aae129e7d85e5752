"""The drop reasons agree with the two other places that have to know them."""

from __future__ import annotations

import re
from pathlib import Path

from pycilium.hubble.proto import flow_pb2
from pycilium.model.drop_reason import DropReason, drop_reason_text

HEADER = Path(__file__).parents[3] / "bpf/abi/drop_reason.h"


def test_numbers_and_names_are_those_of_the_wire_schema() -> None:
    ours = {reason.name: reason.value for reason in DropReason}

    assert ours == dict(flow_pb2.DropReason.items())


def test_every_reason_of_the_datapath_is_known_and_has_a_text() -> None:
    numbers = [int(number) for number in re.findall(r"DROP_\w+ = (\d+)", HEADER.read_text())]

    assert numbers
    assert [number for number in numbers if number not in set(DropReason)] == []


def test_every_reason_has_a_text_of_its_own() -> None:
    texts = [reason.text for reason in DropReason]

    assert len(set(texts)) == len(texts)


def test_an_unknown_number_is_its_own_text() -> None:
    assert drop_reason_text(255) == "255"
