"""The slices as the store has them, by what its watch said and by what this operator wrote.

The watch tells of our own writes too, some time after they were made. Until it has told of the last one of a slice,
what it says of that slice is older than what we know, and passed over. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pycilium.endpoint.slices import COMPLETE, Slice
from pycilium.model.resources import CiliumEndpointSlice
from pycilium.store import ResourceList, Unreadable, WatchEvent

_GONE: Final = ""


class KeptSlices:
    """Owns what is known; nothing before the first list."""

    def __init__(self) -> None:
        self.read = False
        self._resources: dict[str, CiliumEndpointSlice] = {}
        self._slices: dict[str, Slice] = {}
        self._unreadable: dict[str, None] = {}
        self._awaited: dict[str, str] = {}
        """Of slices that we wrote: the version that the watch has yet to tell of; _GONE: that it was deleted."""

    @property
    def slices(self) -> Mapping[str, Slice]:
        """By name, without the mark."""
        return self._slices

    @property
    def complete(self) -> bool:
        """Whether the mark is there."""
        return COMPLETE in self._resources

    @property
    def unreadable(self) -> tuple[str, ...]:
        """Slices that nobody can read: what is in them must go into others."""
        return tuple(self._unreadable)

    def resource(self, name: str) -> CiliumEndpointSlice | None:
        """What is to be named when the slice is written; its endpoints may be older ones."""
        return self._resources.get(name)

    def take_in(self, step: ResourceList[CiliumEndpointSlice] | WatchEvent[CiliumEndpointSlice] | Unreadable) -> None:
        """What the store said."""
        if isinstance(step, ResourceList):
            self._resources, self._slices, self._awaited, self.read = {}, {}, {}, True
            self._unreadable = {each.key.name: None for each in step.unreadable}
            for each in step.items:
                self._know(each, Slice.of(each))
        elif isinstance(step, Unreadable):
            self.deleted(step.key.name)
            self._unreadable[step.key.name] = None
        elif not self._is_old(step):
            if step.type == "DELETED":
                self._forget(step.object.metadata.name)
            else:
                self._know(step.object, Slice.of(step.object))

    def wrote(self, written: CiliumEndpointSlice, slice_: Slice) -> None:
        """We made or replaced one."""
        if written.metadata.resource_version != self._version_of(written.metadata.name):
            self._awaited[written.metadata.name] = written.metadata.resource_version
        self._know(written, slice_)

    def deleted(self, name: str) -> None:
        """We removed one."""
        if name in self._resources or name in self._unreadable:  # else the watch was quicker
            self._awaited[name] = _GONE
        self._forget(name)

    def _is_old(self, event: WatchEvent[CiliumEndpointSlice]) -> bool:
        name = event.object.metadata.name
        awaited = self._awaited.get(name)
        if awaited is None:
            return False
        told = _GONE if event.type == "DELETED" else event.object.metadata.resource_version
        if told == awaited:
            del self._awaited[name]
        return True

    def _know(self, resource: CiliumEndpointSlice, slice_: Slice) -> None:
        name = resource.metadata.name
        self._resources[name] = resource
        self._unreadable.pop(name, None)
        if name != COMPLETE:
            self._slices[name] = slice_

    def _forget(self, name: str) -> None:
        self._resources.pop(name, None)
        self._slices.pop(name, None)
        self._unreadable.pop(name, None)

    def _version_of(self, name: str) -> str:
        known = self._resources.get(name)
        return known.metadata.resource_version if known is not None else ""
