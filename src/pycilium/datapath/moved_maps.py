"""Entries that go along when a map is made anew, while programs still write into the one before.

    load        all that the old map holds is copied; the old map is pinned beside the new one
    exchange    programs are exchanged: right before it, what was written meanwhile is copied, and right after it, what
                the last of the old programs wrote
    done        the old map's pin is removed; it goes with the last program that has it

An agent that ends in between leaves the old map's pin, and the next one goes on from there. Once programs have the new
map, of two entries with one key the one that was used later stays: copying again changes nothing that is newer.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from pycilium.datapath import layouts
from pycilium.datapath.maps import Columns, RawMap, rows_of

BEFORE = "before-"
"""Begins the name of the old map's pin."""
_USED = ("expires_s", "used_s")
"""Fields of values that say when an entry was used last."""


@dataclass(frozen=True, slots=True)
class Lost:
    """Entries that could not go along."""

    name: str
    entries: int
    why: str

    def __str__(self) -> str:
        return f"map {self.name} was made anew without {self.entries} of its entries: {self.why}"


@dataclass(slots=True)
class MovedMap:
    """One map and the one in its place. `fresh`: no program has the new one yet."""

    name: str
    old: RawMap
    new: RawMap
    fresh: bool

    def carry(self) -> int:
        """Make the new map have what the old one has; how many entries found no room."""
        if self.fresh:
            self._remove_what_is_gone()
            return sum(len(self.new.update_rows(keys, values)) for keys, values in self._chunks())
        known, used = _index(self.new, self._used)
        without_room = 0
        for keys, values in self._chunks():
            wanted = _newer(_words(keys), self._used(values), known, used)
            without_room += len(self.new.update_rows(keys[wanted], values[wanted]))
        return without_room

    def close(self) -> None:
        self.old.close()
        self.new.close()

    def _remove_what_is_gone(self) -> None:
        before = {key for keys, _ in self.new.chunks() for key in rows_of(keys)}
        if before and not self.new.array:
            for keys, _ in self.old.chunks():
                before.difference_update(rows_of(keys))
            self.new.delete_batch(list(before))

    def _chunks(self) -> Iterator[tuple[Columns, Columns]]:
        """What was used last comes first where not all may find room."""
        chunks = self.old.chunks()
        if self.new.max_entries >= self.old.max_entries or self.old.array:
            yield from chunks
            return
        for keys, values in _together(chunks):
            used = self._used(values)
            order = slice(None) if used is None else np.argsort(-used, kind="stable")
            yield keys[order], values[order]

    def _used(self, values: npt.NDArray[Any]) -> npt.NDArray[np.int64] | None:
        """When each was used last; None where values do not say."""
        dtype = layouts.MAPS[self.name].value.dtype
        field = next((field for field in _USED if field in (dtype.names or ())), None)
        if field is None:
            return None
        structured: npt.NDArray[Any] = np.ascontiguousarray(values).view(dtype).reshape(-1)
        return cast("npt.NDArray[np.int64]", structured[field].astype(np.int64))


class MovedMaps:
    """All of one start. Owns the pins of old maps."""

    def __init__(self, folder: Path | None = None, maps: Iterable[MovedMap] = (), lost: Iterable[Lost] = ()) -> None:
        self._folder, self._maps = folder, list(maps)
        self.lost = tuple(lost)
        """What did not go along."""

    @property
    def under_way(self) -> bool:
        """Whether attached programs may still have maps from before."""
        return bool(self._maps)

    @property
    def old_pins(self) -> dict[Path, int]:
        """Where the old maps are to be pinned, with their descriptors."""
        folder = self._folder or Path()
        return {folder / f"{BEFORE}{each.name}": each.old.fd for each in self._maps}

    def with_own_descriptors(self) -> MovedMaps:
        """The same until `follow_up` or `close`, whatever becomes of the descriptors that these were made of."""
        maps = [MovedMap(each.name, _again(each.old), _again(each.new), each.fresh) for each in self._maps]
        return MovedMaps(self._folder, maps, self.lost)

    def catch_up(self) -> None:
        """To be called right before programs are exchanged."""
        for each in self._maps:
            each.carry()

    def follow_up(self, *, done: bool) -> None:
        """To be called right after it; `done`: no program has an old map any more."""
        for each in self._maps:
            each.fresh = False
            each.carry()
        if done:
            pins = list(self.old_pins)
            self.close()
            for path in pins:
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Give up descriptors, not pins."""
        for each in self._maps:
            each.close()
        self._maps = []


def _again(of: RawMap) -> RawMap:
    return RawMap(os.dup(of.fd), of.name)


def _together(chunks: Iterable[tuple[Columns, Columns]]) -> Iterator[tuple[Any, Any]]:
    parts = list(chunks)
    if parts:
        yield np.concatenate([keys for keys, _ in parts]), np.concatenate([values for _, values in parts])


def _index(of: RawMap, used: Any) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64] | None]:
    """The keys of a map, sorted, and when each was used last."""
    for keys, values in _together(of.chunks()):
        words, times = _words(keys), used(values)
        order = np.argsort(words)
        return words[order], None if times is None else times[order]
    return np.empty(0, f"S{of.key_size}"), None


def _newer(
    keys: npt.NDArray[Any],
    used: npt.NDArray[np.int64] | None,
    known: npt.NDArray[Any],
    known_used: npt.NDArray[np.int64] | None,
) -> npt.NDArray[np.bool_]:
    """Which keys are not known, or were used later than is known."""
    at = np.minimum(np.searchsorted(known, keys), max(len(known) - 1, 0))
    if not len(known):
        return np.ones(len(keys), bool)
    wanted: npt.NDArray[np.bool_] = known[at] != keys
    if used is not None and known_used is not None:
        wanted |= used > known_used[at]
    return wanted


def _words(rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Rows of equal length as values that compare like their bytes: zeros at the end make no difference to them."""
    words: npt.NDArray[Any] = np.ascontiguousarray(rows).view(f"S{rows.shape[1]}").reshape(-1)
    return words
