"""How long something has been as it is, by one observer's own clock. Decisions only.

A look that failed, or that came much later than it should have, hides what happened meanwhile: everything is then
observed from the beginning. So a store that was away never makes anything look old.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

LATE = 3
"""Looks that come later than so many intervals are no continuous observation."""


class Observation(Generic[K]):
    """Versions of things, looked at about every `interval_s`."""

    def __init__(self, interval_s: float) -> None:
        self._longest_gap_s = LATE * interval_s
        self._looked_s: float | None = None
        self._since: dict[K, tuple[Hashable, float]] = {}

    def interrupted(self) -> None:
        self._looked_s = None
        self._since.clear()

    def look(self, versions: Mapping[K, Hashable], now: float) -> Mapping[K, float]:
        """For how many seconds each has been seen at its present version."""
        if self._looked_s is not None and now - self._looked_s > self._longest_gap_s:
            self.interrupted()
        self._looked_s = now
        self._since = {
            key: known if (known := self._since.get(key)) is not None and known[0] == version else (version, now)
            for key, version in versions.items()
        }
        return {key: now - since for key, (_, since) in self._since.items()}
