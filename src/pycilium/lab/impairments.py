"""What is done to a node's cable: cut, made to lose, delay or reorder packets; and healed.

A cable is cut at the underlay's end of it. The rest is a program's of a few instructions on the underlay's port, which
throws dice for each packet: the kernel need not have netem. Those that are to be late it sends to a `relay`. What is in
force is read from the kernel alone, where the names of program and device say it, so nothing can disagree with it.
"""

from __future__ import annotations

import os
import struct
import sys
from dataclasses import dataclass
from enum import Enum

from pyroute2 import IPRoute

from pycilium.datapath import bpf_syscall as bpf
from pycilium.datapath import libbpf
from pycilium.lab import namespaces, network, processes
from pycilium.lab.layout import LabLayout, LabRecord
from pycilium.lab.relay import MARK, Holding, reading_socket

_HANDLE = 0x1055
_PRIORITY = 1
_NAME = "lose_"
PER_MYRIAD = 10_000

_LOAD_WORD, _CALL, _EXIT, _MOVE = 0x61, 0x85, 0x95, 0xB7
_SKIP_IF_LESS, _SKIP_IF_EQUAL = 0xA6, 0x16
_MARK_OFFSET = 8
"""Of the mark in struct __sk_buff."""
_RANDOM_HELPER, _REDIRECT_HELPER = 7, 23
_PASS, _DROP = 0, 2


class Way(Enum):
    """Which packets, from the node's point of view."""

    SENT = libbpf.TC_INGRESS
    RECEIVED = libbpf.TC_EGRESS


BOTH_WAYS = (Way.SENT, Way.RECEIVED)


@dataclass(frozen=True, slots=True)
class Cable:
    """How one port's cable is. Losses are shares in ten thousandths; `late`: what is held back, in words."""

    plugged: bool = True
    sent_loss: int = 0
    received_loss: int = 0
    late: str = ""

    def __str__(self) -> str:
        if not self.plugged:
            return "cut"
        ways = (("sent", self.sent_loss), ("received", self.received_loss))
        losses = " and ".join(f"{loss / 100:g}% of what is {way}" for way, loss in ways if loss)
        said = (f"loses {losses}" if losses else "", f"delays {self.late}" if self.late else "")
        return ", ".join(filter(None, said)) or "up"


@dataclass(frozen=True, slots=True)
class Late:
    """Which share of what a node receives, in ten thousandths, is held back for how long."""

    share: int
    holding: Holding

    def __str__(self) -> str:
        return f"{self.share / 100:g}% of what is received by {self.holding}"


def cut(record: LabRecord, port: str) -> None:
    """Pulls the cable: eth0 at its other end loses its carrier."""
    network.set_cable(record, port, plugged=False)


def heal(record: LabRecord, port: str) -> None:
    """Plugs the cable in, and nothing is lost or late any more."""
    set_loss(record, port, 0, BOTH_WAYS)
    network.set_cable(record, port, plugged=True)


def remove(record: LabRecord, port: str) -> None:
    """Removes the cable and what was done to it. Absent is success."""
    if port not in network.plugged_ports(record):
        return
    namespaces.run_in(record.underlay, lambda: _end_relay(network.port_index(port)))
    network.remove_cable(record, port)


def set_loss(record: LabRecord, port: str, per_myriad: int, ways: tuple[Way, ...]) -> None:
    """Loses that share of the packets, chosen by chance; 0 ends it. In the place of what was set before."""

    def body() -> None:
        index = network.port_index(port)
        for way in ways:
            if way is Way.RECEIVED:
                _end_relay(index)
            if per_myriad == 0:
                libbpf.tc_detach(index, way.value, _HANDLE, _PRIORITY)
            else:
                _attach(index, way, per_myriad, program_of(per_myriad))

    namespaces.run_in(record.underlay, body)


def set_late(record: LabRecord, port: str, loss: int, late: Late) -> None:
    """Holds a share of what the node receives back, and loses another. In the place of what was set before."""
    log = LabLayout(record.name).world_folder / "relay.log"

    def body() -> None:
        index = network.port_index(port)
        _end_relay(index)
        with IPRoute() as ip:
            ip.link("add", ifname=_relay_device(index), kind="veth", peer={"ifname": f"hold{index}"})
            for device in (_relay_device(index), f"hold{index}"):
                ip.link("set", index=ip.link_lookup(ifname=device)[0], state="up")
            entrance = ip.link_lookup(ifname=_relay_device(index))[0]
            ip.link("set", index=entrance, ifalias=str(late))
        argv = [sys.executable, "-m", "pycilium.lab.relay", port]
        argv += [str(late.holding.delay_ms), str(late.holding.jitter_ms)]
        with reading_socket(f"hold{index}") as reader:
            processes.start_in(record.underlay, argv, log=log, pass_fd=reader.fileno())
        _attach(index, Way.RECEIVED, loss, program_of(loss, late.share, entrance))

    namespaces.run_in(record.underlay, body)


