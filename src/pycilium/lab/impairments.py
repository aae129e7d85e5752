"""What is done to a node's cable: cut, one way or both, or made to lose packets; and healed.

A cable is cut at the underlay's end of it. Losses are a program's of a few instructions on the underlay's port, which
throws dice for each packet: the kernel need not have netem. What is in force is read from the kernel alone, where the
program's name says the share, so nothing can disagree with it.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from enum import Enum

from pycilium.datapath import bpf_syscall as bpf
from pycilium.datapath import libbpf
from pycilium.lab import namespaces, network
from pycilium.lab.layout import LabRecord

_HANDLE = 0x1055
_PRIORITY = 1
_NAME = "lose_"
PER_MYRIAD = 10_000

_CALL, _EXIT, _MOVE, _SKIP_IF_LESS = 0x85, 0x95, 0xB7, 0xA6
_RANDOM_HELPER = 7
_PASS, _DROP = 0, 2


class Way(Enum):
    """Which packets, from the node's point of view."""

    SENT = libbpf.TC_INGRESS
    RECEIVED = libbpf.TC_EGRESS


BOTH_WAYS = (Way.SENT, Way.RECEIVED)


@dataclass(frozen=True, slots=True)
class Cable:
    """How one port's cable is. Losses are shares in ten thousandths."""

    plugged: bool = True
    sent_loss: int = 0
    received_loss: int = 0

    def __str__(self) -> str:
        if not self.plugged:
            return "cut"
        ways = (("sent", self.sent_loss), ("received", self.received_loss))
        losses = [f"{loss / 100:g}% of what is {way}" for way, loss in ways if loss]
        return f"loses {' and '.join(losses)}" if losses else "up"


def cut(record: LabRecord, port: str) -> None:
    """Pulls the cable: eth0 at its other end loses its carrier."""
    network.set_cable(record, port, plugged=False)


def heal(record: LabRecord, port: str) -> None:
    """Plugs the cable in, and nothing is lost any more."""
    set_loss(record, port, 0, BOTH_WAYS)
    network.set_cable(record, port, plugged=True)


def set_loss(record: LabRecord, port: str, per_myriad: int, ways: tuple[Way, ...]) -> None:
    """Loses that share of the packets, chosen by chance; 0 ends it. In the place of what was set before."""

    def body() -> None:
        index = network.port_index(port)
        for way in ways:
            if per_myriad == 0:
                libbpf.tc_detach(index, way.value, _HANDLE, _PRIORITY)
                continue
            program = bpf.program_load(
                bpf.PROGRAM_TYPE_SCHED_CLS, losing_program(per_myriad), name=f"{_NAME}{per_myriad}"
            )
            try:
                libbpf.tc_attach(index, way.value, program, _HANDLE, _PRIORITY)
            finally:
                os.close(program)

    namespaces.run_in(record.underlay, body)


def cables(record: LabRecord) -> dict[str, Cable]:
    """Every port of the underlay and how its cable is."""
    plugged = network.plugged_ports(record)

    def body() -> dict[str, Cable]:
        return {port: Cable(is_plugged, *_losses(port)) for port, is_plugged in plugged.items()}

    return namespaces.run_in(record.underlay, body)


def losing_program(per_myriad: int) -> bytes:
    """Instructions that drop so many packets of ten thousand, by chance; the comparison is of unsigned 32 bits."""
    if per_myriad >= PER_MYRIAD:
        return _instruction(_MOVE, immediate=_DROP) + _instruction(_EXIT)
    below = (per_myriad << 32) // PER_MYRIAD
    steps = (
        _instruction(_CALL, immediate=_RANDOM_HELPER),
        _instruction(_SKIP_IF_LESS, offset=2, immediate=below),
        _instruction(_MOVE, immediate=_PASS),
        _instruction(_EXIT),
        _instruction(_MOVE, immediate=_DROP),
        _instruction(_EXIT),
    )
    return b"".join(steps)


def _instruction(code: int, *, offset: int = 0, immediate: int = 0) -> bytes:
    """All that is computed here stands in register 0."""
    return struct.pack("=BBhI", code, 0, offset, immediate)


def _losses(port: str) -> tuple[int, int]:
    """To be called inside the underlay's namespace."""
    index = network.port_index(port)
    sent, received = (_loss(index, way) for way in BOTH_WAYS)
    return sent, received


def _loss(index: int, way: Way) -> int:
    program_id = libbpf.tc_program(index, way.value, _HANDLE, _PRIORITY)
    if program_id is None:
        return 0
    program = bpf.program_by_id(program_id)
    try:
        return int(bpf.program_info(program).name.removeprefix(_NAME))
    finally:
        os.close(program)
