"""A target in memory that can fail, for tests of what drives targets."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class TargetError(Exception):
    """Equal if the message is."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TargetError) and self.args == other.args

    __hash__ = Exception.__hash__


class FakeTarget(Generic[K, V]):
    """Implements Operations over a dictionary.

    `failing` keys fail; `applied_though_failing` keys fail after they were done, as when a process dies between the write
    and its report; `raising` makes every call raise after doing half of its work; `calls` is the trace.
    """

    def __init__(self, trace: list[str] | None = None, name: str = "") -> None:
        self.content: dict[K, V] = {}
        self.failing: set[K] = set()
        self.applied_though_failing: set[K] = set()
        self.raising = False
        self.calls: list[str] = trace if trace is not None else []
        self._name = f"{name} " if name else ""

    def update(self, entries: Mapping[K, V]) -> Mapping[K, Exception]:
        self.calls.append(f"{self._name}update {', '.join(f'{key}={value}' for key, value in entries.items())}")
        failures: dict[K, Exception] = {}
        for number, (key, value) in enumerate(entries.items()):
            if self.raising and number >= len(entries) // 2:
                raise TargetError("gone")
            if key not in self.failing or key in self.applied_though_failing:
                self.content[key] = value
            if key in self.failing:
                failures[key] = TargetError(f"{key} refused")
        return failures

    def delete(self, keys: Iterable[K]) -> Mapping[K, Exception]:
        keys = list(keys)
        self.calls.append(f"{self._name}delete {', '.join(map(str, keys))}")
        failures: dict[K, Exception] = {}
        for number, key in enumerate(keys):
            if self.raising and number >= len(keys) // 2:
                raise TargetError("gone")
            if key not in self.failing or key in self.applied_though_failing:
                self.content.pop(key, None)
            if key in self.failing:
                failures[key] = TargetError(f"{key} refused")
        return failures

    def dump(self) -> Iterable[tuple[K, V]]:
        for number, entry in enumerate(list(self.content.items())):
            if self.raising and number >= len(self.content) // 2:
                raise TargetError("gone")
            yield entry
        if self.raising:
            raise TargetError("gone")
