"""From object files to programs and maps in the kernel, pinned under one folder.

`load` is the agent's start: it opens every object, checks each structure against `layouts`, writes the
configuration into .rodata.config, takes over pinned maps that fit (`earlier_maps`) and has the programs verified. Only
when all of that has succeeded does it touch a pin, each exchanged by one rename: a failed load changes nothing, and a
program or map is never missing from its path.

    bpf_root/maps/<map>          shared by all objects that declare it
    bpf_root/programs/<program>  the newest; what is attached runs until `links` exchanges it
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from pycilium.datapath import bpf_syscall as bpf
from pycilium.datapath import bpffs, btf, layouts, libbpf
from pycilium.datapath.codec import MapSpec, MapType
from pycilium.datapath.earlier_maps import EarlierMaps
from pycilium.datapath.mapped_array import MappedArray
from pycilium.datapath.maps import Map, PerCpuArray
from pycilium.datapath.moved_maps import BEFORE, MovedMaps
from pycilium.errors import ConfigError, DatapathError, LayoutMismatch

K = TypeVar("K")
V = TypeVar("V")

OBJECTS = Path(__file__).parent / "objects"
_SUFFIX = ".bpf.o"


@dataclass(frozen=True, slots=True)
class DatapathConfig:
    """What the programs are loaded with. `map_entries` replaces sizes by map name (the ring buffer's in bytes)."""

    bpf_root: str
    constants: layouts.ProgramConfig = field(default_factory=layouts.ProgramConfig)
    map_entries: Mapping[str, int] = field(default_factory=dict)

    @property
    def maps_folder(self) -> Path:
        return Path(self.bpf_root) / "maps"

    @property
    def programs_folder(self) -> Path:
        return Path(self.bpf_root) / "programs"


@dataclass(frozen=True, slots=True)
class Program:
    """A verified program; `fd` belongs to the Datapath that gave it."""

    name: str
    fd: int

    def info(self) -> bpf.ProgramInfo:
        return bpf.program_info(self.fd)

    def test_run(self, data: bytes, *, context: bytes = b"", repeat: int = 1) -> bpf.TestRunResult:
        """Run it on one packet, attached to nothing."""
        return bpf.program_test_run(self.fd, data, context=context, repeat=repeat)


class Datapath:
    """Programs and maps that are in the kernel. A context manager: closing gives up descriptors, not pins."""

    def __init__(self, programs: dict[str, Program], map_fds: dict[str, int], moved: MovedMaps) -> None:
        self.programs, self._map_fds = programs, map_fds
        self.moved = moved
        """Maps in whose place others are now, for who exchanges the programs."""

    def map(self, spec: MapSpec[K, V]) -> Map[K, V]:
        """A map with a descriptor of its own."""
        return Map(os.dup(self._fd(spec.name)), spec)

    def percpu(self, spec: MapSpec[int, V]) -> PerCpuArray[V]:
        return PerCpuArray(os.dup(self._fd(spec.name)), spec)

    def mapped(self, spec: MapSpec[int, V]) -> MappedArray[V]:
        """An array that was declared with BPF_F_MMAPABLE."""
        return MappedArray.of(self._fd(spec.name), spec)

    def map_fd(self, name: str) -> int:
        """The Datapath's own descriptor of a map."""
        return self._fd(name)

    def sizes(self) -> dict[str, int]:
        """Room of each map by name: entries, the ring buffer's in bytes."""
        return {name: bpf.map_info(fd).max_entries for name, fd in self._map_fds.items()}

    def _fd(self, name: str) -> int:
        try:
            return self._map_fds[name]
        except KeyError:
            raise DatapathError(f"no loaded program has a map {name}") from None

    def close(self) -> None:
        for fd in [*self._map_fds.values(), *(program.fd for program in self.programs.values())]:
            os.close(fd)
        self._map_fds, self.programs = {}, {}
        self.moved.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def load(config: DatapathConfig, objects: Path = OBJECTS) -> Datapath:
    """Load every object of the folder `objects` and pin what it gives; all or nothing.

    LayoutMismatch, VerifierRejected, MapFull (what the agent wrote does not fit the map's new size), ConfigError,
    PermissionRequired and DatapathError say what to do.
    """
    images = _images(objects)
    _check_sizes(config.map_entries)
    bpffs.ensure(config.bpf_root)
    for folder in (config.maps_folder, config.programs_folder):
        folder.mkdir(mode=0o700, exist_ok=True)
    with ExitStack() as stack:
        loading = _Loading(config, stack)
        for name, image in images.items():
            loading.open(name, image)
        loading.load()
        return loading.pin()


def open_pinned(bpf_root: str) -> Datapath:
    """The programs and maps of a running agent, for commands that look at them."""
    with ExitStack() as stack:
        folders = (Path(bpf_root) / "maps", Path(bpf_root) / "programs")
        fds: list[dict[str, int]] = []
        for folder in folders:
            if not folder.is_dir():
                raise DatapathError(f"{bpf_root}: no datapath is pinned there; is the agent running?")
            fds.append({path.name: bpf.object_get(str(path)) for path in folder.iterdir() if _shown(path)})
            for fd in fds[-1].values():
                stack.callback(os.close, fd)
        stack.pop_all()
    programs = {name: Program(name, fd) for name, fd in fds[1].items()}
    return Datapath(programs, fds[0], MovedMaps())


def _shown(path: Path) -> bool:
    return not path.name.startswith((_FRESH, BEFORE))


def _images(objects: Path) -> dict[str, bytes]:
    found = {path.name.removesuffix(_SUFFIX): path.read_bytes() for path in sorted(objects.glob(f"*{_SUFFIX}"))}
    if not found:
        raise DatapathError(f"{objects}: there are no compiled programs; run `make bpf`")
    return found


def _check_sizes(sizes: Mapping[str, int]) -> None:
    page = os.sysconf("SC_PAGE_SIZE")
    for name, size in sizes.items():
        if name not in layouts.MAPS:
            raise ConfigError(f"there is no map {name}; there are {', '.join(layouts.MAPS)}")
        if size < 1:
            raise ConfigError(f"map {name} cannot have a size of {size}")
        if layouts.MAPS[name].type == MapType.RINGBUF and (size & (size - 1) or size < page):
            raise ConfigError(f"map {name}: {size} bytes; it must be a power of two, {page} or more")


_FRESH = "new-"  # pins on their way to their name; bpffs refuses names with dots


class _Loading:
    """One run of `load`: what is opened, taken over and made, in order."""

    def __init__(self, config: DatapathConfig, stack: ExitStack) -> None:
        self._config, self._stack = config, stack
        self._objects: list[libbpf.Object] = []
        self._fds: dict[str, int] = {}
        self._earlier = EarlierMaps(config.maps_folder, stack)

    def open(self, name: str, image: bytes) -> None:
        declared = btf.read_object(image)
        check_layouts(name, declared)
        opened = self._stack.enter_context(libbpf.Object(name, image))
        self._objects.append(opened)
        definitions = {definition.name: definition for definition in declared.maps}
        for found in opened.maps():
            if found.internal:
                if found.name == ".rodata.config":
                    self._configure(found, declared)
                continue
            found.never_pin()
            if found.name in self._config.map_entries:
                found.resize(self._config.map_entries[found.name])
            self._earlier.look(found, definitions[found.name])

    def _configure(self, section: libbpf.Map, declared: btf.ObjectFile) -> None:
        for variable in declared.config:
            constant = layouts.CONFIG[variable.name]
            value = getattr(self._config.constants, constant.attribute)
            try:
                section.write_initial(variable.offset, constant.encode(value))
            except (ValueError, OverflowError) as error:
                raise ConfigError(f"{constant.attribute} = {value!r}: {error}") from error

    def load(self) -> None:
        """Each map is made by the first object that has it; the others, and later objects, share it.

        The first object of a map must therefore be loaded before the next that has it: objects are loaded in
        parallel only once every shared map exists.
        """
        self._fds = self._earlier.kept()
        waiting = []
        for opened in self._objects:
            if self._take_maps(opened):
                opened.load()
                self._keep_maps(opened)
            else:
                waiting.append(opened)
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            list(pool.map(libbpf.Object.load, waiting))

    def _take_maps(self, opened: libbpf.Object) -> bool:
        """Give the object the maps that exist; whether it declares one that does not."""
        lacking = False
        for found in opened.maps():
            if found.internal:
                continue
            if found.name in self._fds:
                found.reuse(self._fds[found.name])
            else:
                lacking = True
        return lacking

    def _keep_maps(self, opened: libbpf.Object) -> None:
        for found in opened.maps():
            if not found.internal:
                self._fds.setdefault(found.name, found.fd)

    def pin(self) -> Datapath:
        moved, kept = self._earlier.moved(self._fds), self._earlier.kept()
        programs = {program.name: program for opened in self._objects for program in opened.programs()}
        places = list(moved.old_pins.items())
        places += [(self._config.maps_folder / name, fd) for name, fd in self._fds.items() if name not in kept]
        places += [(self._config.programs_folder / name, program.fd) for name, program in programs.items()]
        replace_pins(places)
        remove_pins(set(self._config.maps_folder.iterdir()), {*self._fds, *(path.name for path in moved.old_pins)})
        remove_pins(set(self._config.programs_folder.iterdir()), programs)
        return Datapath(
            {name: Program(name, os.dup(program.fd)) for name, program in programs.items()},
            {name: os.dup(fd) for name, fd in self._fds.items()},
            moved.with_own_descriptors(),
        )


def check_layouts(name: str, declared: btf.ObjectFile) -> None:
    """LayoutMismatch unless every structure, enum, map and variable of the object is as `layouts` has it."""
    for struct_name, found in declared.structs.items():
        expected = layouts.STRUCTS.get(struct_name)
        if expected is not None and found.signature != expected:
            raise LayoutMismatch(f"{name}{_SUFFIX}: struct {struct_name} is {found.signature}; expected {expected}")
    for enum_name, enum in declared.enums.items():
        if enum_name in layouts.ENUMS:
            _check_enum(name, enum)
    for definition in declared.maps:
        _check_map(name, definition)
    for variable in declared.config:
        constant = layouts.CONFIG.get(variable.name)
        if constant is None or constant.signature != variable.type.signature:
            raise LayoutMismatch(f"{name}{_SUFFIX}: variable {variable.name} is not as layouts.py has it{_HINT}")


_HINT = "; run tools/gen_layouts.py"


def _check_enum(name: str, enum: btf.Enum) -> None:
    expected = {int(member) for member in layouts.ENUMS[enum.name].__members__.values()}
    if {value for _, value in enum.values} != expected:
        raise LayoutMismatch(f"{name}{_SUFFIX}: enum {enum.name} has other values than layouts.py{_HINT}")


def _check_map(name: str, definition: btf.MapDefinition) -> None:
    spec: MapSpec[Any, Any] | None = layouts.MAPS.get(definition.name)
    if spec is None or spec.type != definition.attributes.get("type"):
        raise LayoutMismatch(f"{name}{_SUFFIX}: map {definition.name} is not as layouts.py has it{_HINT}")
    for side, codec in ((definition.key, spec.key), (definition.value, spec.value)):
        if side is not None and side.signature != codec.signature:
            raise LayoutMismatch(f"{name}{_SUFFIX}: map {definition.name} holds {side.signature}{_HINT}")


def replace_pins(places: Iterable[tuple[Path, int]]) -> None:
    """Pin each descriptor at its path, in place of what is there; the path is never empty in between."""
    for path, fd in places:
        fresh = path.with_name(_FRESH + path.name)
        with suppress(FileNotFoundError):
            fresh.unlink()
        try:
            bpf.object_pin(fd, str(fresh))
            fresh.rename(path)
        except OSError as error:
            raise DatapathError(f"{path}: cannot be pinned: {error.strerror}") from error


def remove_pins(present: set[Path], wanted: Iterable[str]) -> None:
    """Drop the pins that this version no longer has."""
    keep = set(wanted)
    for path in present:
        if path.name not in keep:
            path.unlink(missing_ok=True)
