"""What an eBPF object file says about itself: programs, maps, configuration variables and the layout of every type.

Pure: bytes in, frozen values out; needs no root, no kernel and no libbpf.
The ELF symbols give programs and offsets of variables, the BTF section gives types; byte order comes from the
typedefs `__be16`, `__be32` and `__be64`, which BTF keeps.

The one invariant: `Struct.signature` is equal for two structures exactly if user space may read one as the other.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from pycilium.errors import LayoutMismatch

_BTF_MAGIC = 0xEB9F
_BIG_ENDIAN_TYPEDEFS = {"__be16": 2, "__be32": 4, "__be64": 8}
_SHT_SYMTAB = 2
_SHF_EXECINSTR = 4
_STT_FUNC = 2
_STB_GLOBAL = 1

_INT, _PTR, _ARRAY, _STRUCT, _UNION, _ENUM, _FWD, _TYPEDEF, _VOLATILE, _CONST, _RESTRICT = range(1, 12)
_FUNC, _FUNC_PROTO, _VAR, _DATASEC, _FLOAT, _DECL_TAG, _TYPE_TAG, _ENUM64 = range(12, 20)
_MODIFIERS = frozenset((_VOLATILE, _CONST, _RESTRICT, _TYPE_TAG))


@dataclass(frozen=True, slots=True)
class Scalar:
    """An integer; `big_endian` says network order, else the order of the object."""

    size: int
    signed: bool = False
    big_endian: bool = False

    @property
    def signature(self) -> str:
        return f"{'be' if self.big_endian else 's' if self.signed else 'u'}{self.size * 8}"


@dataclass(frozen=True, slots=True)
class Array:
    element: Type
    count: int

    @property
    def size(self) -> int:
        return self.element.size * self.count

    @property
    def signature(self) -> str:
        return f"{self.element.signature}[{self.count}]"


@dataclass(frozen=True, slots=True)
class Field:
    """A member; `bits` is 0 unless it is a bitfield, and `bit_offset` counts from the start of the structure."""

    name: str
    bit_offset: int
    type: Type
    bits: int = 0

    @property
    def offset(self) -> int:
        return self.bit_offset // 8

    @property
    def signature(self) -> str:
        place = f"{self.bit_offset}.{self.bits}bits" if self.bits else f"{self.offset}"
        return f"{self.name}:{self.type.signature}@{place}"


@dataclass(frozen=True, slots=True)
class Struct:
    name: str
    size: int
    fields: tuple[Field, ...]
    union: bool = False

    @property
    def signature(self) -> str:
        inside = " ".join(field.signature for field in self.fields)
        return f"{'union' if self.union else 'struct'}{{{inside} size={self.size}}}"


@dataclass(frozen=True, slots=True)
class Enum:
    name: str
    size: int
    values: tuple[tuple[str, int], ...]

    @property
    def signature(self) -> str:
        return f"u{self.size * 8}"


@dataclass(frozen=True, slots=True)
class Pointer:
    """An address; what it points at does not matter to a layout."""

    size: int = 8
    signature: str = "pointer"


Type = Scalar | Array | Struct | Enum | Pointer


def reads_as(before: Type, now: Type) -> bool:
    """Whether what was written as the one may be read as the other.

    Padding, which is 0, may have got a name since: whoever reads it takes 0 for nothing said.
    """
    if not (isinstance(before, Struct) and isinstance(now, Struct)):
        return before.signature == now.signature
    alike = (before.size, before.union, len(before.fields)) == (now.size, now.union, len(now.fields))
    return alike and all(_field_reads_as(*pair) for pair in zip(before.fields, now.fields, strict=True))


def _field_reads_as(before: Field, now: Field) -> bool:
    stays = before.name == now.name or before.name.startswith("pad")
    return stays and (before.bit_offset, before.bits) == (now.bit_offset, now.bits) and reads_as(before.type, now.type)


@dataclass(frozen=True, slots=True)
class MapDefinition:
    """A map as the object declares it; `attributes` has the numbers of `__uint`, such as type and max_entries."""

    name: str
    attributes: Mapping[str, int]
    key: Type | None
    value: Type | None


@dataclass(frozen=True, slots=True)
class ProgramDefinition:
    name: str
    section: str


@dataclass(frozen=True, slots=True)
class Variable:
    """A configuration constant, at `offset` of its section."""

    name: str
    offset: int
    type: Type


@dataclass(frozen=True, slots=True)
class ObjectFile:
    """All that one object file declares."""

    programs: tuple[ProgramDefinition, ...]
    maps: tuple[MapDefinition, ...]
    config: tuple[Variable, ...]
    structs: Mapping[str, Struct]
    enums: Mapping[str, Enum]
    nameless_sections: tuple[str, ...] = ()
    """Of which the BTF names no variable: Linux before 5.11 refuses all of it then."""


@dataclass(frozen=True, slots=True)
class _Raw:
    kind: int
    flag: bool
    name: str
    size_or_type: int
    extra: bytes


class Btf:
    """The types of one BTF blob, resolved on demand by number or by name."""

    def __init__(self, blob: bytes) -> None:
        if len(blob) < 24:
            raise LayoutMismatch("the object holds no BTF; it was built without debug information")
        self.order = "<" if struct.unpack_from("<H", blob)[0] == _BTF_MAGIC else ">"
        magic, _, _, header, types_at, types_len, strings_at, strings_len = struct.unpack_from(
            self.order + "HBBIIIII", blob
        )
        if magic != _BTF_MAGIC:
            raise LayoutMismatch("the object's BTF has a wrong magic number")
        self._strings = blob[header + strings_at : header + strings_at + strings_len]
        self._raw = [
            _Raw(0, False, "void", 0, b""),
            *self._read(blob[header + types_at : header + types_at + types_len]),
        ]
        self._resolved: dict[int, Type] = {}

    def _name(self, offset: int) -> str:
        return self._strings[offset : self._strings.index(b"\0", offset)].decode()

    def _read(self, blob: bytes) -> Iterator[_Raw]:
        header = struct.Struct(self.order + "III")
        at = 0
        while at < len(blob):
            name, info, size_or_type = header.unpack_from(blob, at)
            kind, count = info >> 24 & 0x1F, info & 0xFFFF
            extra = _extra_bytes(kind, count)
            yield _Raw(kind, bool(info >> 31), self._name(name), size_or_type, blob[at + 12 : at + 12 + extra])
            at += 12 + extra

    def words(self, raw: _Raw, per_item: int) -> Iterator[tuple[int, ...]]:
        """The trailing data of `raw` in items of `per_item` 32-bit words."""
        return struct.iter_unpack(f"{self.order}{per_item}I", raw.extra)

    def resolve(self, number: int) -> Type:
        """The type `number`, modifiers and typedefs peeled off; LayoutMismatch if it has no layout."""
        found = self._resolved.get(number)
        if found is None:
            found = self._resolved[number] = self._resolve(number)
        return found

    def _resolve(self, number: int) -> Type:
        raw = self._raw[number]
        if raw.kind == _TYPEDEF:
            size = _BIG_ENDIAN_TYPEDEFS.get(raw.name)
            return Scalar(size, big_endian=True) if size else self.resolve(raw.size_or_type)
        if raw.kind in _MODIFIERS:
            return self.resolve(raw.size_or_type)
        if raw.kind == _INT:
            return Scalar(raw.size_or_type, signed=bool(next(self.words(raw, 1))[0] >> 24 & 1))
        if raw.kind == _PTR:
            return Pointer()
        if raw.kind == _ARRAY:
            element, _, count = next(self.words(raw, 3))
            return Array(self.resolve(element), count)
        if raw.kind in {_STRUCT, _UNION}:
            return Struct(raw.name, raw.size_or_type, tuple(self._fields(raw)), union=raw.kind == _UNION)
        if raw.kind in {_ENUM, _ENUM64}:
            return Enum(raw.name, raw.size_or_type, tuple(self._enumerators(raw)))
        raise LayoutMismatch(f"BTF type {number} ({raw.name or 'anonymous'}) has no layout")

    def _fields(self, raw: _Raw) -> Iterator[Field]:
        for name, number, offset in self.words(raw, 3):
            bits = offset >> 24 if raw.flag else 0
            yield Field(self._name(name), offset & 0xFFFFFF if raw.flag else offset, self.resolve(number), bits)

    def _enumerators(self, raw: _Raw) -> Iterator[tuple[str, int]]:
        if raw.kind == _ENUM64:
            for name, low, high in self.words(raw, 3):
                value = high << 32 | low
                yield self._name(name), value - (1 << 64) if raw.flag and value >> 63 else value
            return
        for name, value in self.words(raw, 2):
            yield self._name(name), value - (1 << 32) if raw.flag and value >> 31 else value

    @cached_property
    def _numbers_by_name(self) -> dict[tuple[int, str], int]:
        return {(raw.kind, raw.name): number for number, raw in enumerate(self._raw) if raw.name}

    def struct(self, name: str) -> Struct | None:
        number = self._numbers_by_name.get((_STRUCT, name))
        found = None if number is None else self.resolve(number)
        return found if isinstance(found, Struct) else None

    def enum(self, name: str) -> Enum | None:
        number = self._numbers_by_name.get((_ENUM, name))
        found = None if number is None else self.resolve(number)
        return found if isinstance(found, Enum) else None

    def struct_names(self) -> list[str]:
        return [raw.name for raw in self._raw if raw.kind == _STRUCT and raw.name]

    def enum_names(self) -> list[str]:
        return [raw.name for raw in self._raw if raw.kind == _ENUM and raw.name]

    def nameless_sections(self) -> list[str]:
        return [raw.name for raw in self._raw if raw.kind == _DATASEC and not raw.extra]

    def variables(self, section: str) -> Iterator[tuple[str, int]]:
        """(name, type number) of each variable in `section`."""
        number = self._numbers_by_name.get((_DATASEC, section))
        if number is None:
            return
        for variable, _, _ in self.words(self._raw[number], 3):
            raw = self._raw[variable]
            yield raw.name, raw.size_or_type

    def map_definition(self, name: str, number: int) -> MapDefinition:
        """The map whose variable has type `number`: members point at a type or at an array that means a number."""
        raw = self._peel(number)
        attributes: dict[str, int] = {}
        types: dict[str, Type] = {}
        for member, pointer, _ in self.words(raw, 3):
            attribute, target = self._name(member), self._raw[pointer].size_or_type
            if attribute in {"key", "value"}:
                types[attribute] = self.resolve(target)
            elif self._raw[target].kind == _ARRAY:
                attributes[attribute] = next(self.words(self._raw[target], 3))[2]
        return MapDefinition(name, attributes, types.get("key"), types.get("value"))

    def _peel(self, number: int) -> _Raw:
        raw = self._raw[number]
        while raw.kind == _TYPEDEF or raw.kind in _MODIFIERS:
            raw = self._raw[raw.size_or_type]
        return raw


def _extra_bytes(kind: int, count: int) -> int:
    if kind in {_STRUCT, _UNION, _DATASEC, _ENUM64}:
        return 12 * count
    if kind in {_ENUM, _FUNC_PROTO}:
        return 8 * count
    if kind == _ARRAY:
        return 12
    return 4 if kind in {_INT, _VAR, _DECL_TAG} else 0


@dataclass(frozen=True, slots=True)
class _Section:
    name: str
    kind: int
    flags: int
    data: bytes
    link: int


@dataclass(frozen=True, slots=True)
class _Symbol:
    name: str
    section: str
    value: int
    function: bool
    exported: bool


def read_object(image: bytes) -> ObjectFile:
    """What the ELF object `image` declares; LayoutMismatch if it is not a 64-bit BPF object with BTF."""
    try:
        sections = _sections(image)
        symbols = list(_symbols(image, sections))
        btf = Btf(next((section.data for section in sections if section.name == ".BTF"), b""))
        return _describe(btf, sections, symbols)
    except (struct.error, IndexError, ValueError) as error:
        raise LayoutMismatch(f"the object file is damaged: {error}") from error


def _describe(btf: Btf, sections: list[_Section], symbols: list[_Symbol]) -> ObjectFile:
    executable = {section.name for section in sections if section.flags & _SHF_EXECINSTR}
    offsets = {symbol.name: symbol.value for symbol in symbols if symbol.section == ".rodata.config"}
    structs = {name: found for name in btf.struct_names() if (found := _try_struct(btf, name)) is not None}
    enums = {name: enum for name in btf.enum_names() if (enum := btf.enum(name)) is not None}
    return ObjectFile(
        programs=tuple(
            ProgramDefinition(symbol.name, symbol.section)
            for symbol in symbols
            if symbol.function and symbol.exported and symbol.section in executable and symbol.section != ".text"
        ),
        maps=tuple(btf.map_definition(name, number) for name, number in btf.variables(".maps")),
        config=tuple(
            Variable(name, offsets[name], btf.resolve(number)) for name, number in btf.variables(".rodata.config")
        ),
        structs=structs,
        enums=enums,
        nameless_sections=tuple(btf.nameless_sections()),
    )


def _try_struct(btf: Btf, name: str) -> Struct | None:
    """None for the kernel's own structures that hold something without a layout: no entry or event does."""
    try:
        return btf.struct(name)
    except LayoutMismatch:
        return None