def cables(record: LabRecord) -> dict[str, Cable]:
    """Every port of the underlay and how its cable is."""
    plugged = network.plugged_ports(record)

    def body() -> dict[str, Cable]:
        return {port: _cable(port, is_plugged) for port, is_plugged in plugged.items()}

    return namespaces.run_in(record.underlay, body)


def program_of(loss: int, late: int = 0, entrance: int = 0) -> bytes:
    """Instructions that drop so many packets of ten thousand and send so many of the rest to the relay's entrance.

    What the relay has had is let pass. The dice are unsigned numbers of 32 bits.
    """
    drop = _instruction(_MOVE, immediate=_DROP) + _instruction(_EXIT)
    divert = (
        _instruction(_MOVE, 1, immediate=entrance)
        + _instruction(_MOVE, 2, immediate=0)
        + _instruction(_CALL, immediate=_REDIRECT_HELPER)
        + _instruction(_EXIT)
    )
    own = _instruction(_LOAD_WORD, 0x10, offset=_MARK_OFFSET) + _unless(_SKIP_IF_EQUAL, MARK, _PASSING)
    return own + _by_chance(loss, drop) + _by_chance(late, divert) + _PASSING


def _by_chance(per_myriad: int, steps: bytes) -> bytes:
    """The steps, carried out so many times of ten thousand."""
    if per_myriad == 0:
        return b""
    if per_myriad >= PER_MYRIAD:  # a die that always shows 0: the verifier refuses steps that nothing leads to
        return _instruction(_MOVE, immediate=0) + _unless(_SKIP_IF_LESS, 1, steps)
    dice = _instruction(_CALL, immediate=_RANDOM_HELPER)
    return dice + _unless(_SKIP_IF_LESS, (per_myriad << 32) // PER_MYRIAD, steps)


def _unless(skip: int, value: int, steps: bytes) -> bytes:
    """The steps if the condition on register 0 holds, else what comes after them."""
    over = _instruction(0x05, offset=len(steps) // 8)
    return _instruction(skip, offset=1, immediate=value) + over + steps


def _instruction(code: int, registers: int = 0, *, offset: int = 0, immediate: int = 0) -> bytes:
    return struct.pack("=BBhI", code, registers, offset, immediate)


_PASSING = _instruction(_MOVE, immediate=_PASS) + _instruction(_EXIT)


def _attach(index: int, way: Way, loss: int, instructions: bytes) -> None:
    program = bpf.program_load(bpf.PROGRAM_TYPE_SCHED_CLS, instructions, name=f"{_NAME}{loss}")
    try:
        libbpf.tc_attach(index, way.value, program, _HANDLE, _PRIORITY)
    finally:
        os.close(program)


def _relay_device(index: int) -> str:
    """Where packets to that port go in that are to be late."""
    return f"late{index}"


def _end_relay(index: int) -> None:
    with IPRoute() as ip:
        for entrance in ip.link_lookup(ifname=_relay_device(index)):
            ip.link("del", index=entrance)


def _cable(port: str, plugged: bool) -> Cable:
    """To be called inside the underlay's namespace."""
    index = network.port_index(port)
    with IPRoute() as ip:
        entrances = ip.get_links(ifname=_relay_device(index)) if ip.link_lookup(ifname=_relay_device(index)) else ()
        late = next((entrance.get_attr("IFLA_IFALIAS") for entrance in entrances), "")
    return Cable(plugged, _loss(index, Way.SENT), _loss(index, Way.RECEIVED), late or "")


def _loss(index: int, way: Way) -> int:
    program_id = libbpf.tc_program(index, way.value, _HANDLE, _PRIORITY)
    if program_id is None:
        return 0
    program = bpf.program_by_id(program_id)
    try:
        return int(bpf.program_info(program).name.removeprefix(_NAME))
    finally:
        os.close(program)
