"""How full the maps are that the programs fill, as they were found when last collected. Pure.

They are never too full for new connections: the entry used longest ago gives way. So nothing fails that could be told
of, and what is told of is that this begins.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

NEARLY_FULL = 0.8
"""The kernel takes entries from their CPUs' own lists, and lets go of old ones before the last is used."""

_TOLD: Mapping[str, tuple[str, str]] = {
    "ct": ("connections are judged anew", "conntrack_capacity"),
    "nat": ("masqueraded connections break", "nat_capacity"),
    "service_flows": ("connections to Services may change their backend", "service_flow_capacity"),
}


class MapFill:
    """Owns what was counted."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self._sizes = sizes
        self.entries: dict[str, int] = {}

    def note(self, name: str, alive: int) -> None:
        """So many entries of a map are in use."""
        self.entries[name] = alive

    def problems(self) -> Iterator[str]:
        """Which maps are nearly full, what comes of it, and what to raise."""
        for name, alive in self.entries.items():
            size = self._sizes[name]
            if alive > NEARLY_FULL * size:
                harm, field = _TOLD[name.rstrip("46")]
                yield f"map {name} is nearly full ({alive} of {size}): the oldest {harm} when it is: raise {field}"