def _order(image: bytes) -> str:
    if image[:5] != b"\x7fELF\x02":
        raise LayoutMismatch("not a 64-bit ELF object")
    return "<" if image[5] == 1 else ">"


def byte_order(image: bytes) -> str:
    """`little` or `big`."""
    return "little" if _order(image) == "<" else "big"


def _sections(image: bytes) -> list[_Section]:
    order = _order(image)
    (table,) = struct.unpack_from(order + "Q", image, 0x28)
    entry_size, count, names_at = struct.unpack_from(order + "HHH", image, 0x3A)
    headers = [struct.unpack_from(order + "IIQQQQIIQQ", image, table + index * entry_size) for index in range(count)]
    names = _contents(image, headers[names_at])
    return [
        _Section(_string(names, header[0]), header[1], header[2], _contents(image, header), header[6])
        for header in headers
    ]


def _contents(image: bytes, header: tuple[int, ...]) -> bytes:
    return image[header[4] : header[4] + header[5]]


def _string(table: bytes, offset: int) -> str:
    return table[offset : table.index(b"\0", offset)].decode() if table else ""


def _symbols(image: bytes, sections: list[_Section]) -> Iterator[_Symbol]:
    order = _order(image)
    for table in sections:
        if table.kind != _SHT_SYMTAB:
            continue
        names = sections[table.link].data
        for name, info, _, section, value, _ in struct.iter_unpack(order + "IBBHQQ", table.data):
            if name and section < len(sections):
                yield _Symbol(
                    _string(names, name),
                    sections[section].name,
                    value,
                    info & 15 == _STT_FUNC,
                    info >> 4 == _STB_GLOBAL,
                )
