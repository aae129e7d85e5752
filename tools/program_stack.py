"""How much stack each program takes at its deepest, as kernels before 6.9 count it: 32 bytes at least per function.

Newer kernels count less, so a chain of calls that they load may be refused by an older one. Read from the object file:
no kernel is asked.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

LIMIT = 512
_GRAIN = 32
_FRAME_POINTER = 10
_SYMBOLS, _RELOCATIONS, _FUNCTION = 2, 9, 2
_ALU64_ADD, _ALU64_MOVE, _CALL = 0x07, 0xBF, 0x85
_LOAD, _STORES, _ALU = 1, (2, 3), (4, 7)
_CALL_OF_FUNCTION = 1

_Place = tuple[int, int]
"""Section number and offset in it."""


@dataclass(slots=True)
class _Function:
    name: str
    stack_bytes: int = 0
    calls: set[_Place] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Chain:
    """The deepest chain of calls of a program."""

    stack_bytes: int
    functions: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.stack_bytes} bytes: {' > '.join(self.functions)}"


class _Object:
    """The parts of a little- or big-endian ELF object that matter here."""

    def __init__(self, image: bytes) -> None:
        self._image = image
        self._order = order = "<" if image[5] == 1 else ">"
        (table,) = struct.unpack_from(order + "Q", image, 0x28)
        size, count = struct.unpack_from(order + "HH", image, 0x3A)
        self._sections = [struct.unpack_from(order + "IIQQQQIIQQ", image, table + at * size) for at in range(count)]
        symbols = next(section for section in self._sections if section[1] == _SYMBOLS)
        self._names = self._bytes(self._sections[symbols[6]])
        self._symbols = list(struct.iter_unpack(order + "IBBHQQ", self._bytes(symbols)))
        self._targets = dict(self._relocations())

    def _bytes(self, section: tuple[int, ...]) -> bytes:
        return self._image[section[4] : section[4] + section[5]]

    def _relocations(self) -> Iterator[tuple[_Place, tuple[int, ...]]]:
        for section in self._sections:
            if section[1] == _RELOCATIONS:
                for offset, info in struct.iter_unpack(self._order + "QQ", self._bytes(section)):
                    yield (section[7], offset), self._symbols[info >> 32]

    def functions(self) -> dict[_Place, _Function]:
        found: dict[_Place, _Function] = {}
        for name, info, _, section, start, size in self._symbols:
            if info & 15 == _FUNCTION:
                text = self._names[name : self._names.index(b"\0", name)].decode()
                found[section, start] = self._function(text, section, start, size)
        return found

    def _function(self, name: str, section: int, start: int, size: int) -> _Function:
        function = _Function(name)
        copies: set[int] = set()  # registers that hold the frame pointer
        code = self._bytes(self._sections[section])
        for at in range(start, start + size, 8):
            opcode, registers, offset, immediate = struct.unpack_from(self._order + "BBhi", code, at)
            low, high = registers & 15, registers >> 4
            target, source = (low, high) if self._order == "<" else (high, low)
            kind = opcode & 7
            depth = 0
            if (kind in _STORES and target == _FRAME_POINTER) or (kind == _LOAD and source == _FRAME_POINTER):
                depth = -offset
            if opcode == _ALU64_ADD and target in copies:
                depth = -immediate
            if opcode == _ALU64_MOVE and source == _FRAME_POINTER:
                copies.add(target)
            elif kind in _ALU:
                copies.discard(target)
            if opcode == _CALL and source == _CALL_OF_FUNCTION:
                function.calls.add(self._callee(section, at, immediate))
            function.stack_bytes = max(function.stack_bytes, depth)
        return function

    def _callee(self, section: int, at: int, immediate: int) -> _Place:
        symbol = self._targets.get((section, at))
        if symbol is None:
            return section, at + (immediate + 1) * 8
        _, info, _, home, start, _ = symbol
        return (home, start) if info & 15 == _FUNCTION else (home, (immediate + 1) * 8)


def deepest(image: bytes) -> dict[str, Chain]:
    """For each function of the object, programs among them, its deepest chain."""
    functions = _Object(image).functions()

    def chain(place: _Place) -> Chain:
        function = functions[place]
        own = max(-(-function.stack_bytes // _GRAIN), 1) * _GRAIN
        below = max(
            (chain(callee) for callee in function.calls), key=lambda each: each.stack_bytes, default=Chain(0, ())
        )
        return Chain(own + below.stack_bytes, (function.name, *below.functions))

    return {function.name: chain(place) for place, function in functions.items()}
