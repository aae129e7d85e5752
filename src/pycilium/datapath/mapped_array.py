"""An array map (BPF_F_MMAPABLE) as memory: reads and writes are loads and stores, without system calls.

The array is what the programs see: a program may read a value while it is written, but never half of a field.
So write what nobody refers to yet, then refer to it. The memory stays mapped for as long as `values` is in use,
whatever becomes of the descriptor.
"""

from __future__ import annotations

import mmap
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from pycilium.datapath import bpf_syscall as bpf
from pycilium.datapath.codec import MapSpec
from pycilium.errors import DatapathError, LayoutMismatch

V = TypeVar("V")

_ALIGNMENT = 8
"""The kernel begins each value of an array at a multiple of this."""


class MappedArray(Generic[V]):
    """`values` is the map: a numpy array by index, structured where the map's values are. Any thread may use it."""

    def __init__(self, spec: MapSpec[int, V], buffer: mmap.mmap | bytearray, max_entries: int) -> None:
        """Over memory laid out as the kernel does; `of` and `in_memory` find or make it."""
        self.spec = spec
        self.max_entries = max_entries
        self.values: npt.NDArray[Any] = np.ndarray(
            shape=(max_entries,), dtype=spec.value.dtype, buffer=buffer, strides=(_stride(spec),)
        )

    @classmethod
    def of(cls, fd: int, spec: MapSpec[int, V]) -> MappedArray[V]:
        """The map behind `fd`, which stays the caller's. LayoutMismatch if it is not what `spec` says."""
        info = bpf.map_info(fd)
        if (info.type, info.value_size) != (spec.type, spec.value.size):
            raise LayoutMismatch(
                f"map {spec.name} in the kernel has type {info.type} and values of {info.value_size} bytes;"
                f" this version has type {int(spec.type)} and {spec.value.size}"
            )
        try:
            memory = mmap.mmap(fd, info.max_entries * _stride(spec), mmap.MAP_SHARED)
        except OSError as error:
            raise DatapathError(f"map {spec.name}: cannot be mapped into memory: {error.strerror}") from error
        return cls(spec, memory, info.max_entries)

    @classmethod
    def in_memory(cls, spec: MapSpec[int, V], max_entries: int | None = None) -> MappedArray[V]:
        """One that no program sees: for tests, and for what needs no kernel."""
        entries = max_entries or spec.max_entries
        return cls(spec, bytearray(entries * _stride(spec)), entries)

    @property
    def name(self) -> str:
        return self.spec.name

    def __repr__(self) -> str:
        return f"MappedArray({self.name}, {self.max_entries})"

    def read(self, index: int) -> V:
        """One value; zeros where nothing was written. IndexError past the end."""
        return self.spec.value.decode(self.values[index].tobytes())

    def write(self, index: int, value: V) -> None:
        """Not in one step: see the module. IndexError past the end."""
        self.values[index] = np.frombuffer(self.spec.value.encode(value), self.spec.value.dtype)[0]

    def present(self) -> npt.NDArray[np.intp]:
        """The indexes whose value is not all zero, in order."""
        return np.flatnonzero(self.values != np.zeros((), self.spec.value.dtype))


def _stride(spec: MapSpec[int, Any]) -> int:
    return -(-spec.value.size // _ALIGNMENT) * _ALIGNMENT
