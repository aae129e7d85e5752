"""How full the maps are that the programs fill, as they were found when last collected. Pure.

What stands in them gives way to nothing new, so who is told of is whoever comes when there is no room left; and what is
told before that is that it begins.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

NEARLY_FULL = 0.8

_CAPACITIES: Mapping[str, str] = {
    "ct": "conntrack_capacity",
    "nat": "nat_capacity",
    "service_flows": "service_flow_capacity",
}


class MapFill:
    """Owns what was counted."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self._sizes = sizes
        self.entries: dict[str, int] = {}
        self._refused = 0

    def note(self, name: str, alive: int) -> None:
        """So many entries of a map are in use."""
        self.entries[name] = alive

    def note_refused(self, connections: int) -> None:
        """So many packets that would have opened a connection found no room in conntrack since the last time."""
        self._refused = connections

    def problems(self) -> Iterator[str]:
        """Which maps are nearly full, what comes of it, and what to raise."""
        if self._refused:
            yield (
                f"{self._refused} packets of new connections were dropped (CT: Map insertion failed), for conntrack is "
                f"full: raise {_CAPACITIES['ct']}"
            )
        for name, alive in self.entries.items():
            size = self._sizes[name]
            if alive > NEARLY_FULL * size:
                field = _CAPACITIES[name.rstrip("46")]
                yield (
                    f"map {name} is nearly full ({alive} of {size}): "
                    f"new connections are dropped when it is: raise {field}"
                )
