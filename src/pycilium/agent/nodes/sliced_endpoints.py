"""The endpoints of all pods, where the operator gathers them in slices: whom to believe, slices or CiliumEndpoints.

Slices are the truth while the mark `complete` stands among them, and CiliumEndpoints while it does not. Neither passes
to the other with a gap:

    no mark, CiliumEndpoints not read yet   what was known last
    no mark                                 what CiliumEndpoints say
    mark comes                              each endpoint on which the two differ as its CiliumEndpoint says, until
                                            they agree on it; all others as slices say
    mark, nothing left to hand over         what slices say, and CiliumEndpoints are not followed

Pure. What is known in the end follows from the last state of slices and CiliumEndpoints alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from pycilium.model.remote_endpoint import RemoteEndpoint
from pycilium.model.resources import ResourceKey

Known = Mapping[ResourceKey, RemoteEndpoint]


class SlicedEndpoints:
    """Owns what slices and CiliumEndpoints said, and what follows from both."""

    def __init__(self) -> None:
        self._slices: dict[str, Known] = {}
        self._names: dict[ResourceKey, tuple[str, ...]] = {}
        """Of the slices that each endpoint is in: one, but for what went wrong."""
        self._complete: bool | None = None
        """Whether the mark is there; None before slices have been read."""
        self._endpoints: dict[ResourceKey, RemoteEndpoint] | None = None
        """None while they are not read or not followed."""
        self._handing_over: set[ResourceKey] = set()
        self._shown: dict[ResourceKey, RemoteEndpoint] = {}
        self._touched: dict[ResourceKey, None] = {}

    @property
    def needs_endpoints(self) -> bool:
        """Whether CiliumEndpoints are to be followed."""
        return self._complete is False or bool(self._handing_over)

    @property
    def known(self) -> bool:
        """Whether there is a truth: false before either was read as it must be."""
        return bool(self._complete) or (self._complete is False and self._endpoints is not None)

    def slices_listed(self, slices: Mapping[str, Known], complete: bool, as_they_were: Collection[str] = ()) -> None:
        """All slices, without the mark; what is in some of them nobody can say."""
        for name in [name for name in self._slices if name not in slices and name not in as_they_were]:
            self._set_slice(name, {})
        for name, endpoints in slices.items():
            self._set_slice(name, endpoints)
        self._set_mark(complete)

    def slice_changed(self, name: str, endpoints: Known) -> None:
        """One slice is this now; empty when it is gone."""
        self._set_slice(name, endpoints)
        self._hand_over()

    def mark_changed(self, complete: bool) -> None:
        """The mark came or went."""
        self._set_mark(complete)

    def endpoints_listed(self, endpoints: Known, as_they_were: Collection[ResourceKey] = ()) -> None:
        """All CiliumEndpoints that have addresses; what some of them are nobody can say."""
        if not self.needs_endpoints:
            return
        before = self._endpoints or {}
        kept = self._shown if self._endpoints is None else before
        self._endpoints = {**{key: kept[key] for key in as_they_were if key in kept}, **endpoints}
        self._touch(before, endpoints, self._shown)
        self._hand_over()

    def endpoint_changed(self, key: ResourceKey, endpoint: RemoteEndpoint | None) -> None:
        """One CiliumEndpoint is this now."""
        if self._endpoints is None:
            return
        if endpoint is None:
            self._endpoints.pop(key, None)
        else:
            self._endpoints[key] = endpoint
        self._touch((key,))
        self._hand_over()

    def take_changed(self) -> Iterator[tuple[ResourceKey, RemoteEndpoint | None]]:
        """What is another than when this was asked last; None for what is gone. To be exhausted."""
        if not self.known:
            return
        touched, self._touched = self._touched, {}
        for key in touched:
            now = self._truth(key)
            if now is None:
                if self._shown.pop(key, None) is not None:
                    yield key, None
            elif self._shown.get(key) != now:
                self._shown[key] = now
                yield key, now

    def _truth(self, key: ResourceKey) -> RemoteEndpoint | None:
        if self._endpoints is not None and (not self._complete or key in self._handing_over):
            return self._endpoints.get(key)
        return self._sliced(key)

    def _sliced(self, key: ResourceKey) -> RemoteEndpoint | None:
        """Of one that is in two slices, the first by name: the one in which the operator leaves it."""
        names = self._names.get(key)
        return self._slices[min(names)][key] if names else None

    def _set_slice(self, name: str, endpoints: Known) -> None:
        before = self._slices.pop(name, {})
        if endpoints:
            self._slices[name] = endpoints
        for key in before:
            if key not in endpoints:
                left = tuple(each for each in self._names[key] if each != name)
                if left:
                    self._names[key] = left
                else:
                    del self._names[key]
                self._touch((key,))
        alone = (name,)
        for key, endpoint in endpoints.items():
            if key not in before:
                others = self._names.get(key)
                self._names[key] = (*others, name) if others else alone
            if before.get(key) != endpoint:
                self._touch((key,))

    def _set_mark(self, complete: bool) -> None:
        if complete != self._complete:
            self._complete = complete
            self._touch(self._shown, self._names, self._endpoints or ())
            if complete:
                self._handing_over = {
                    key
                    for key in {**self._names, **(self._endpoints or {})}
                    if self._endpoints is not None and not self._agree(key)
                }
            else:
                self._handing_over = set()
        self._hand_over()

    def _hand_over(self) -> None:
        """Let go of CiliumEndpoints as far as slices say the same."""
        if self._endpoints is None or not self._complete:
            return
        self._handing_over = {key for key in self._handing_over if not self._agree(key)}
        if not self._handing_over:
            self._touch(self._endpoints)
            self._endpoints = None

    def _agree(self, key: ResourceKey) -> bool:
        endpoint = self._endpoints.get(key) if self._endpoints is not None else None
        return _said(endpoint) == _said(self._sliced(key))

    def _touch(self, *keys: Iterable[ResourceKey]) -> None:
        for each in keys:
            self._touched.update(dict.fromkeys(each))


def _said(endpoint: RemoteEndpoint | None) -> object:
    """What slices say too."""
    return endpoint and (endpoint.addresses, endpoint.sec_identity, endpoint.node, endpoint.targets)
